"""A folder as its recorded changes made it, and as each kind of crash would leave it.

What is fsynced, and what is not, is kept for each file and each folder: contents become durable by fsync of the file,
names by fsync of the folder. It replays what `faults.c` wrote down; it touches no disk but to look at the start.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fault_laboratory.machine_faults import ChangeKind, MachineFaults

__all__ = ["Change", "RecordedDisk", "Snapshot", "apply_write", "read_changes", "replay", "take_snapshot"]

_HEAD: Final = struct.Struct("=IIIIQqQ")
"""struct record of faults.c."""


@dataclass(frozen=True)
class Change:
    """One change as faults.c wrote it down; `path` and `other` are below the root, without it."""

    kind: ChangeKind
    path: str
    other: str
    inode: int
    offset: int
    content: bytes


Snapshot = Sequence[tuple[str, int, bytes | None]]
"""Path, inode and content of each file of a folder, and of each folder (content None) before what is in it."""


def take_snapshot(root: Path) -> Snapshot:
    """What is in a folder now; links and SQLite's shared memory are left out."""
    found = sorted(
        path for path in root.rglob("*") if not path.is_symlink() and not path.name.endswith("-shm")
    )
    return [
        (str(path.relative_to(root)), path.stat().st_ino, None if path.is_dir() else path.read_bytes())
        for path in found
    ]


@dataclass
class _File:
    now: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def write(self, offset: int, content: bytes | None) -> None:
        self.pending.append((offset, content))
        apply_write(self.now, offset, content)

    def sync(self) -> None:
        self.durable, self.pending = bytes(self.now), []

    def some(self, draw: random.Random) -> bytes:
        content = bytearray(self.durable)
        for offset, part in self.pending:
            if draw.random() < 0.5:
                apply_write(content, offset, part)
        return bytes(content)


@dataclass
class _Folder:
    now: dict[str, _File | _Folder] = field(default_factory=dict)
    durable: dict[str, _File | _Folder] = field(default_factory=dict)


def apply_write(content: bytearray, offset: int, part: bytes | None) -> None:
    if part is None:
        del content[offset:]
        content.extend(bytes(offset - len(content)))
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(part)] = part


class RecordedDisk:
    """The folder while its changes are replayed.

    Args:
        start: what it held before the first of them, all of it on the disk.
    """

    def __init__(self, start: Snapshot = ()) -> None:
        self.root = _Folder()
        self.inodes: dict[int, _File] = {}
        for path, inode, content in start:
            folder, name = self.find(path)
            entry: _File | _Folder = _Folder()
            if content is not None:
                entry = self.inodes[inode] = _File(now=bytearray(content), durable=content)
            folder.now[name] = folder.durable[name] = entry

    def find(self, path: str) -> tuple[_Folder, str]:
        *parents, name = path.split("/")
        folder = self.root
        for parent in parents:
            inner = folder.now[parent]
            assert isinstance(inner, _Folder), path
            folder = inner
        return folder, name

    def replay(self, change: Change) -> None:
        if not change.path:
            if change.kind is ChangeKind.SYNC:
                self.root.durable = dict(self.root.now)
            return
        folder, name = self.find(change.path)
        match change.kind:
            case ChangeKind.CREATE:
                folder.now[name] = self.inodes[change.inode] = _File()
            case ChangeKind.MAKE_DIRECTORY:
                folder.now[name] = _Folder()
            case ChangeKind.WRITE:
                self.inodes[change.inode].write(change.offset, change.content)
            case ChangeKind.TRUNCATE:
                self.inodes[change.inode].write(change.offset, None)
            case ChangeKind.SYNC if isinstance(inner := folder.now.get(name), _Folder):
                inner.durable = dict(inner.now)
            case ChangeKind.SYNC:
                self.inodes[change.inode].sync()
            case ChangeKind.UNLINK | ChangeKind.REMOVE_DIRECTORY:
                del folder.now[name]
            case ChangeKind.LINK | ChangeKind.RENAME:
                to, new = self.find(change.other)
                to.now[new] = folder.now[name]
                if change.kind is ChangeKind.RENAME:
                    del folder.now[name]
            case ChangeKind.NOTE:
                raise AssertionError("a note changes nothing")

    def require_equal(self, root: Path, *, but: int = 0) -> None:
        """What was written down must be what was done; fails where something was written by a road that faults.c does not see.

        In `but` files it may differ: a process that was killed may have made a change and not have noted it.
        """
        files, _ = self.seen("killed", random.Random(0))
        real = {path: content for path, _, content in take_snapshot(root) if content is not None}
        different = {path for path in files.keys() | real.keys() if files.get(path) != real.get(path)}
        assert len(different) <= but, f"not recorded: {sorted(different)}"

    def seen(self, model: str, draw: random.Random) -> tuple[dict[str, bytes], list[str]]:
        """Files and folders as `model` leaves them."""
        files: dict[str, bytes] = {}
        folders: list[str] = []

        def walk(folder: _Folder, path: str) -> None:
            folders.append(path)
            is_now = model in {"killed", "names"} or (model == "some" and draw.random() < 0.5)
            for name, inner in sorted((folder.now if is_now else folder.durable).items()):
                below = f"{path}/{name}" if path else name
                if isinstance(inner, _Folder):
                    walk(inner, below)
                elif model == "some":
                    files[below] = inner.some(draw)
                else:
                    files[below] = bytes(inner.now) if model in {"killed", "data"} else inner.durable

        walk(self.root, "")
        return files, folders


def read_changes(faults: MachineFaults) -> list[Change]:
    """What was written down so far."""
    return list(_read(faults.trace.read_bytes(), str(faults.root)))


def replay(changes: Iterable[Change], start: Snapshot = ()) -> RecordedDisk:
    """The disk after all of them."""
    disk = RecordedDisk(start)
    for change in changes:
        if change.kind is not ChangeKind.NOTE:
            disk.replay(change)
    return disk


def _read(trace: bytes, root: str) -> Iterator[Change]:
    at = 0
    while at < len(trace):
        kind, path, other, _, inode, offset, length = _HEAD.unpack_from(trace, at)
        names, at = at + _HEAD.size, at + _HEAD.size + path + other
        carries = kind in {ChangeKind.WRITE, ChangeKind.NOTE}
        yield Change(
            kind=ChangeKind(kind),
            path=_below(trace[names : names + path].decode(), root),
            other=_below(trace[names + path : at].decode(), root),
            inode=inode,
            offset=offset,
            content=trace[at : at + length] if carries else b"",
        )
        at += length if carries else 0


def _below(path: str, root: str) -> str:
    """Without the root, and without what the kernel adds to the name of an open file that was removed."""
    return path.removesuffix(" (deleted)").removeprefix(root).lstrip("/")
