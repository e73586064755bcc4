"""Bundles on the device's disk: ``bundles/<sha256>.fedge``, and ``<sha256>.part`` while one is fetched.

A bundle has its final name only after it was verified, and is verified again each time it is opened: a name proves nothing
about what a worn SD card gives back. It stores bytes; what they mean is checked elsewhere.

One process at a time: the lock is the kernel's (flock), so a killed agent leaves none behind.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from edge_agent.errors import InstallFailedError
from protocol.limits import MAX_BUNDLE_BYTES
from runtime.durable_files import fsync_directory, private_directory, read_bytes, replace_file
from runtime.errors import StorageError

__all__ = ["BundleStore", "PartWriter"]

FACTORY_NAME: Final = "factory.fedge"
_LOCK_NAME: Final = "lock"


class BundleStore:
    """The directory ``bundles``.

    Raises:
        StorageError: it cannot be created.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = private_directory(directory)
        self._lock: int | None = None

    def lock(self) -> None:
        """Make this process the only one that changes the directory, until it ends or calls `unlock`.

        Raises:
            StorageError: another process has it; two agents must not share a state directory.
        """
        if self._lock is not None:
            return
        try:
            descriptor = os.open(self._directory / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except (
            OSError
        ):  # a disk that turned read-only, or is full: the folder itself will do, and detection goes on
            descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise StorageError(
                f"{self._directory} is in use by another agent; stop it, or give this one its own state_dir"
            ) from None
        self._lock = descriptor

    def unlock(self) -> None:
        """Let another process have the directory."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def has(self, sha256: str) -> bool:
        """Whether a bundle was staged under this hash."""
        return self._final(sha256).is_file()

    def has_intact(self, sha256: str) -> bool:
        """Whether any copy on this disk has this hash; one that was wholly fetched, too."""
        try:
            self.read(sha256)
        except StorageError:
            return False
        return True

    def read(self, sha256: str) -> bytes:
        """The first copy on this disk that has this hash: the staged one, the factory's, or one wholly fetched.

        Raises:
            StorageError: there is none; the message says what is wrong with the staged one.
        """
        trouble = ""
        for path in (self._final(sha256), self._directory / FACTORY_NAME, self._part(sha256)):
            try:
                content = self._read(path)
            except StorageError as error:
                trouble = trouble or str(error)
                continue
            if hashlib.sha256(content).hexdigest() == sha256:
                return content
            trouble = trouble or f"{path} is damaged: its {len(content)} bytes do not have their SHA-256"
        raise StorageError(trouble)

    def mend(self, sha256: str, content: bytes) -> bool:
        """Stage sound `content` again where the staged file is damaged; True where it was.

        Raises:
            InstallFailedError, StorageError: the disk refuses.
        """
        try:
            if self._read(self._final(sha256)) == content:
                return False
        except StorageError:
            pass  # missing or unreadable: replaced below
        self.adopt(sha256, content)
        return True

    def read_factory(self) -> bytes | None:
        """The bundle that the device's image brought along as ``bundles/factory.fedge``, if it did."""
        path = self._directory / FACTORY_NAME
        return self._read(path) if path.exists() else None

    def read_part(self, sha256: str) -> bytes:
        """What was fetched so far, unverified; raises as `read`."""
        return self._read(self._part(sha256))

    def part_bytes(self, sha256: str) -> int:
        """How much was fetched so far."""
        try:
            return self._part(sha256).stat().st_size
        except FileNotFoundError:
            return 0

    @contextmanager
    def append(self, sha256: str, *, offset: int) -> Iterator[PartWriter]:
        """Continue the part of `sha256` at byte `offset`, dropping what lies behind it; fsynced at the end.

        Raises:
            InstallFailedError: the disk is full or read-only.
        """
        writer = PartWriter(self._part(sha256), offset)
        try:
            yield writer
        finally:
            writer.close()

    def discard_part(self, sha256: str) -> None:
        """Forget what was fetched so far."""
        self._part(sha256).unlink(missing_ok=True)

    def stage(self, sha256: str) -> None:
        """Give a verified part its final name, durably; raises StorageError."""
        if self._part(sha256).exists():
            replace_file(self._part(sha256), self._final(sha256))

    def adopt(self, sha256: str, content: bytes) -> None:
        """Store verified bytes that came from elsewhere; raises InstallFailedError where the disk is full."""
        with self.append(sha256, offset=0) as part:
            part.write(content)
        self.stage(sha256)

    def staged(self) -> list[str]:
        """SHA-256 of every staged bundle."""
        return sorted(path.stem for path in self._directory.glob("*.fedge") if path.name != FACTORY_NAME)

    def prune(self, keep: Collection[str]) -> None:
        """Delete every bundle and part that is not in `keep`; what cannot be deleted stays."""
        for path in (*self._directory.glob("*.fedge"), *self._directory.glob("*.part")):
            if path.name != FACTORY_NAME and path.stem not in keep:
                path.unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Disk space that this user may still fill."""
        return shutil.disk_usage(self._directory).free

    def _read(self, path: Path) -> bytes:
        try:
            found = path.stat()
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror or error}") from None
        size = found.st_size
        if not stat.S_ISREG(found.st_mode):
            raise StorageError(f"{path} is not a file")
        if size > MAX_BUNDLE_BYTES:
            raise StorageError(f"{path} has {size} bytes; a bundle has at most {MAX_BUNDLE_BYTES}")
        content = read_bytes(path)
        if content is None:
            raise StorageError(f"{path} has just been deleted")
        return content

    def _final(self, sha256: str) -> Path:
        return self._directory / f"{sha256}.fedge"

    def _part(self, sha256: str) -> Path:
        return self._directory / f"{sha256}.part"


class PartWriter:
    """Writes a part behind `offset`, turning the disk's failures into ours."""

    def __init__(self, path: Path, offset: int) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.ftruncate(self._descriptor, offset)
            os.lseek(self._descriptor, offset, os.SEEK_SET)
        except OSError as error:
            raise self._failure(error) from None

    def write(self, chunk: bytes) -> None:
        """Append; raises InstallFailedError where the disk is full."""
        rest = memoryview(chunk)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            raise self._failure(error) from None

    def close(self) -> None:
        """Make it durable; raises as `write`."""
        try:
            os.fsync(self._descriptor)
            fsync_directory(self._path.parent)
        except OSError as error:
            raise self._failure(error) from None
        finally:
            os.close(self._descriptor)

    def _failure(self, error: OSError) -> InstallFailedError:
        return InstallFailedError(
            f"cannot write {self._path}: {error.strerror or error}; free disk space and ask again"
        )
