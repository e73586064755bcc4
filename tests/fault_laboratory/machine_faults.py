"""A hand on the machine below a process: its disk refuses or delays, its wall clock steps, its changes are written down.

::

    faults = MachineFaults(tmp_path, root=tmp_path / "state")
    subprocess.Popen([...], env=faults.environment())
    faults.refuse(errno.ENOSPC); ...; faults.heal()
    faults.step_clock(-20 * 86_400)

`faults.c` does it, preloaded into the process: no privilege is needed, only a C compiler. The knobs are shared memory, so they
turn while the process runs.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import subprocess
import tempfile
from collections.abc import Iterable
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Final

__all__ = ["EVERYTHING", "ChangeKind", "MachineFaults", "note"]

SOURCE: Final = Path(__file__).with_name("faults.c")
FOR_EVER: Final = 2**62


class ChangeKind(IntEnum):
    """What a process does to a disk, as faults.c numbers it; a note is no change but a word of the process itself."""

    CREATE = 1
    WRITE = 2
    TRUNCATE = 3
    SYNC = 4
    RENAME = 5
    UNLINK = 6
    LINK = 7
    MAKE_DIRECTORY = 8
    REMOVE_DIRECTORY = 9
    NOTE = 10


EVERYTHING: Final = tuple(kind for kind in ChangeKind if kind is not ChangeKind.NOTE)
_NEEDS_ROOM: Final = (ChangeKind.CREATE, ChangeKind.WRITE, ChangeKind.MAKE_DIRECTORY, ChangeKind.LINK)


class _Control(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            "clock_offset_ns",
            "changes",
            "fail_from",
            "fail_until",
            "fail_errno",
            "fail_kinds",
            "failed",
            "kill_at",
            "delay_us",
        )
    )


class MachineFaults:
    """The knobs of one process, or of several that share a machine.

    Args:
        folder: where the control file and the trace lie; exists.
        root: the folder whose changes are refused, delayed and written down.
    """

    def __init__(self, folder: Path, *, root: Path) -> None:
        self.root, self.trace = root.resolve(), folder / "changes.trace"
        self._file = folder / "faults.control"
        if os.environ.get("FAULTS_CONTROL") != str(self._file):
            self._file.write_bytes(bytes(ctypes.sizeof(_Control)))
        with self._file.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 0)
        self._knobs = _Control.from_buffer(self._shared)
        self.heal()
        self._knobs.kill_at = -1

    @classmethod
    def of_this_process(cls) -> MachineFaults:
        """The knobs that this process was started with, in its own hand."""
        return cls(Path(os.environ["FAULTS_CONTROL"]).parent, root=Path(os.environ["FAULTS_ROOT"]))

    def environment(self, *, is_recorded: bool = False) -> dict[str, str]:
        """What a process must be started with, beside its own environment."""
        added = {
            "LD_PRELOAD": str(_library()),
            "FAULTS_ROOT": str(self.root),
            "FAULTS_CONTROL": str(self._file),
        }
        return {**os.environ, **added, **({"FAULTS_TRACE": str(self.trace)} if is_recorded else {})}

    @property
    def changes(self) -> int:
        """Changes that the process has tried so far."""
        return int(self._knobs.changes)

    @property
    def refused(self) -> int:
        """How many of them were refused."""
        return int(self._knobs.failed)

    def refuse(
        self,
        error: int,
        *,
        first: int | None = None,
        count: int = FOR_EVER,
        kinds: Iterable[ChangeKind] = EVERYTHING,
    ) -> None:
        """Let changes fail with `error` (errno): `count` of them from number `first` on, or from now on."""
        self.heal()
        begin = self.changes if first is None else first
        self._knobs.fail_errno = error
        self._knobs.fail_kinds = sum(1 << kind for kind in kinds)
        self._knobs.fail_until = begin + count
        self._knobs.fail_from = begin

    def fill(self) -> None:
        """No space is left: nothing can be made or grow; names can still be changed and removed."""
        import errno

        self.refuse(errno.ENOSPC, kinds=_NEEDS_ROOM)

    def heal(self) -> None:
        """The disk works again."""
        self._knobs.fail_from = self._knobs.fail_until = FOR_EVER

    def slow_down(self, seconds: float) -> None:
        """Each fsync takes this much longer."""
        self._knobs.delay_us = int(seconds * 1e6)

    def step_clock(self, seconds: float) -> None:
        """Let the wall's clock differ from the true one by `seconds`; the monotonic one goes on."""
        self._knobs.clock_offset_ns = int(seconds * 1e9)


def note(text: str) -> None:
    """Write a word between the recorded changes of this process: what it has promised so far. Nothing where none is recorded."""
    content = text.encode()
    if (tell := getattr(ctypes.CDLL(None), "faults_note", None)) is not None:
        tell(content, ctypes.c_size_t(len(content)))


@cache
def _library() -> Path:
    """faults.c, compiled once for each of its texts and users."""
    name = f"fedge-faults-{os.getuid()}-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}.so"
    library = Path(tempfile.gettempdir()) / name
    if not library.exists():
        made = library.with_suffix(f".{os.getpid()}")
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(made), str(SOURCE)], check=True)
        made.replace(library)
    return library
