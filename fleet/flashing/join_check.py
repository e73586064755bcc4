"""The join file that goes onto a device, and the source that it will watch: looked at before anything is written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import JoinFileError
from protocol.join_file import MOST_BYTES, JoinFile, is_sealed, open_join_file
from runtime.errors import SettingsError

__all__ = ["Source", "check_source", "numbered", "read_join_file", "read_join_files"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """What ``fedge-agent join --source`` is given: `word` as it was said; `file`: one that must come along."""

    word: str
    file: Path | None = None

    def on_device(self, folder: str) -> str:
        """The word as the device says it, once `file` lies in its `folder`."""
        return self.word if self.file is None else f"{folder}/{self.file.name}"


def check_source(word: str | None) -> Source:
    """Raises SettingsError for a source that no device can have."""
    if word is None:
        raise SettingsError(
            "say where the device's windows come from: --source /dev/ttyUSB0, opc.tcp://plc:4840?ns=2, plc.toml …"
        )
    path = Path(word)
    if path.is_file():
        if (
            path.suffix == ".join" or path.name == "join"
        ):  # names that the join file and what starts it have there
            raise SettingsError(
                f"--source {word!r:.80} is called like a join file, which --join takes; a source of that name needs another"
            )
        return Source(word=word, file=path)
    if "://" in word or word.startswith("/dev/") or (":" in word and "/" not in word):
        return Source(word=word)
    if word == "-":
        raise SettingsError(
            "--source -: an agent that starts by itself has no standard input; give a port or a pipe"
        )
    raise SettingsError(
        f"--source {word!r:.80} is neither a file here, nor a port (/dev/…), an address (://) or a module:function"
    )


def read_join_file(path: Path, *, now: float) -> JoinFile:
    """The content; raises SettingsError for a file that lets nobody in, or needs a passphrase."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise SettingsError(
            f"cannot read {path}: {error.strerror or error}; `fedge device add` makes it"
        ) from None
    if is_sealed(content):
        raise SettingsError(
            f"{path} is sealed, and nobody types its passphrase at a first boot: `fedge device add` without --seal"
        )
    try:
        join = open_join_file(content, None)
    except JoinFileError as error:
        raise SettingsError(f"{path}: {error}") from None
    if join.claim_ends_s < now:
        ended = time.strftime("%Y-%m-%d %H:%M", time.gmtime(join.claim_ends_s))
        raise SettingsError(
            f"{path} let {join.device} in until {ended} UTC: fedge device add {join.device}, and take the new file"
        )
    return join


def numbered(texts: Sequence[str], count: int | None, option: str) -> list[str]:
    """`texts`; or, for a `count`, the one that holds ``{}`` with each number from 1 in its place. Raises SettingsError."""
    if count is None:
        if wrong := next((text for text in texts if "{}" in text), None):
            raise SettingsError(f"{option} {wrong}: say with --count how many {{}} stands for")
        return list(texts)
    if count < 1 or count > 1000:
        raise SettingsError(f"--count {count} is not between 1 and 1000")
    if len(texts) != 1 or "{}" not in texts[0]:
        raise SettingsError(
            f"with --count, {option} is one word that holds {{}}, e.g. valve-{{}}.join; it becomes 1 to {count}"
        )
    return [texts[0].replace("{}", str(number)) for number in range(1, count + 1)]


def read_join_files(paths: Sequence[Path], *, now: float) -> list[JoinFile]:
    """One for each device; raises SettingsError where two of them are one device or one claim."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        names = " ".join(path.stem for path in missing[:3]) + (" …" if len(missing) > 3 else "")
        raise SettingsError(
            f"{len(missing)} join files are missing, the first is {missing[0]}: fedge device add {names}"
        )
    found = [read_join_file(path, now=now) for path in paths]
    seen: dict[str, Path] = {}
    for path, join in zip(paths, found, strict=True):
        for key in (f"device {join.device}", join.claim):
            if key in seen:
                raise SettingsError(
                    f"{path} is for {join.device}, as {seen[key]} is: each card needs a claim of its own"
                )
            seen[key] = path
    return found
