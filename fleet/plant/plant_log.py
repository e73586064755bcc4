"""The one log of a plant that is up: every process appends to the same file, which is cut off and kept in pieces.

The services write to it by themselves and not through us: so none of them ever waits for a supervisor, or loses its log with it. A
file that others append to cannot be given another name below them; its content is copied, and it begins anew.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final, TextIO

__all__ = ["MOST_BYTES", "PIECES", "PlantLog"]

MOST_BYTES: Final = 10 * 1024 * 1024
PIECES: Final = 5
"""Sixty megabytes in all: some days of a plant in trouble, years of a quiet one."""

_ERROR: Final = re.compile(r"\bError: |\[(error|critical) +\]|^fedge-\w+: ")
_LAST_BYTES: Final = 16 * 1024


class PlantLog:
    """``plant.log`` in a folder, and its former pieces ``plant.log.1`` (the newest) to ``.5``."""

    def __init__(self, folder: Path, *, most_bytes: int = MOST_BYTES) -> None:
        self.path = folder / "plant.log"
        self._most_bytes = most_bytes
        self._shown = 0

    def open(self) -> int:
        """A descriptor to append with; mode 0600: it names devices. The caller closes it."""
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def rotate(self) -> bool:
        """Begin anew where it has become long; returns whether it did."""
        try:
            if self.path.stat().st_size < self._most_bytes:
                return False
            for number in range(PIECES, 1, -1):
                with suppress(FileNotFoundError):
                    self._piece(number - 1).replace(self._piece(number))
            shutil.copy(self.path, self._piece(1))
            os.truncate(self.path, 0)
        except OSError:
            return False  # a disk that is full; the next look tries again
        return True

    def begin_here(self) -> None:
        """What was written so far is not shown."""
        with suppress(OSError):
            self._shown = self.path.stat().st_size

    def show(self, to: TextIO) -> None:
        """Write what is new since the last call; nobody who reads is no trouble."""
        with suppress(OSError), self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(self._shown if size >= self._shown else 0)
            content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            self._shown = file.tell() - len(content) + len(whole)
            if whole:
                to.write(whole.decode(errors="replace"))
                to.flush()

    def last_words(self, since: int) -> str:
        """What was said last after byte `since`: the last error that is named one, else the last line; empty where there is none."""
        with suppress(OSError), self.path.open("rb") as file:
            file.seek(max(since, os.fstat(file.fileno()).st_size - _LAST_BYTES))
            lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
            errors = [line for line in lines if _ERROR.search(line)]
            return next(reversed(errors or lines), "")
        return ""

    @property
    def size(self) -> int:
        """Bytes in it now."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def _piece(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")
