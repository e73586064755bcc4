"""What was learnt about other columns is set aside before anything opens it: kept for people, used by nobody.

A device whose source delivers other columns than yesterday (one more, two swapped, another sample rate) is another
device, as far as its scale, drift state and rows are concerned. Each of its files says by a fingerprint which columns
it is about; those that do not fit go to ``outdated/N`` with a sentence beside them, and commissioning begins anew.

A file without a fingerprint is one of a build that wrote none. It is used where its number of columns fits, and gets
its fingerprint with the next write: otherwise every update of the agent would blind a fleet for a commissioning.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from edge_agent.sample_buffer import fingerprint_of
from edge_agent.settings import StatePaths
from models.columns import describe_difference
from protocol.manifest import FeatureSpec
from runtime.durable_files import private_directory, read_bytes, write_durably
from runtime.errors import StorageError

__all__ = ["foreign_state", "preserve", "set_outdated_aside"]

log = logging.getLogger(__name__)

KEPT: Final = 2
"""How many such folders are kept: the mistake, and the one before. Each is bounded like the state itself."""


class _Stamp(Struct):
    """What every state file in JSON says about its columns, whatever else it holds."""

    fingerprint: str = ""
    columns: FeatureSpec | None = None
    mean: tuple[float, ...] | None = None


def set_outdated_aside(paths: StatePaths, columns: FeatureSpec) -> str:
    """Move away what is about other columns than the source's; call it before anything is opened.

    Returns:
        What happened, in one sentence for people; empty where everything fits.
    """
    foreign, difference = foreign_state(paths, columns)
    if not foreign:
        return ""
    names = ", ".join(path.name for path in foreign)
    told = f"the source's columns are not those of {names}: {difference}"
    try:
        folder = preserve(paths, foreign, told)
    except StorageError as error:
        # What cannot be moved is refused by whoever opens it, fingerprint by fingerprint.
        log.warning("state_outdated difference=%s kept=no error=%s", difference, error)
        return f"{told}; commissioning anew"
    log.warning("state_outdated difference=%s kept=%s", difference, folder)
    return f"{told}; kept in {folder.relative_to(paths.root)}, commissioning anew"


def foreign_state(paths: StatePaths, columns: FeatureSpec) -> tuple[list[Path], str]:
    """The files and folders that are about other columns, and how those differ; nothing is changed."""
    foreign: list[Path] = []
    difference = ""
    for path in (
        paths.standardiser,
        paths.commissioning_progress,
        paths.detection,
        paths.detector,
        paths.drift,
    ):
        stamp = _stamp(path)
        if stamp is None:
            continue
        if stamp.fingerprint and stamp.fingerprint != columns.fingerprint:
            foreign.append(path)
            if stamp.columns is not None:
                difference = difference or describe_difference(stamp.columns, columns)
        elif not stamp.fingerprint and stamp.mean is not None and len(stamp.mean) != len(columns.names):
            foreign.append(path)
            difference = f"{len(stamp.mean)} columns there, {len(columns.names)} here"
    fine = {None, "", columns.fingerprint}
    folders = (paths.buffer, paths.set_aside, paths.commissioning)
    foreign += [folder for folder in folders if fingerprint_of(folder) not in fine]
    return foreign, difference or "they have another fingerprint"


def preserve(paths: StatePaths, items: Sequence[Path], why: str) -> Path:
    """Move files and folders of the state to a folder of their own and say why; the oldest such folder goes.

    Raises:
        StorageError: the disk refuses; what was not moved lies where it was.
    """
    private_directory(paths.outdated)
    numbers = sorted(int(p.name) for p in paths.outdated.iterdir() if p.name.isdigit())
    folder = private_directory(paths.outdated / str((numbers or [0])[-1] + 1))
    try:
        for item in items:
            with contextlib.suppress(FileNotFoundError):
                item.rename(folder / item.name)
    except OSError as error:
        raise StorageError(f"cannot move {item} to {folder}: {error.strerror or error}") from None
    write_durably(folder / "why.txt", f"{why}\n".encode())
    for number in numbers[: max(0, len(numbers) + 1 - KEPT)]:
        shutil.rmtree(paths.outdated / str(number), ignore_errors=True)
    return folder


def _stamp(path: Path) -> _Stamp | None:
    try:
        content = read_bytes(path)
        return None if content is None else msgspec.json.decode(content, type=_Stamp)
    except (StorageError, msgspec.DecodeError, UnicodeDecodeError):
        return None  # whoever opens it tells of the damage
