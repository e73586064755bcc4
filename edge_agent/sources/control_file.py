"""The world's hand on a source: a small JSON file that a simulation replaces atomically.

Read again whenever its modification time, size or inode changes. A file that is absent means nothing to say; one that
does not parse is logged once, in one line, and the last good content stays in force.
"""

from __future__ import annotations

import logging
import stat
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

__all__ = ["ControlFile"]

_logger = logging.getLogger(__name__)
_MAX_BYTES = 64 * 1024
"""A longer file is cut and so refused as malformed; the largest order takes some 100 bytes."""

T = TypeVar("T")


class ControlFile(Generic[T]):
    """Watches one file for content of one type.

    Args:
        path: the file; it need not exist yet.
        content: the msgspec type it holds.
    """

    def __init__(self, path: Path, content: type[T]) -> None:
        self._path = path
        self._decoder = msgspec.json.Decoder(content)
        self._seen: tuple[int, int, int] | None = None

    def poll(self) -> T | None:
        """The content, if it is new since the last call and valid; else None."""
        try:
            found = self._path.stat()
            version = (found.st_mtime_ns, found.st_size, found.st_ino)
            if version == self._seen or not stat.S_ISREG(found.st_mode):
                return None  # a pipe would have the agent wait for a writer
            with self._path.open("rb") as file:
                raw = file.read(_MAX_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            _logger.warning("control_file_unreadable path=%s reason=%s", self._path, error.strerror)
            return None
        self._seen = version
        try:
            return self._decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeError) as error:
            _logger.warning(
                "control_file_refused path=%s reason=%s; the last good one stays", self._path, error
            )
            return None
