"""Makes a backup of a plant, whether or not it runs; the file is whole or not there.

What is in it: every file of the plant's folder but logs, what `fedge up` keeps while it runs, what is being written, and what
SQLite and the broker make anew. Links are refused: what they lead to would be missing. The signed repository and the families'
lists are read before the moment of the databases, bundles after it, so that nothing names what is not there.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Final

from sqlalchemy import text

from fleet.audit import read_head
from fleet.backups.archive import DUMP, PLANT, ArchiveWriter, BackupList
from fleet.backups.instant import Instant, at_one_instant, is_sqlite
from fleet.backups.sealing import Sealer
from fleet.errors import UnacceptableError
from fleet.settings import load_fleet_settings
from fleet.storage.addresses import parsed_address
from fleet.storage.base import open_database
from runtime.durable_files import replace_file
from runtime.errors import SettingsError, StorageError
from service.plant import Plant

__all__ = ["Taken", "take_backup"]

_MADE_ANEW: Final = re.compile(
    r".*\.sqlite-(wal|shm|journal)|\..*\.tmp|.*\.part|mosquitto\.db|__pycache__|lock"
)
"""What is being written, belongs to a database that is copied whole, or is the broker's memory, which the fleet fills again."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A backup that was made: its list, and how large the file is."""

    listed: BackupList
    size_bytes: int


def take_backup(
    plant: Plant, out: Path, passphrase: str | None, *, now: Callable[[], float] = time.time
) -> Taken:
    """Write everything of `plant` into the new file `out`, mode 0600; sealed where a passphrase is given.

    Raises:
        SettingsError: fleet.toml is not valid, or names a database that is not the plant's.
        UnacceptableError: a link in the folder, or a passphrase that is too short.
        UnavailableError: a database cannot be read, or pg_dump is missing.
        StorageError: `out` exists already, or cannot be written.
    """
    if out.exists():
        raise StorageError(f"{out} exists, and a backup is never overwritten; choose another name")
    url = load_fleet_settings(plant.fleet_config).effective_database_url
    is_postgresql = not url.startswith("sqlite")
    if not is_postgresql and not _database_file(url).is_relative_to(plant.folder):
        raise SettingsError(
            f"the fleet's database {_database_file(url)} lies outside the plant {plant.folder}: it would not be in the backup; move it"
            " to fleet/data, and take database_url out of fleet.toml"
        )
    temporary = out.with_name(f".{out.name}.{os.urandom(6).hex()}.tmp")
    try:
        with (
            tempfile.TemporaryDirectory(prefix=".fedge-backup-", dir=out.absolute().parent) as stage,
            os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file,
        ):
            sink: IO[bytes] = Sealer(file, passphrase) if passphrase is not None else file  # type: ignore[assignment] # tarfile calls write alone
            listed = _write(plant, sink, Path(stage), url if is_postgresql else None, out, now)
            if sink is not file:
                sink.close()
            file.flush()
            os.fsync(file.fileno())
        size = temporary.stat().st_size
        if out.exists():
            raise StorageError(f"{out} was made by somebody else meanwhile, and is not overwritten")
        replace_file(temporary, out)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{out} cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    return Taken(listed=listed, size_bytes=size)


def _write(
    plant: Plant, sink: IO[bytes], stage: Path, url: str | None, out: Path, now: Callable[[], float]
) -> BackupList:
    archive = ArchiveWriter(sink)
    first, last = _sorted_files(plant, out)
    for path in first:
        _add(archive, plant, path)
    databases = [path for path in last if is_sqlite(path)]
    with at_one_instant(databases, url) as instant:
        made_at = now()
        for path in databases:
            copy = stage / "copy.sqlite"
            instant.copy_sqlite(path, copy)
            if url is None and path == plant.fleet_data / "fleet.sqlite":
                schema, entries, digest = _describe(f"sqlite:///{copy}")
            with copy.open("rb") as content:
                archive.add(_name(plant, path), content, mode=0o600, made_at=made_at)
            for left in stage.glob("copy.sqlite*"):
                left.unlink()
        if url is not None:
            schema, entries, digest = _dump(archive, instant, stage / DUMP, url, made_at)
    for path in last:
        if path not in databases:
            _add(archive, plant, path)
    listed = BackupList(
        fedge=version("fedge"),
        made_at=made_at,
        tenant=plant.tenant,
        host=plant.description.host,
        database="sqlite" if url is None else "postgresql",
        schema=schema,
        audit_entries=entries,
        audit_sha256=digest,
        files=archive.files,
    )
    archive.finish(listed)
    return listed


def _dump(
    archive: ArchiveWriter, instant: Instant, target: Path, url: str, made_at: float
) -> tuple[str, int, str]:
    instant.dump(url, target)
    with target.open("rb") as content:
        archive.add(DUMP, content, mode=0o600, made_at=made_at)
    target.unlink()
    return _describe(url)


def _describe(url: str) -> tuple[str, int, str]:
    """Schema and the head of the audit log."""
    database = open_database(url)
    try:
        with database.read() as session:
            head = read_head(session)
            schema = session.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
    finally:
        database.close()
    return str(schema), head.id, head.sha256


def _sorted_files(plant: Plant, out: Path) -> tuple[list[Path], list[Path]]:
    """What is copied before the databases' moment, and what then or after it."""
    files = list(_files(plant, out))
    repository = plant.fleet_data / "trust"
    # what a device asks for first is copied first: what it names was there before it
    first = [path for path in files if path.is_relative_to(repository)]
    first.sort(key=lambda path: (path.name != "timestamp.json", "snapshot" not in path.name, path))
    return first, sorted(set(files) - set(first))


def _files(plant: Plant, out: Path) -> Iterator[Path]:
    skipped = {plant.log, plant.run}
    for folder, folders, names in os.walk(plant.folder):
        here = Path(folder)
        folders[:] = [
            name for name in folders if here / name not in skipped and not _MADE_ANEW.fullmatch(name)
        ]
        for name in [*folders, *names]:
            path = here / name
            if path.is_symlink():
                raise UnacceptableError(
                    f"{path} is a link, and what it leads to would not be in the backup: put the thing itself there"
                )
            if name in names and path.is_file() and not _MADE_ANEW.fullmatch(name) and path != out.absolute():
                yield path


def _add(archive: ArchiveWriter, plant: Plant, path: Path) -> None:
    # a file of ours is replaced whole by a rename: what is opened here stays what it was
    with suppress(FileNotFoundError), path.open("rb") as content:
        status = os.fstat(content.fileno())
        archive.add(_name(plant, path), content, mode=status.st_mode & 0o777, made_at=status.st_mtime)


def _name(plant: Plant, path: Path) -> str:
    return PLANT + path.relative_to(plant.folder).as_posix()


def _database_file(url: str) -> Path:
    return Path(parsed_address(url).database or "").absolute()
