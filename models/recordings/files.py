"""Opens a file that is said to be a recording: a regular, readable one, and of no format that only looks like ours.

A pipe or a device would block whoever reads it, a folder has no content; both are said before anything is opened.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from models.errors import RecordingError

__all__ = ["foreign_format", "open_recording"]

_FORMATS: Final = (
    (b"PK\x03\x04", "a zip archive (NPZ, or a workbook of a spreadsheet)"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x93NUMPY", "a single NumPy array (.npy)"),
    (b"\xff\xfe", "text in UTF-16"),
    (b"\xfe\xff", "text in UTF-16"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"\xd0\xcf\x11\xe0", "a workbook of an old spreadsheet"),
    (b"\x89HDF", "an HDF5 file"),
    (b"PAR1", "a Parquet file"),
    (b"MATLAB", "a MATLAB file"),
    (b"\x80", "a Python pickle"),
)


def foreign_format(head: bytes) -> str | None:
    """What a file that begins with `head` is, where that is a format we know by its first bytes."""
    return next((name for magic, name in _FORMATS if head.startswith(magic)), None)


@contextmanager
def open_recording(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """The file, opened for reading, and its size in bytes (at least 1).

    Raises:
        RecordingError: no such file, none that may be read, no regular file, or an empty one; also where reading it fails later.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise RecordingError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # a path with a NUL byte in it
        raise RecordingError(f"{str(path)!r} cannot be read: {error}") from None
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise RecordingError(f"{path} is {what}; a recording is a .csv or .npz file")
    if not found.st_size:
        raise RecordingError(f"{path} is empty: it has 0 bytes")
    try:
        with path.open("rb") as file:
            yield file, found.st_size
    except OSError as error:
        raise RecordingError(f"{path} cannot be read: {error.strerror or error}") from None
