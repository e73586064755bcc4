"""The file of a backup: a tar of the plant's folder, its last member a list of all others with their SHA-256.

::

    plant/plant.toml, plant/pki/…, plant/fleet/data/fleet.sqlite, …     mode and content of each file
    database.pgdump                                                    of a PostgreSQL plant
    backup.json                                                        what it is, when, and the digest of each file

A file that was cut off has no list, and is refused; so is one that holds anything but what its list says. Nothing is taken from a
tar that was not written here: no link, no device, no name that leads elsewhere.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from fleet.errors import UnacceptableError
from runtime.durable_files import fsync_directory, private_directory
from runtime.unreadable import UNREADABLE

__all__ = ["DUMP", "PLANT", "ArchiveWriter", "BackupList", "read_archive"]

PLANT: Final = "plant/"
DUMP: Final = "database.pgdump"
LIST: Final = "backup.json"
MOST_LIST_BYTES: Final = 64 << 20


class BackupList(Struct, frozen=True, kw_only=True):
    """What a backup is.

    version: of this form.
    fedge: version of the build that made it.
    made_at: Unix seconds of the moment that it holds.
    tenant, host: of the plant.
    database: where the fleet's was.
    schema: of the fleet's database.
    audit_entries, audit_sha256: the head of the fleet's audit log at that moment.
    files: name → SHA-256 of each.
    """

    version: Literal[1] = 1
    fedge: str
    made_at: Annotated[float, Meta(gt=0)]
    tenant: str
    host: str
    database: Literal["sqlite", "postgresql"]
    schema: str
    audit_entries: int
    audit_sha256: str
    files: dict[str, str]


class ArchiveWriter:
    """Writes files into a tar on `sink`, one after the other; `finish` ends it."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._tar = tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed by finish
        self.files: dict[str, str] = {}

    def add(self, name: str, content: IO[bytes], *, mode: int, made_at: float) -> None:
        """Add a file by its content from here on."""
        info = tarfile.TarInfo(name)
        info.mode, info.mtime = mode, int(made_at)
        info.size = content.seek(0, os.SEEK_END)
        content.seek(0)
        digest = hashlib.sha256()
        self._tar.addfile(info, _Hashed(content, digest.update))  # type: ignore[arg-type] # it calls read alone
        self.files[name] = digest.hexdigest()

    def finish(self, listed: BackupList) -> None:
        """Add the list, and end the tar."""
        content = msgspec.json.format(msgspec.json.encode(listed), indent=1)
        info = tarfile.TarInfo(LIST)
        info.mode, info.mtime, info.size = 0o600, int(listed.made_at), len(content)
        self._tar.addfile(info, io.BytesIO(content))
        self._tar.close()


class _Hashed:
    def __init__(self, content: IO[bytes], update: Callable[[bytes], None]) -> None:
        self._content, self._update = content, update

    def read(self, count: int) -> bytes:
        piece = self._content.read(count)
        self._update(piece)
        return piece


def read_archive(source: IO[bytes], folder: Path) -> BackupList:
    """Unpack a backup into the empty `folder`, every file durable, and check it against its list.

    Raises:
        UnacceptableError: it is no backup, was changed or cut off, or is of a later version; what was unpacked is worth nothing.
    """
    digests: dict[str, str] = {}
    listed: BackupList | None = None
    try:
        with tarfile.open(fileobj=source, mode="r|") as tar:
            for member in tar:
                if listed is not None:
                    raise UnacceptableError("it goes on after its list: it was not written by fedge backup")
                # A hole of a terabyte takes no room in the archive, and all of the disk.
                is_plain = member.isreg() and not member.issparse()
                content = tar.extractfile(member) if is_plain else None
                if content is None or not _is_ours(member.name):
                    raise UnacceptableError(f"{member.name[:200]!r} has no place in a backup")
                if member.name == LIST:
                    listed = _read_list(content.read(MOST_LIST_BYTES))
                elif member.name in digests:
                    raise UnacceptableError(f"{member.name[:200]!r} is in it twice")
                else:
                    digests[member.name] = _unpack(content, folder / member.name, member.mode & 0o777)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise UnacceptableError(f"it is no backup, or cut off: {error}; copy the file again") from None
    if listed is None:
        raise UnacceptableError("its list is missing: the file was cut off; copy it again")
    if wrong := sorted({*digests.items()} ^ {*listed.files.items()}):
        raise UnacceptableError(f"{wrong[0][0]!r} is not what the backup's list says: the file was changed")
    return listed


def _is_ours(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return name in {LIST, DUMP} or (
        name.startswith(PLANT)
        and ".." not in parts
        and name.isprintable()
        and "/".join(parts) == name
        and len(parts) > 1
    )


def _unpack(content: IO[bytes], path: Path, mode: int) -> str:
    private_directory(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb+") as file:
        shutil.copyfileobj(content, file, 1 << 20)
        file.flush()
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    fsync_directory(path.parent)
    return digest


def _read_list(content: bytes) -> BackupList:
    try:
        version = msgspec.json.decode(content, type=dict[str, object]).get("version")
        if version != 1:
            raise UnacceptableError(
                f"it is of version {version!r:.20}; this build reads version 1: use a newer one"
            )
        return msgspec.json.decode(content, type=BackupList)
    except UNREADABLE as error:
        raise UnacceptableError(f"its list cannot be read: {error}") from None
