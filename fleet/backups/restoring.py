"""Brings a plant back out of a backup, into a folder where nothing is: whole, or not at all.

::

    unseal ─► unpack beside `to`, check ─► PostgreSQL: pg_restore in one transaction ─► newest schema ─► `aftermath` ─► rename to `to`

A folder or a database that holds anything is refused: what is there may be the newer one.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import psycopg
from sqlalchemy.engine import URL

from fleet.backups.aftermath import Aftermath, go_on_after
from fleet.backups.archive import DUMP, BackupList, read_archive
from fleet.backups.instant import postgresql_environment, run_postgresql
from fleet.backups.sealing import MAGIC, Unsealer
from fleet.errors import UnacceptableError, UnavailableError
from fleet.migrations.upgrade import open_storage
from fleet.settings import load_fleet_settings
from fleet.storage.addresses import parsed_address
from runtime.durable_files import fsync_directory, private_directory, replace_file, write_durably
from runtime.errors import SettingsError, StorageError
from service.plant import Plant, load_plant
from service.restored_note import RestoredNote, write_restored_note

__all__ = ["Restored", "restore_backup"]

_TABLES: Final = (
    "SELECT count(*) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
    " WHERE relkind IN ('r', 'p') AND nspname NOT IN ('pg_catalog', 'information_schema')"
)


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A plant that is back: where, what the backup was, and what was done to go on from it."""

    plant: Plant
    listed: BackupList
    aftermath: Aftermath


def restore_backup(
    file: Path,
    to: Path,
    *,
    passphrase: Callable[[], str],
    database_url: str | None = None,
    now: Callable[[], float] = time.time,
) -> Restored:
    """Make the plant `to` out of the backup `file`.

    Args:
        file: what `take_backup` wrote.
        to: a folder that is not there, or empty.
        passphrase: asked for where the file is sealed.
        database_url: of an empty PostgreSQL database, where it is not the one in the backup's fleet.toml.
        now: Unix seconds.

    Raises:
        StorageError: `to` holds something, or cannot be written; or the file cannot be read.
        UnacceptableError: no backup, a damaged one, or another passphrase.
        SettingsError: a database_url for a plant on SQLite, or a database that holds something.
        UnavailableError: the database does not answer, or pg_restore fails.
    """
    _check_empty_folder(to)
    to = to.absolute()
    to.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{to.name}.restoring-", dir=to.parent))
    try:
        with _opened(file) as source:
            listed = read_archive(_plain(source, file, passphrase), folder)
        plant = load_plant(folder / "plant")
        if database_url is not None:
            _change_database(plant, listed, database_url)
        aftermath = _bring_back(plant, listed, folder / DUMP, now())
        if to.exists():
            to.rmdir()
        replace_file(folder / "plant", to)
    except UnacceptableError as error:
        raise UnacceptableError(f"{file}: {error}") from None
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{to} cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Restored(plant=load_plant(to), listed=listed, aftermath=aftermath)


def _bring_back(plant: Plant, listed: BackupList, dump: Path, now: float) -> Aftermath:
    url = load_fleet_settings(plant.fleet_config, {}).effective_database_url
    if listed.database == "postgresql":
        _check_empty_database(url)
        run_postgresql(
            "pg_restore",
            url,
            "--no-owner",
            "--no-privileges",
            "--single-transaction",
            "--exit-on-error",
            str(dump),
        )
    with closing(open_storage(url)) as database:
        done = go_on_after(database, tenant=listed.tenant, made_at=listed.made_at, now=now)
    note = RestoredNote(made_at=listed.made_at, restored_at=now)
    for data in (plant.fleet_data, plant.aggregator_data):
        write_restored_note(private_directory(data), note)
    for empty in (plant.log, plant.run, plant.families, plant.devices):
        private_directory(empty)
    fsync_directory(plant.folder)
    return done


def _check_empty_folder(to: Path) -> None:
    if to.is_dir() and not any(to.iterdir()):
        return
    if to.exists() or to.is_symlink():
        raise StorageError(
            f"{to} is there and not empty; a restore overwrites nothing: give --to a new folder, or move that one away"
        )


def _opened(file: Path) -> IO[bytes]:
    try:
        return file.open("rb")
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error.strerror or error}") from None


def _plain(source: IO[bytes], file: Path, passphrase: Callable[[], str]) -> IO[bytes]:
    if source.read(len(MAGIC)) == MAGIC:
        return Unsealer(source, passphrase())  # type: ignore[return-value] # tarfile calls read alone
    source.seek(0)
    if file.stat().st_mode & 0o077:
        raise SettingsError(
            f"{file} holds the plant's keys and others may read it: chmod 600 {file}, and think of who may have read it"
        )
    return source


def _change_database(plant: Plant, listed: BackupList, url: str) -> None:
    former = load_fleet_settings(plant.fleet_config, {}).effective_database_url
    if listed.database != "postgresql" or parsed_address(url).get_backend_name() != "postgresql":
        raise SettingsError(
            "--database takes a plant from one PostgreSQL to another, and this one has SQLite: leave it out"
        )
    _replace(plant.fleet_config, former, parsed_address(url).set(drivername="postgresql+psycopg"))
    shown = plant.description.database
    if shown is not None:
        _replace(plant.file, shown, parsed_address(postgresql_environment(url)[0]))


def _replace(file: Path, former: str, url: URL) -> None:
    text = file.read_text(encoding="utf-8")
    rendered = url.render_as_string(hide_password=False)
    if f'"{former}"' not in text:
        raise SettingsError(
            f"{file.name} of the backup writes its database in an unusual way; leave --database out"
        )
    mode = file.stat().st_mode & 0o777
    write_durably(file, text.replace(f'"{former}"', f'"{rendered}"').encode(), mode=mode)


def _check_empty_database(url: str) -> None:
    name, environment = postgresql_environment(url)
    try:
        with closing(psycopg.connect(name, password=environment.get("PGPASSWORD"))) as connection:
            row = connection.execute(_TABLES).fetchone()
    except psycopg.Error as error:
        raise UnavailableError(
            f"the database does not answer: {' '.join(str(error).split())[:300]}"
        ) from None
    if row is None or row[0]:
        raise SettingsError(
            "the database in fleet.toml is not empty; a restore overwrites nothing: make an empty one (createdb), and give it as"
            " --database postgresql://…"
        )
