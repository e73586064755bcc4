"""An ext4 file system inside an image, read and written through debugfs; everything written belongs to root.

debugfs says on standard error what went wrong and ends with status 0 all the same. So every write is looked at again: owner, mode, size
and link of each entry, then the whole file system by e2fsck.
"""

from __future__ import annotations

import re
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from fleet.flashing.programs import FlashError, call

__all__ = ["Ext4Partition", "Planted"]

_MARGIN: Final = 1.03
"""What folders and block maps take beside the files."""
_UNSPEAKABLE: Final = re.compile(r'["\\\n]')


@dataclass(frozen=True, kw_only=True)
class Planted:
    """One file to be written: `source` holds its content, or `link` says where it leads. `mode`: permission bits alone."""

    path: str
    source: Path | None = None
    link: str | None = None
    mode: int = 0o644
    folder_mode: int = 0o755

    @property
    def size_bytes(self) -> int:
        """Of the content."""
        return self.source.stat().st_size if self.source is not None else len(self.link or "")


@dataclass(frozen=True, kw_only=True)
class _Seen:
    mode: int
    owner: tuple[int, int]
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Ext4Partition:
    """It begins at byte `offset` of the file `image`."""

    image: Path
    offset: int

    def read(self, path: str) -> bytes | None:
        """The content of a file, whose way holds no link; None where there is none."""
        done = call("debugfs", "-R", f'cat "{path}"', self._place)
        return None if _complaints(done.stderr) else done.stdout

    def names(self, folder: str) -> set[str]:
        """What lies in a folder; empty where there is none."""
        return set(self._listed([folder])[folder])

    def has(self, path: str) -> bool:
        """Whether there is something of that name."""
        return not _complaints(call("debugfs", "-R", f'stat "{path}"', self._place).stderr)

    def free(self) -> tuple[int, int]:
        """(bytes, files) that still fit."""
        said = call("debugfs", "-R", "show_super_stats -h", self._place).stdout.decode(errors="replace")
        numbers = {
            key: int(value) for key, value in re.findall(r"^([A-Z][a-z ]+):\s+(\d+)$", said, re.MULTILINE)
        }
        return numbers.get("Free blocks", 0) * numbers.get("Block size", 0), numbers.get("Free inodes", 0)

    def plant(self, files: Sequence[Planted]) -> None:
        """Write `files`, none of which is there, with the folders that they lie in; then look at each, and at the whole.

        Raises:
            FlashError: they do not fit (nothing was written), or the file system is not what it should be; it is of no use then.
        """
        needed = sum(-(-file.size_bytes // 4096) * 4096 for file in files) * _MARGIN
        free_bytes, free_files = self.free()
        folders = self._missing_folders(files)
        if needed > free_bytes or len(files) + len(folders) > free_files:
            raise FlashError(
                f"{self.image.name} has {free_bytes / 1e6:.0f} MB free in its root file system, and the agent needs {needed / 1e6:.0f} MB:"
                " take a base image with more room"
            )
        with tempfile.NamedTemporaryFile("w", prefix="fedge-debugfs-", suffix=".txt") as script:
            script.write("\n".join(_commands(files, folders)) + "\n")
            script.flush()
            done = call("debugfs", "-w", "-f", script.name, self._place)
        if complaints := _complaints(done.stderr):
            raise FlashError(f"debugfs could not write into {self.image.name}: {complaints[0][:200]}")
        self._look_at(files, folders)
        call("e2fsck", "-fn", self._place)

    def _missing_folders(self, files: Sequence[Planted]) -> dict[str, int]:
        """Folder → its mode, the outer ones first."""
        wanted: dict[str, int] = {}
        for file in files:
            for parent in reversed(PurePosixPath(file.path).parents):
                if str(parent) != "/":
                    wanted.setdefault(str(parent), 0o755)
            wanted[str(PurePosixPath(file.path).parent)] = file.folder_mode
        present: set[str] = set()
        for folder in sorted(wanted, key=lambda path: path.count("/")):
            above = str(PurePosixPath(folder).parent)
            if (above in present or above == "/") and self.has(folder):
                present.add(folder)
        missing = sorted(set(wanted) - present, key=lambda path: (path.count("/"), path))
        return {folder: wanted[folder] for folder in missing}

    def _look_at(self, files: Sequence[Planted], folders: Mapping[str, int]) -> None:
        wanted = {file.path: file for file in files}
        above = {str(PurePosixPath(path).parent) for path in (*wanted, *folders)}
        seen = {
            f"{folder.rstrip('/')}/{name}": entry
            for folder, entries in self._listed(sorted(above)).items()
            for name, entry in entries.items()
        }
        for path, file in wanted.items():
            kind = stat.S_IFLNK if file.link is not None else stat.S_IFREG
            mode = 0o777 if file.link is not None else file.mode
            self._compare(
                path, seen.get(path), _Seen(mode=kind | mode, owner=(0, 0), size_bytes=file.size_bytes)
            )
        for path, mode in folders.items():
            found = seen.get(path)
            size = found.size_bytes if found else 0
            self._compare(path, found, _Seen(mode=stat.S_IFDIR | mode, owner=(0, 0), size_bytes=size))

    def _compare(self, path: str, found: _Seen | None, wanted: _Seen) -> None:
        if found != wanted:
            raise FlashError(f"{path} in {self.image.name} is {found}, not {wanted}: the image is of no use")

    def _listed(self, folders: Sequence[str]) -> dict[str, dict[str, _Seen]]:
        """Folder → name → what debugfs says of it."""
        with tempfile.NamedTemporaryFile("w", prefix="fedge-debugfs-", suffix=".txt") as script:
            script.write("".join(f'ls -p "{folder}"\n' for folder in folders))
            script.flush()
            said = call("debugfs", "-f", script.name, self._place).stdout.decode(errors="replace")
        found: dict[str, dict[str, _Seen]] = {folder: {} for folder in folders}
        entries: dict[str, _Seen] = {}
        for line in said.splitlines():
            if line.startswith('debugfs: ls -p "'):
                entries = found[line.removeprefix('debugfs: ls -p "').rstrip('"')]
            elif len(parts := line.split("/")) == 8 and parts[5] not in {".", ".."}:
                size = int(parts[6]) if parts[6] else 0
                owner = (int(parts[3]), int(parts[4]))
                entries[parts[5]] = _Seen(mode=int(parts[2], 8), owner=owner, size_bytes=size)
        return found

    @property
    def _place(self) -> str:
        return f"{self.image}?offset={self.offset}"


def _commands(files: Sequence[Planted], folders: Mapping[str, int]) -> Iterator[str]:
    for path, mode in folders.items():
        yield from _inside(path, f'mkdir "{PurePosixPath(path).name}"', stat.S_IFDIR | mode)
    for file in files:
        name = PurePosixPath(file.path).name
        if file.link is not None:
            yield from _inside(file.path, f'symlink "{name}" "{file.link}"', stat.S_IFLNK | 0o777)
        else:
            yield from _inside(file.path, f'write "{file.source}" "{name}"', stat.S_IFREG | file.mode)


def _inside(path: str, command: str, mode: int) -> Iterator[str]:
    if _UNSPEAKABLE.search(path):
        raise FlashError(f"{path!r} has a name that cannot be written into an image")
    place = PurePosixPath(path)
    yield f'cd "{place.parent}"'
    yield command
    yield f'sif "{place.name}" mode 0{mode:o}'
    yield f'sif "{place.name}" uid 0'
    yield f'sif "{place.name}" gid 0'


def _complaints(stderr: bytes) -> list[str]:
    """What debugfs says on standard error, but for its name and version."""
    lines = stderr.decode(errors="replace").splitlines()
    return [line for line in lines if line.strip() and not re.match(r"debugfs \d", line)]
