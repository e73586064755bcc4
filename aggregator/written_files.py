"""Files that are there completely or not at all, also after a power cut."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from aggregator.errors import SettingsError

__all__ = ["write_durably"]


def write_durably(path: Path, content: bytes) -> None:
    """Replace `path` in one step: temporary file, fsync, rename, fsync of the folder.

    Raises:
        SettingsError: the folder is missing or cannot be written to.
    """
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(
                    file.fileno(), 0o644
                )  # mkstemp makes files for its owner alone; these are for handing on
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror or error}") from None
