"""An image onto a medium, block by block, and read back block by block.

The first block, with the partition table, is emptied first and written last: a medium whose writing was interrupted does not boot, and
cannot be taken for a finished one.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol, Self

from fleet.flashing.programs import FlashError
from runtime.errors import SettingsError

__all__ = ["BLOCK_BYTES", "DiskMedium", "Medium", "write_and_verify"]

BLOCK_BYTES: Final = 4 * 1024 * 1024
_BLKFLSBUF: Final = 0x1261
"""ioctl: forget what was read of the device (linux/fs.h)."""

Progress = Callable[[str, int, int], None]
"""What is done, bytes so far, bytes in all."""


class Medium(Protocol):
    """What an image is written to; each raises OSError."""

    def write_at(self, offset: int, data: bytes) -> None:
        """Write all of `data`."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Read so much, less only at the end."""

    def settle(self) -> None:
        """Return when everything is on the medium itself, and is read from there next."""


class DiskMedium:
    """A block device, opened so that the kernel refuses one that is mounted; a context manager."""

    def __init__(self, path: Path) -> None:
        """Raises SettingsError where it may not be opened."""
        try:
            self._file = os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
        except PermissionError:
            raise SettingsError(
                f"{path} may not be written by this user: sudo, or the group of {path} (disk)"
            ) from None
        except OSError as error:
            raise SettingsError(
                f"{path} cannot be opened: {error.strerror or error}; nothing was written"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def write_at(self, offset: int, data: bytes) -> None:
        """See `Medium`."""
        done = 0
        while done < len(data):
            done += os.pwrite(self._file, data[done:], offset + done)

    def read_at(self, offset: int, length: int) -> bytes:
        """See `Medium`."""
        return os.pread(self._file, length, offset)

    def settle(self) -> None:
        """See `Medium`."""
        os.fsync(self._file)
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
        if stat.S_ISBLK(os.fstat(self._file).st_mode):
            with suppress(OSError):  # root's alone; the advice before has the same effect on most kernels
                fcntl.ioctl(self._file, _BLKFLSBUF)


def write_and_verify(
    image: Path, medium: Medium, name: str, progress: Progress, *, block_bytes: int = BLOCK_BYTES
) -> int:
    """Write `image` to `medium`, which is called `name` for people; returns the number of blocks, each read back as it was written.

    Raises:
        FlashError: a block was not taken, or is another one when it is read: says which, and that the medium is of no use; or a person
            has interrupted it.
    """
    step = "writing"

    def hear(what: str, done: int, total: int) -> None:
        nonlocal step
        step = what
        progress(what, done, total)

    try:
        return _written(image, medium, name, hear, block_bytes)
    except KeyboardInterrupt:
        left = "is half-written and does not boot" if step == "writing" else "was not read back to its end"
        raise FlashError(f"interrupted: {name} {left}; write it again") from None


def _written(image: Path, medium: Medium, name: str, progress: Progress, block_bytes: int) -> int:
    size = image.stat().st_size
    count = -(-size // block_bytes)
    useless = f"{name} is half-written, does not boot, and is of no use"
    with image.open("rb", buffering=0) as file:

        def block(number: int) -> bytes:
            return os.pread(file.fileno(), block_bytes, number * block_bytes)

        def write(number: int, data: bytes) -> None:
            try:
                medium.write_at(number * block_bytes, data)
            except OSError as error:
                raise FlashError(
                    f"{_named(number, count, block_bytes)} could not be written: {error.strerror or error}. {useless}"
                ) from None

        first = block(0)
        write(0, bytes(len(first)))
        for number in range(1, count):
            write(number, block(number))
            progress("writing", number * block_bytes, size)
        _settle(medium, useless)
        progress("verifying", 0, size)
        write(0, first)
        _settle(medium, useless)
        for number in range(count):
            wanted = block(number)
            try:
                found = medium.read_at(number * block_bytes, len(wanted))
                why = (
                    ""
                    if found == wanted
                    else "is another one when it is read back: the medium is bad, or smaller than it says"
                )
            except OSError as error:
                why = f"could not be read back: {error.strerror or error}"
            if why:
                with suppress(OSError):
                    medium.write_at(0, bytes(len(first)))
                    medium.settle()
                raise FlashError(
                    f"{_named(number, count, block_bytes)} {why}. {name} was made unbootable, and is of no use"
                )
            progress("verifying", min(size, (number + 1) * block_bytes), size)
    return count


def _settle(medium: Medium, useless: str) -> None:
    try:
        medium.settle()
    except OSError as error:
        raise FlashError(f"not everything could be written: {error.strerror or error}. {useless}") from None


def _named(number: int, count: int, block_bytes: int) -> str:
    return f"block {number + 1} of {count} (from byte {number * block_bytes:,})"
