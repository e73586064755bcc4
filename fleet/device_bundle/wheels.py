"""The wheels of a device: exactly the files that ``agent-requirements.txt`` locks, chosen for one board, each checked by its hash.

::

    agent-requirements.txt ─► its lines that this board needs ─► pip download --no-deps --require-hashes ─► wheels, checked again here

The list is `fleet.plant.agent_requirements`'s; here nothing is resolved and no version is chosen. pip fetches, as it is configured on
this machine, for a board that is not this machine; it judges markers by itself, so these are judged before.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from typing import Final

from fleet.device_bundle.boards import Board
from fleet.plant.agent_requirements import RequirementsError
from runtime.errors import SettingsError

__all__ = ["Wheel", "fetch_wheels", "locked_lines"]

_PATIENCE_S: Final = 1800.0
_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """One file as it was fetched; `sha256` is of the file, in hexadecimal."""

    path: Path
    sha256: str
    metadata: Message

    @property
    def name(self) -> str:
        """As an index spells it: lower case, with hyphens (PEP 503)."""
        return re.sub(r"[-_.]+", "-", str(self.metadata["Name"])).lower()

    @property
    def version(self) -> str:
        """Of the package."""
        return str(self.metadata["Version"])

    def files(self) -> Iterator[tuple[str, bytes]]:
        """(path below site-packages, content) of what an installation would put there, without the wheel's own bookkeeping."""
        with zipfile.ZipFile(self.path) as archive:
            for item in sorted(archive.namelist()):
                name = item
                if (parts := item.split("/"))[0].endswith(".data"):
                    if parts[1] not in {"purelib", "platlib"}:  # scripts and headers
                        continue
                    name = "/".join(parts[2:])
                if name.endswith(("/", ".dist-info/RECORD")):
                    continue
                if name.startswith("/") or ".." in name.split("/"):
                    raise RequirementsError(
                        f"{self.path.name} holds {name!r:.80}, a path that leads out of it"
                    )
                yield name, archive.read(item)


def locked_lines(requirements: Path, board: Board) -> list[str]:
    """What the list asks this board to install, a line each, without markers.

    Raises:
        RequirementsError: the package `packaging` is missing, which comes with uv's bearer, the aggregator.
        SettingsError: there is no such list, or a line of it is none of ours.
    """
    try:
        from packaging.requirements import InvalidRequirement, Requirement  # of the aggregator, as uv is
    except ImportError:
        raise RequirementsError("a device bundle needs packaging: pip install packaging") from None
    try:
        text = requirements.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"cannot read {requirements}: {error}; `fedge device requirements` makes it"
        ) from None
    found = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        wanted, _, hashes = line.partition(" --hash=")
        if not _HASH.search(line):
            raise SettingsError(
                f"{requirements}: {line[:60]!r} has no hash; make the list with `fedge device requirements`"
            )
        if not wanted.startswith("./"):
            try:
                parsed = Requirement(wanted)
            except InvalidRequirement as error:
                raise SettingsError(f"{requirements}: {wanted[:60]!r} is no requirement: {error}") from None
            if parsed.marker is not None and not parsed.marker.evaluate(board.markers):
                continue
            wanted = f"{parsed.name}{parsed.specifier}"
        found.append(f"{wanted} --hash={hashes}")
    return found


def fetch_wheels(requirements: Path, board: Board, folder: Path) -> list[Wheel]:
    """Fetch what the list locks for `board` into `folder`; returns the wheels, sorted by name.

    Raises:
        RequirementsError: no network, no wheel for this board, or a file that is not the one that was locked; says which.
        SettingsError: the list cannot be used; see `locked_lines`.
    """
    lines = locked_lines(requirements, board)
    asked = folder / "locked.txt"
    asked.write_text("\n".join(lines) + "\n", encoding="utf-8")
    target = folder / "wheels"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
    ]
    command += ["--no-deps", "--require-hashes", "--only-binary=:all:", f"--python-version={board.python}"]
    command += [f"--platform={tag}" for tag in board.platforms]
    command += ["--dest", str(target), "-r", str(asked)]
    try:
        done = subprocess.run(
            command,
            cwd=requirements.absolute().parent,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RequirementsError(f"pip download: {error}") from None
    if done.returncode != 0:
        raise RequirementsError(_sentence(done.stderr, board))
    locked = set(_HASH.findall(asked.read_text(encoding="utf-8")))
    wheels = [_read(path, locked) for path in sorted(target.glob("*.whl"))]
    if len(wheels) != len(lines):
        raise RequirementsError(f"pip fetched {len(wheels)} files for {len(lines)} lines of {requirements}")
    return sorted(wheels, key=lambda wheel: wheel.name)


def _read(path: Path, locked: set[str]) -> Wheel:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha256 not in locked:
        raise RequirementsError(f"{path.name} has SHA-256 {sha256}, which the list does not name")
    try:
        with zipfile.ZipFile(path) as archive:
            inside = next(n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
            return Wheel(path=path, sha256=sha256, metadata=BytesParser().parsebytes(archive.read(inside)))
    except (zipfile.BadZipFile, StopIteration):
        raise RequirementsError(f"{path.name} is no wheel") from None


def _sentence(stderr: str, board: Board) -> str:
    lines = [line for line in stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
    said = " ".join(" ".join(lines).split())
    if "No module named pip" in said:
        return "fetching a device's wheels needs pip: python -m ensurepip"
    if "DO NOT MATCH THE HASHES" in said:
        return f"a file is not the one that was locked: {said[-300:]}"
    if match := re.search(r"No matching distribution found for ([\w.-]+==[\w.]+)", said):
        reached = (
            "" if "Failed to establish" in stderr or "Retrying" in stderr else f" has no wheel for {board},"
        )
        return f"{match[1]}{reached} or the package index cannot be reached: see `pip config list`"
    return f"pip download: {said[-300:]}"
