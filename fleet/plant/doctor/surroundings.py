"""What a plant stands on: disk, database, programs, families, its backup."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from sqlalchemy import create_engine, func, select, text
from sqlalchemy.exc import SQLAlchemyError

from fleet.migrations.upgrade import newest_schema
from fleet.plant.doctor.findings import DAY_S, Finding, bad, day, doubtful, well
from fleet.plant.doctor.roads import clock
from fleet.plant.last_backup import read_last_backup
from fleet.plant.mosquitto import INSTALL, find_mosquitto
from fleet.settings import load_fleet_settings
from fleet.storage.access_tables import AuditEntry
from fleet.storage.addresses import parsed_address
from fleet.storage.base import connection_options
from fleet.storage.connecting import check_connection
from fleet.trust.repository import TrustRepository
from runtime.errors import FedgeError
from service.plant import Plant
from service.plant_description import BrokerKind

__all__ = ["examine_backup", "examine_database", "examine_disk", "examine_families", "examine_programs"]

GB: Final = 1e9
SCARCE_GB: Final = 2.0
GONE_GB: Final = 0.2

OLD_BACKUP_DAYS: Final = 7.0
MANY_CHANGES: Final = 100
"""Lines of the audit log: devices enrolled, releases published, verdicts: what nobody would want to do again."""

MAKE_BACKUP: Final = "fedge backup FILE, and keep it on another machine"

PROGRAMS: Final = ("fedge", "flwr", "tensorflow-cpu", "tensorflow", "ai-edge-litert", "cryptography", "tuf")


def examine_disk(plant: Plant) -> Iterator[Finding]:
    """How much is left where the plant lies."""
    free_gb = shutil.disk_usage(plant.folder).free / GB
    nodes = os.statvfs(plant.folder)
    seen = f"{free_gb:.1f} GB are free at {plant.folder}"
    if free_gb < GONE_GB or (nodes.f_files and nodes.f_ffree < 1000):
        yield bad("disk", seen, "make room: nothing more is stored, and devices keep what they have")
    elif free_gb < SCARCE_GB:
        yield doubtful("disk", seen, "make room; [retention] of fleet.toml says how long what is kept")
    else:
        yield well("disk", seen)


def examine_database(plant: Plant) -> Iterator[Finding]:
    """Whether it can be connected to, which schema it has, and what its clock says."""
    try:
        url = load_fleet_settings(plant.fleet_config).effective_database_url
        kind = check_connection(url)
        schema, there = _look_into(url)
    except FedgeError as error:
        yield bad("database", str(error), "the line says what to do; then fedge doctor again")
        return
    newest = newest_schema()
    if schema == newest:
        yield well("database", f"{kind} answers; schema {schema}")
    elif schema < newest:
        yield doubtful(
            "database",
            f"{kind} answers; schema {schema or 'none'}, this build's is {newest}",
            "the next fedge up brings it up",
        )
    else:
        yield bad(
            "database",
            f"schema {schema} is newer than this build's, {newest}",
            "install the build that wrote it, or a newer one",
        )
    if there is not None:
        yield clock("clock of the database", there - time.time())


def examine_programs(plant: Plant) -> Iterator[Finding]:
    """What is installed, in which version."""
    found = []
    for name in PROGRAMS:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    here = f"Python {sys.version.split()[0]}, {', '.join(found)}"
    if not any(part.startswith("flwr ") for part in found):
        yield bad("programs", here, "the aggregator lacks Flower: pip install 'fedge[aggregator]'")
    else:
        yield well("programs", here)
    if plant.description.broker is BrokerKind.MOSQUITTO:
        mosquitto = find_mosquitto()
        if mosquitto is None:
            yield bad("Mosquitto", "it is not installed, and is this plant's broker", f"install {INSTALL}")
        else:
            yield well("Mosquitto", _first_line(mosquitto.program, "-h"))
    else:
        yield doubtful(
            "broker",
            "the embedded one, for a trial",
            f"install {INSTALL}; then fedge init plant --broker mosquitto --renew",
        )


def examine_families(plant: Plant) -> Iterator[Finding]:
    """Whether each family's file can be read, and its releases are believed."""
    files = sorted(plant.families.glob("*.toml"))
    if not files:
        yield doubtful("families", "there is none yet", "fedge model from-csv FILES --family NAME")
        return
    try:
        published = TrustRepository(plant.fleet_data / "trust").published()
    except (FedgeError, OSError):
        return  # said where the repository is looked at
    for file in files:
        matter = f"family {file.stem}"
        if (why := _unreadable(file)) is not None:
            yield bad(matter, f"{file}: {why}", "mend it; the aggregator goes on without it")
        elif not published.family_keys(file.stem):
            yield bad(
                matter,
                "devices take no release of it: the signed repository does not name it",
                f"fedge fleet trust admit {file.stem}",
            )
        else:
            listed = published.roles.get(f"family-{file.stem}")
            targets = list(listed.signed.targets) if listed else []
            if targets:
                yield well(matter, f"{len(targets)} release(s) listed")
            else:
                yield doubtful(
                    matter, "no release is listed", f"fedge model from-csv FILES --family {file.stem}"
                )


def examine_backup(plant: Plant, now: float) -> Iterator[Finding]:
    """How old the last backup is, and how much was changed since: a line of the audit log for each change."""
    last = read_last_backup(plant)
    if last is None:
        yield doubtful("backup", "none was made here", MAKE_BACKUP)
        return
    seen, age_days = f"{last.file} of {day(last.at)}", (now - last.at) / DAY_S
    try:
        since = _count_audit_lines(load_fleet_settings(plant.fleet_config).effective_database_url)
    except (FedgeError, SQLAlchemyError):
        since = last.audit_entries
    seen += f", {max(0, since - last.audit_entries)} changes since"
    if age_days > OLD_BACKUP_DAYS or since - last.audit_entries > MANY_CHANGES:
        yield doubtful("backup", seen, MAKE_BACKUP)
    else:
        yield well("backup", seen)


def _count_audit_lines(url: str) -> int:
    parsed = parsed_address(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    if is_sqlite:
        at, options = f"sqlite:///file:{parsed.database}?mode=ro&uri=true", {}
    else:
        at = parsed.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        options = connection_options(parsed)
    engine = create_engine(at, connect_args=options)
    try:
        with engine.connect() as connection:
            return int(connection.execute(select(func.max(AuditEntry.id))).scalar() or 0)
    finally:
        engine.dispose()


def _look_into(url: str) -> tuple[str, float | None]:
    """The schema, empty where there is none; and what time it is there, of a server."""
    parsed = parsed_address(url)
    query = "SELECT version_num FROM alembic_version"
    if parsed.get_backend_name() == "sqlite":
        path = Path(parsed.database or "")
        if not path.exists():
            return "", None
        try:
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
                return str(connection.execute(query).fetchone()[0]), None
        except (sqlite3.Error, TypeError):
            return "", None
    engine = create_engine(
        parsed.set(drivername="postgresql+psycopg"), connect_args=connection_options(parsed)
    )
    try:
        with engine.connect() as connection:
            there = float(
                connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
            )
            has_tables = connection.execute(text("SELECT to_regclass('alembic_version')")).scalar()
            return str(connection.execute(text(query)).scalar() or "") if has_tables else "", there
    except SQLAlchemyError:
        return "", None
    finally:
        engine.dispose()


def _unreadable(file: Path) -> str | None:
    try:
        tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "it does not say its version"
    return (done.stdout or done.stderr).strip().partition("\n")[0]
