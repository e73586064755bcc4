"""Files that are either wholly the old or wholly the new one, whatever happens to the power.

Temporary file in the same directory → fsync → rename → fsync of the directory. Not a database: one small file at a
time, last writer wins. A reader never sees a partly written file.

Source: POSIX rename(2) and fsync(2); T. S. Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from runtime.errors import StorageError

__all__ = [
    "fsync_directory",
    "private_directory",
    "read_bytes",
    "replace_file",
    "write_durably",
    "write_quickly",
]


def write_durably(path: Path, content: bytes, *, mode: int = 0o644, exclusive: bool = False) -> None:
    """Replace `path` by `content` so that it survives a power cut once this returns.

    Args:
        path: the file; its directory must exist.
        content: the whole new content.
        mode: permission bits from the first byte on, whatever the umask (0o600 for secrets).
        exclusive: never replace: of two that write at once one is refused.

    Raises:
        StorageError: the disk is full or read-only, the directory is missing, or the file exists and `exclusive` was
            asked for; the old file is untouched.
    """
    _write(path, content, mode=mode, is_durable=True, is_exclusive=exclusive)


def write_quickly(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` atomically but WITHOUT fsync: for files that are rewritten every second and may be lost.

    Raises:
        StorageError: as `write_durably`.
    """
    _write(path, content, mode=mode, is_durable=False)


def replace_file(finished: Path, path: Path) -> None:
    """Give an already fsynced file its final name, durably; both must lie on one file system.

    Raises:
        StorageError: the rename failed; `path` is untouched.
    """
    try:
        finished.replace(path)
        fsync_directory(path.parent)
    except OSError as error:
        raise StorageError(f"cannot rename {finished} to {path}: {error.strerror or error}") from None


def fsync_directory(directory: Path) -> None:
    """Make the names in `directory` durable; raises OSError like fsync(2)."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private_directory(path: Path) -> Path:
    """Create `path` (mode 0700, parents too) if it is missing, so that its name survives a power cut, and return it.

    Raises:
        StorageError: it cannot be made, or something else already has that name.
    """
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(missing):  # `parents=True` would make those above as open as the umask lets
            folder.mkdir(mode=0o700, exist_ok=True)
        path.mkdir(exist_ok=True)  # where it is there, and a file, this says so
        for folder in missing:
            # What is fsynced inside a folder is lost all the same where the folder's own name is not on the disk.
            fsync_directory(folder.parent)
    except OSError as error:
        raise StorageError(f"cannot create directory {path}: {error.strerror or error}") from None
    return path


def read_bytes(path: Path) -> bytes | None:
    """The content of `path`, or None where there is no such file.

    Raises:
        StorageError: it exists but cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from None


def _write(path: Path, content: bytes, *, mode: int, is_durable: bool, is_exclusive: bool = False) -> None:
    if not path.name:
        raise StorageError(f"cannot write {len(content)} bytes to {str(path)!r}: that is no name of a file")
    # Random, so that neither two processes nor two threads write into each other's temporary file.
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                os.fchmod(descriptor, mode)
                file.write(content)
            if is_durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if is_exclusive:
            path.hardlink_to(temporary)  # unlike a rename, refuses a name that is taken
            temporary.unlink()
        else:
            temporary.replace(path)
        if is_durable:
            fsync_directory(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if not isinstance(error, OSError):
            raise
        raise StorageError(
            f"cannot write {len(content)} bytes to {path}: {error.strerror or error}; the old file is untouched"
        ) from None
