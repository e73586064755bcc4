"""Makes a plant out of its description, or brings about what is missing of it; nothing that is there is ever lost.

::

    plant.toml ─► CA ─► certificates ─► release key ─► settings ─► signed repository ─► database, tokens, broker ─► units

Each step looks first whether its result is there. Done again it changes nothing; interrupted it is gone on with by doing it again.
What is named for another host, or lies in another database, is changed by `renew` alone.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import msgspec
import tomli_w

from fleet.migrations.upgrade import open_storage
from fleet.plant.broker import write_plant_broker
from fleet.plant.certificates import (
    SERVICES,
    ServicesCa,
    belong_together,
    names_in,
    names_of,
    read_certificate,
)
from fleet.plant.containers import compose_text
from fleet.plant.keys import make_release_key, make_repository
from fleet.plant.kustomize import write_kustomize
from fleet.plant.plant_tokens import make_aggregator_parts, make_fleet_tokens
from fleet.plant.tables import Table, aggregator_table, fleet_table
from fleet.plant.units import unit_texts
from fleet.plant.written import Outcome, WrittenFiles
from fleet.settings import load_fleet_settings
from fleet.storage.addresses import parsed_address
from fleet.storage.connecting import check_connection
from runtime.durable_files import private_directory, read_bytes
from runtime.errors import SettingsError
from service.errors import StartError
from service.plant import Plant
from service.plant_description import BrokerKind, Description

__all__ = ["make_certificates", "make_clients", "make_plant", "without_password"]

_ODD_IN_PATHS: Final = re.compile(r"[^\w./+@-]")


def without_password(url: str) -> tuple[str, str]:
    """A database's address as everybody may read it, and as the fleet takes it; raises SettingsError."""
    scheme = url.partition(":")[0]
    if scheme.partition("+")[0] != "postgresql":
        raise SettingsError(
            f"--database {scheme}:… is none; valid: postgresql://user@host/name, or leave it out for SQLite"
        )
    parsed = parsed_address(url)
    whole = parsed.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    # `set` takes None for "as it is"
    return parsed.set(drivername="postgresql")._replace(password=None).render_as_string(), whole


_FOR_NO_REPOSITORY: Final = """# Keys, tokens and databases belong into no repository; what a person writes may.
*
!/.gitignore
!/plant.toml
!/families/
!/families/*
"""


def make_plant(
    folder: Path, description: Description, *, database_url: str | None = None, renew: bool = False
) -> tuple[Plant, WrittenFiles]:
    """Bring about everything that a plant of this description has.

    Args:
        folder: of the plant; made where it is missing.
        description: what it shall be.
        database_url: as the fleet connects, with its password; None: SQLite, or as fleet.toml has it already.
        renew: make certificates anew, and what is named for another host.

    Raises:
        SettingsError, StartError, StorageError: in one line, what is in the way. What was made before it stays.
    """
    plant = Plant(folder=folder.absolute(), description=description)
    if database_url is not None:
        check_connection(database_url)
    _check_place(plant)
    with _alone(plant.folder):
        return plant, _make(plant, database_url=database_url, renew=renew)


def _make(plant: Plant, *, database_url: str | None, renew: bool) -> WrittenFiles:
    description, files = plant.description, WrittenFiles(plant.folder)
    files.write(
        plant.file,
        _toml(_described(description), "What this plant is; `fedge init plant` reads and writes it."),
    )
    files.write(plant.folder / ".gitignore", _FOR_NO_REPOSITORY)  # before any key is here
    make_certificates(plant, files, renew=renew)
    make_release_key(plant, files)
    for directory in (plant.families, plant.devices, plant.log, plant.run, plant.aggregator_data):
        private_directory(directory)
    url = database_url or _known_database(plant)
    settings = (
        (plant.fleet_config, fleet_table(plant, database_url=url)),
        (plant.aggregator_config, aggregator_table(plant)),
    )
    for path, table in settings:
        private_directory(path.parent)
        files.write(path, _toml(table, f"{path.name} of this plant; docs explain every key."), mode=0o600)
    make_repository(plant, files)
    fleet = load_fleet_settings(plant.fleet_config, {})
    with closing(open_storage(fleet.effective_database_url)) as database:
        make_fleet_tokens(plant, database, files)
        device_ca = write_plant_broker(plant, fleet, database)
        make_aggregator_parts(plant, files)
        if description.database is not None and description.broker is BrokerKind.MOSQUITTO:
            write_kustomize(plant, fleet, database, files, device_ca=device_ca)
    if description.broker is BrokerKind.MOSQUITTO:  # the embedded one is for trials
        for name, text in unit_texts(plant).items():
            files.write(plant.systemd / name, text)
        files.write(plant.compose, compose_text(plant))
    files.close()
    return files


