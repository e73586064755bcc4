"""Every state in which a kill or a power cut can leave a folder: built from one recorded run, in seconds.

::

    a real program ──(faults.c)──► its changes, one by one ──► after each: what the disk may hold ──► opened by the real code

Instead of thousands of processes that die, one that lives: its changes are replayed in memory, and after each of them
the folder is what it would be in these worlds:

* ``killed``  all changes so far: the process was ended, the machine went on;
* ``cut``     the power went, and only what was fsynced is left: contents by fsync of the file, names by fsync of the folder;
* ``names``   the power went, names had reached the disk and contents had not (files of length 0 after a rename);
* ``data``    the other way round: contents had, names had not;
* ``torn``    as killed, but of the last write only the first half arrived;
* ``some``    of what was not fsynced, a random part (seeded by the boundary) is left.

States that hold the same files, and in which the program had promised the same (`note`), are looked at once. ``killed`` and
``cut`` are built after every change; the others too, or after every n-th where a test must be quick.

Source of the idea: T. S. Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014 (ALICE).
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from fault_laboratory.machine_faults import ChangeKind, MachineFaults
from fault_laboratory.recorded_disk import Change, RecordedDisk, Snapshot, apply_write, read_changes, replay

__all__ = ["CrashState", "Crashes", "record_crashes", "run_under_faults"]

ROOT: Final = Path(__file__).parents[2]
MODELS: Final = ("killed", "cut", "names", "data", "some")


@dataclass(frozen=True)
class CrashState:
    """What a crash after change number `boundary` leaves, and what the program had said by then."""

    boundary: int
    model: str
    told: tuple[str, ...]
    files: dict[str, bytes]
    folders: tuple[str, ...]

    @contextmanager
    def on_disk(self) -> Iterator[Path]:
        """The state as a folder of its own, gone afterwards; in memory where the machine has such a place."""
        memory = Path("/dev/shm")  # noqa: S108 - a private folder is made in it
        folder = Path(tempfile.mkdtemp(prefix="fedge-crash-", dir=memory if memory.is_dir() else None))
        try:
            for name in self.folders:
                (folder / name).mkdir(parents=True, exist_ok=True)
            for name, content in self.files.items():
                (folder / name).write_bytes(content)
            yield folder
        finally:
            shutil.rmtree(folder)

    def said(self, word: str) -> list[str]:
        """What the program had said by then after `word`."""
        return _after(word, self.told)

    def __str__(self) -> str:
        return f"{self.model} after change {self.boundary}"


class Crashes:
    """The boundaries of one recorded run; `states` gives what is to be looked at and counts it."""

    def __init__(self, name: str, changes: list[Change], start: Snapshot = ()) -> None:
        self.name, self.changes, self._start = name, changes, start
        self.boundaries = sum(change.kind is not ChangeKind.NOTE for change in changes)
        self.looked_at = 0
        self._but_for = ""

    def states(self, *, others_every: int = 1, but_for: str = "") -> Iterator[CrashState]:
        """Each different state once, in the order of the run, from the untouched folder on.

        Kills and cuts at every boundary; the other worlds at every `others_every`-th. States that differ only in files
        whose name contains `but_for` count as the same: what nobody reads back makes no difference.
        """
        self._but_for = but_for
        disk, told, seen = RecordedDisk(self._start), (), set[bytes]()
        number = 0
        for change in (None, *self.changes):
            if change is not None and change.kind is ChangeKind.NOTE:
                told = (*told, change.content.decode())
            elif change is not None:
                number += 1
                is_torn = change.kind is ChangeKind.WRITE and number % others_every == 0
                if is_torn and len(change.content) > 1:
                    half = change.content[: len(change.content) // 2]
                    torn = self._torn(disk, change, half)
                    yield from self._new(number, "torn", told, *torn, seen=seen)
                disk.replay(change)
            for model in MODELS if number % others_every == 0 else ("killed", "cut"):
                found = disk.seen(model, random.Random(number))
                yield from self._new(number, model, told, *found, seen=seen)

    def _torn(self, disk: RecordedDisk, change: Change, half: bytes) -> tuple[dict[str, bytes], list[str]]:
        files, folders = disk.seen("killed", random.Random(0))
        if change.path in files:
            content = bytearray(files[change.path])
            apply_write(content, change.offset, half)
            files[change.path] = bytes(content)
        return files, folders

    def _new(
        self,
        number: int,
        model: str,
        told: tuple[str, ...],
        files: dict[str, bytes],
        folders: list[str],
        *,
        seen: set[bytes],
    ) -> Iterator[CrashState]:
        digest = hashlib.blake2b(repr((len(told), sorted(folders))).encode())
        for name, content in files.items():
            if self._but_for and self._but_for in name:
                continue
            digest.update(b"%d %s %d " % (len(name), name.encode(), len(content)))
            digest.update(content)
        if digest.digest() not in seen:
            seen.add(digest.digest())
            self.looked_at += 1
            yield CrashState(number, model, told, files, tuple(folders))

    def told(self, word: str) -> list[str]:
        """All that the program said after `word` until its end."""
        notes = [change.content.decode() for change in self.changes if change.kind is ChangeKind.NOTE]
        return _after(word, notes)

    def show(self, capsys: pytest.CaptureFixture[str], *, at_least: int) -> None:
        """Print how many boundaries were tried; a number that shrinks would be a test that tries less than it says."""
        with capsys.disabled():
            print(
                f"\n{self.name}: {self.boundaries} write boundaries, {self.looked_at} different states",
                end=" ",
            )
        assert self.boundaries >= at_least


def record_crashes(folder: Path, program: Path, *arguments: str) -> Crashes:
    """Run ``python PROGRAM ROOT ARGUMENTS`` to its end in a new folder `folder`/root, and write down its changes."""
    faults, _ = run_under_faults(folder, program, *arguments, is_recorded=True)
    changes = read_changes(faults)
    replay(changes).require_equal(faults.root)
    return Crashes(" ".join([program.stem, *arguments]), changes)


def run_under_faults(
    folder: Path, program: Path, *arguments: str, is_recorded: bool = False
) -> tuple[MachineFaults, str]:
    """Run ``python PROGRAM ROOT ARGUMENTS`` to its end with the hand on its machine; returns that and what it printed."""
    root = folder / "root"
    root.mkdir()
    faults = MachineFaults(folder, root=root)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(program.parent)])
    done = subprocess.run(
        [sys.executable, str(program), str(root), *arguments],
        env={**faults.environment(is_recorded=is_recorded), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return faults, done.stdout


def _after(word: str, lines: Iterable[str]) -> list[str]:
    return [line.removeprefix(word).strip() for line in lines if line.split()[0] == word]
