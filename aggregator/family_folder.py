"""The families of an aggregator: those of aggregator.toml, and those of ``families_dir``, a file each, taken while it runs.

::

    families/valve.toml ──┐ read again when it changed
    families/pump.toml ───┼─► Families (name → settings) ─► scheduler, coordinator, privacy accounts
    [[family]] ───────────┘        └─► problems: file → one sentence; what it held last stays in force

A file is one family: the keys of a ``[[family]]`` at its top, and what its first release is made of. A file that cannot be used
takes nothing from the others. Another thread may read while one refreshes.
"""

from __future__ import annotations

import threading
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta

from aggregator.central_training import TrainingSection
from aggregator.family_file import FamilySpec, FeaturesSection, ModelSection
from aggregator.privacy.settings import FamilyBudget
from aggregator.rounds.family import FamilySettings
from protocol.names import FamilyName
from runtime.errors import SettingsError
from runtime.key_paths import dotted
from runtime.settings import check_document, read_settings

__all__ = ["Budgets", "Families", "FamilyFile", "FirstRelease", "load_family"]

SUFFIX: Final = ".toml"

MOST_FAMILIES: Final = 1000
"""Of one folder: more is a wrong folder."""

Seen = tuple[int, int, int]
"""A file's inode, time of change (ns) and size: another one is another content."""


class FirstRelease(TrainingSection, frozen=True, kw_only=True):
    """``[first_release]``: how version 1 is trained from recordings; the keys of ``[training]`` of family.toml, and two more.

    commissioning_rows: the first rows of each recording fit that machine's own scale, as on a device.
    """

    commissioning_rows: Annotated[int, Meta(ge=2)] = 120
    seed: int = 0


class FamilyFile(FamilySettings, frozen=True, kw_only=True):
    """``families/NAME.toml``: how a family learns, as a ``[[family]]`` of aggregator.toml, and what its first release is made of.

    Raises:
        ValueError: tables that do not go together, or a model that does not take what the features deliver.
    """

    features: FeaturesSection | None = None
    model: ModelSection | None = None
    first_release: FirstRelease = FirstRelease()

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        super().__post_init__()
        if (self.features is None) != (self.model is None):
            raise ValueError(
                "[features] and [model] belong together: both say what the first release is made of; give both or neither"
            )
        if self.features is not None:
            self.spec()

    def spec(self) -> FamilySpec:
        """What `aggregator.initial_release` makes version 1 by; raises SettingsError where the file does not say."""
        if self.features is None or self.model is None:
            raise SettingsError(
                f"the file of family {self.name!r} has no [features] and [model]: add them, or move it away for a new one"
            )
        first = self.first_release
        training = TrainingSection(
            epochs=first.epochs, batch_size=first.batch_size, learning_rate=first.learning_rate
        )
        return FamilySpec(
            family=self.name,
            model=self.model,
            features=self.features,
            detector=self.detector,
            training=training,
            profile=self.training,
            threshold=self.threshold,
            int8=self.int8,
            commissioning_rows=first.commissioning_rows,
            seed=first.seed,
        )


def load_family(path: Path, *, text: str | None = None) -> FamilyFile:
    """Read one family's file, or the `text` that is to become it.

    Raises:
        SettingsError: it cannot be used; says file and line, key, and what would be valid.
    """
    found = read_settings(path, FamilyFile) if text is None else _family_of(path, text)
    if conflict := found.training.clip_conflict():
        raise SettingsError(f"{path}: training.{conflict}")
    if found.name != path.stem:
        raise SettingsError(
            f"{path}: name = {found.name!r}, and the file's name says {path.stem!r}: make them one"
        )
    return found


def _family_of(path: Path, text: str) -> FamilyFile:
    return check_document(tomllib.loads(text), FamilyFile, place=lambda key: f"{path}: {dotted(key)}")


class Families(Mapping[str, FamilySettings]):
    """Family → settings as they are in force now.

    Args:
        fixed: those of aggregator.toml.
        folder: where the others are; None: there are none. A folder that is not there yet is an empty one.

    Attributes:
        problems: file, or the folder → why it is not in force as it stands.
    """

    def __init__(self, fixed: Mapping[str, FamilySettings], folder: Path | None = None) -> None:
        self._fixed, self._folder = fixed, folder
        self._refreshing = threading.Lock()
        self._read: dict[Path, tuple[Seen, FamilySettings | None]] = {}
        self._families: dict[str, FamilySettings] = dict(fixed)
        self.problems: dict[Path, str] = {}
        self._unread = ""
        self.refresh()

    def refresh(self) -> None:
        """Read what is new or changed in the folder, and forget what is gone."""
        with self._refreshing:
            if self._folder is None:
                return
            found = self._list(self._folder)
            problems = {path: words for path, words in self.problems.items() if path in found}
            if self._unread:
                problems[self._folder] = self._unread
            read = {path: before for path, before in self._read.items() if path in found}
            for path, seen in found.items():
                before = read.get(path)
                if before is None or before[0] != seen:
                    read[path] = seen, self._load(path, problems) or (before and before[1]) or None
            families = {family.name: family for _, family in read.values() if family is not None}
            self._read, self.problems = read, problems
            self._families = families | dict(self._fixed)

    def __getitem__(self, name: str) -> FamilySettings:
        """The settings of a family; raises KeyError."""
        return self._families[name]

    def __iter__(self) -> Iterator[str]:
        """The names, as they are now."""
        return iter(self._families)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._families)

    def _list(self, folder: Path) -> dict[Path, Seen]:
        try:
            paths = sorted(path for path in folder.iterdir() if path.suffix == SUFFIX)[:MOST_FAMILIES]
            stats = {path: path.stat() for path in paths if path.is_file()}
        except FileNotFoundError:
            return {}  # not made yet, or a file that goes while we look: the next look sees what is there
        except OSError as error:
            # what it held stays in force; the next look may see more
            self._unread = f"families_dir {folder} cannot be read: {error.strerror or error}"
            return {path: seen for path, (seen, _) in self._read.items()}
        self._unread = ""
        return {path: (one.st_ino, one.st_mtime_ns, one.st_size) for path, one in stats.items()}

    def _load(self, path: Path, problems: dict[Path, str]) -> FamilySettings | None:
        problems.pop(path, None)
        try:
            family, problem = load_family(path), ""
        except SettingsError as error:
            family, problem = None, str(error)
        if family is not None and family.name in self._fixed:
            problem = f"{path}: family {family.name!r} is in aggregator.toml already; keep one of the two"
        if family is None or problem:
            problems[path] = problem
            return None
        return family


class Budgets(Mapping[FamilyName, FamilyBudget]):
    """Family → the limits of its privacy, of `families` as they are now."""

    def __init__(self, families: Mapping[str, FamilySettings]) -> None:
        self._families = families

    def __getitem__(self, name: FamilyName) -> FamilyBudget:
        """The limits of a family; raises KeyError."""
        return self._families[name].privacy.budget

    def __iter__(self) -> Iterator[FamilyName]:
        """The names, as they are now."""
        return map(FamilyName, self._families)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._families)