def make_clients(plant: Plant) -> None:
    """New certificates of fleet and aggregator for the broker, of a new CA that the broker alone will believe.

    For a certificate of one of them that was stolen: what it opens ends when the broker starts anew, and no device notices, as
    devices go on trusting the servers that the first CA signed. `make_plant` then brings the settings about.

    Raises:
        StorageError: a file cannot be written.
    """
    authority = ServicesCa(key_file=plant.clients_ca_key, file=plant.clients / "ca.pem")
    private_directory(plant.clients)
    for path in (authority.file, authority.key_file):
        path.unlink(missing_ok=True)
    authority.ensure(time.time())
    for service in ("fleet", "aggregator"):
        file, key_file = plant.clients / f"{service}.pem", plant.clients / f"{service}.key"
        names = names_of(service, plant.description.host)
        authority.issue(service, names, file=file, key_file=key_file, now=time.time())


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder, so that of two who make the same plant at once one is refused: each would make keys that the other has certified."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise StartError(
            f"somebody else is making {folder} at this moment; do it again once that has ended"
        ) from None
    finally:
        os.close(descriptor)


def _check_place(plant: Plant) -> None:
    folder = plant.folder
    if folder.exists() and not folder.is_dir():
        raise StartError(f"{folder} is a file; give --plant another folder")
    if not plant.file.exists() and (odd := _ODD_IN_PATHS.search(str(folder))):
        raise StartError(
            f"{folder} holds {odd[0]!r}, which systemd and compose.yaml read otherwise; give --plant a folder of letters, digits and . _ - + @"
        )
    if not plant.file.exists() and folder.exists() and any(folder.iterdir()):
        raise StartError(f"{folder} is there, and is neither empty nor a plant; give --plant another folder")
    private_directory(folder)


def make_certificates(plant: Plant, files: WrittenFiles, *, renew: bool) -> None:
    """The CA and the three services' certificates; those that are there are kept, unless they are to be renewed.

    Raises:
        SettingsError: the CA's key is not here, and is needed.
        StorageError: a file can be neither read nor written.
    """
    authority = ServicesCa(key_file=plant.ca_key, file=plant.ca)
    private_directory(plant.pki)
    private_directory(plant.offline)
    was_made = authority.ensure(time.time())
    files.note(plant.ca, Outcome.MADE if was_made else Outcome.KEPT)
    if plant.ca_key.exists():
        files.note(plant.ca_key, Outcome.MADE if was_made else Outcome.KEPT)
    for service in SERVICES:
        file, key_file = plant.certificate(service), plant.key(service)
        is_there = read_bytes(file) is not None and read_bytes(key_file) is not None
        # one without the other's half is what a kill between the two writes has left
        if is_there and not renew and belong_together(file, key_file):
            files.note(file, Outcome.KEPT)
            continue
        names = names_of(service, plant.description.host)
        if is_there:
            # the former names stay: devices that joined under them dial them still
            names = tuple(dict.fromkeys((*names, *names_in(read_certificate(file)))))
        authority.issue(service, names, file=file, key_file=key_file, now=time.time())
        files.note(file, Outcome.RENEWED if is_there else Outcome.MADE)


def _known_database(plant: Plant) -> str | None:
    """The database's address with its password, as fleet.toml has it."""
    if plant.description.database is None or not plant.fleet_config.exists():
        return plant.description.database and parsed_address(plant.description.database).set(
            drivername="postgresql+psycopg"
        ).render_as_string(hide_password=False)
    return load_fleet_settings(plant.fleet_config, {}).database_url


def _described(description: Description) -> Table:
    table: Table = msgspec.to_builtins(description)
    return {key: value for key, value in table.items() if value is not None}


def _toml(table: Table, comment: str) -> str:
    return f"# {comment}\n{tomli_w.dumps(table)}"
