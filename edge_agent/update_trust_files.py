"""The signed repository as this device last believed it: a mirror on its disk, under the very names that the fleet serves.

::

    state_dir/trust/  2.root.json 3.root.json ...   what leads from the pinned root to the present one
                      timestamp.json                written last: it names the snapshot, and so everything else
                      17.snapshot.json 4.targets.json 9.family-pump.json
                      ahead/                        verified on a way whose end was not reached: nothing older is believed from then on

A file that is named by its version never changes, and `timestamp.json` is replaced after all that it leads to is on the disk. So a
power cut leaves the state before or the state after, and an image can bring a mirror along that was copied with ``curl``.

Not believed for lying here: whoever reads verifies it from the pinned root on.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from runtime.durable_files import private_directory, read_bytes, write_durably
from runtime.errors import StorageError

__all__ = ["TIMESTAMP", "TrustFiles", "is_same_role"]

TIMESTAMP: Final = "timestamp.json"
_MINE: Final = re.compile(r"\d{1,15}\.[A-Za-z0-9_.%-]{1,150}\.json|timestamp\.json")
"""No separator: a name that a repository chose never leaves the folder."""


def is_same_role(one: str, other: str) -> bool:
    """Whether one of these files takes the other's place; roots lead to each other, and none does."""
    one, other = (name if name == TIMESTAMP else name.partition(".")[2] for name in (one, other))
    return one == other != "root.json"


class TrustFiles:
    """A folder of metadata files; made when the first is kept. `ahead` is the one beside it, of the same kind."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def ahead(self) -> TrustFiles:
        """What was verified beyond that state."""
        return TrustFiles(self._directory / "ahead")

    def read(self, name: str, most_bytes: int) -> bytes | None:
        """A file as it lies there; None where there is none, or what lies there cannot be metadata."""
        path = self._directory / name
        try:
            if not _MINE.fullmatch(name) or not path.is_file() or path.stat().st_size > most_bytes:
                return None
            return read_bytes(path)
        except (OSError, StorageError):  # a disk that gives nothing back has nothing
            return None

    def names(self) -> list[str]:
        """Of the files that lie there."""
        try:
            return [path.name for path in self._directory.iterdir() if _MINE.fullmatch(path.name)]
        except OSError:
            return []

    def keep(self, files: Mapping[str, bytes]) -> None:
        """Make the folder hold these files and no other metadata, durably; what is there already is not written again.

        Raises:
            StorageError: the disk is full or read-only; what lay there is still whole, and leads to what it led to.
        """
        private_directory(self._directory)
        with self._locked():
            for name in sorted(files, key=lambda one: one == TIMESTAMP):
                if not _MINE.fullmatch(name):
                    raise StorageError(f"{name!r} is no name of a metadata file")
                if self.read(name, len(files[name])) != files[name]:
                    write_durably(self._directory / name, files[name])
            for name in self.names():
                if name not in files:
                    (self._directory / name).unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time, also of several processes; the kernel's lock, so that a killed one leaves none behind."""
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        except OSError as error:
            raise StorageError(
                f"cannot keep metadata in {self._directory}: {error.strerror or error}"
            ) from None
        finally:
            os.close(descriptor)
