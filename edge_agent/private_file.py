"""Secrets on this device's disk (keys, a chip's PIN): for its own user and for nobody else.

A file that others may read is closed to them and said, rather than refused: a device that stops watching because of a mode helps nobody.
Where it cannot be closed it is refused.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import Final

from runtime.errors import StorageError

__all__ = ["read_private"]

log: Final = logging.getLogger(__name__)

_MOST_BYTES: Final = 64 * 1024


def read_private(path: Path) -> bytes | None:
    """A secret of this device, None where there is none. One that others may read is closed to them, and said.

    Raises:
        StorageError: it cannot be read, is too large to be a secret, or stays open to others.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                _close_to_others(file.fileno(), path, mode)
            content = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from None
    if len(content) > _MOST_BYTES:
        raise StorageError(f"{path} is larger than {_MOST_BYTES} bytes; that is no key")
    return content


def _close_to_others(descriptor: int, path: Path, mode: int) -> None:
    try:
        os.fchmod(descriptor, 0o600)
    except OSError as error:
        raise StorageError(
            f"{path} has mode {mode:04o}, so others may read this secret, and it cannot be mended ({error.strerror}): chmod 600 {path}"
        ) from None
    log.warning(
        "secret_was_open path=%s mode=%04o: it is 0600 now; if strangers use this machine, enrol it anew with another key",
        path,
        mode,
    )
