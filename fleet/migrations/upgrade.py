"""Brings a database to the newest schema in one transaction, or refuses one that is newer than this build.

Two processes may do it at once (a server that starts, a command line beside it): the second waits and finds nothing
left to do.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session

from fleet.leadership import is_led
from fleet.storage.base import Database, open_database
from fleet.storage.connecting import check_connection
from fleet.storage.outages import why_not_stored
from runtime.errors import StorageError
from service.errors import StartError

__all__ = ["make_revision", "newest_schema", "open_storage"]

FOLDER: Final = Path(__file__).parent

LEADERS_SINCE: Final = "0017"
"""A build of an older schema holds no lock by which one sees that it serves."""

LOOKS, LOOK_EVERY_S = 20, 0.1
"""Whoever only asks something is gone before that; whoever serves is not."""


def open_storage(url: str) -> Database:
    """Connect to the database at `url` and apply every migration that it misses.

    Raises:
        SettingsError: as `open_database`.
        StartError: PostgreSQL cannot be connected to, or lets nobody make tables; says why and what to do.
        StorageError: the database is of a newer build, or not one of ours, or of an older one that serves it now.
    """
    database = open_database(url)
    if database.engine.dialect.name == "postgresql":
        check_connection(url)  # in words that say what to do; whoever goes on has it watched
    try:
        _check_nobody_serves(database)
        with database.write() as session:
            command.upgrade(_config(session), "head")
    except CommandError as error:
        database.close()
        raise StorageError(
            f"the database's schema is not known to this build ({error}); run the build that wrote it, or a newer one"
        ) from None
    except ProgrammingError as error:
        database.close()
        raise StartError(
            f"the database takes no tables of ours: {why_not_stored(error)}; its user must own them, and the schema they are in"
        ) from None
    except BaseException:
        database.close()  # whoever was refused is company to the next one
        raise
    return database


def newest_schema() -> str:
    """The revision that this build brings a database to."""
    return str(ScriptDirectory(str(FOLDER)).get_current_head())


def _check_nobody_serves(database: Database) -> None:
    """A schema is not changed below a process that goes on with the former one."""
    for look in range(LOOKS):
        time.sleep(LOOK_EVERY_S if look else 0)
        with database.read() as session:
            present = MigrationContext.configure(session.connection()).get_current_revision()
            steps = [step.revision for step in ScriptDirectory.from_config(_config(session)).walk_revisions()]
        # of a newer build, too: the upgrade says what is wrong then
        if present not in steps[1:] or not _is_served(database, present):
            return
    raise StorageError(
        f"the database's schema is {present}, this build's is {steps[0]}, and another process has the database: a service"
        " of the other build, or a program that copies it; stop it (every replica), then start this build (docs/fleet.md)"
    )


def _is_served(database: Database, schema: str) -> bool:
    """Whether another process has the database: leads on PostgreSQL, or has a connection (always on SQLite)."""
    if database.engine.dialect.name == "sqlite":
        return _has_company(database)
    if schema >= LEADERS_SINCE:
        return is_led(database)
    others = (
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND usename = current_user"
        " AND pid <> pg_backend_pid()"
    )
    with database.read() as session:
        return session.execute(text(others)).first() is not None


def _has_company(database: Database) -> bool:
    """Whether this SQLite file is open elsewhere: each connection in WAL mode shares a lock on it, that of an older build, too."""
    database.close()  # one that this process is done with would be company
    connection = database.engine.raw_connection()
    try:
        for statement in ("busy_timeout = 0", "locking_mode = EXCLUSIVE"):
            connection.cursor().execute(f"PRAGMA {statement}")
        connection.cursor().execute("BEGIN IMMEDIATE")
        connection.cursor().execute("ROLLBACK")
    except sqlite3.OperationalError:
        return True
    finally:
        connection.invalidate()  # is closed, and the lock with it
    return False


def make_revision(message: str, database: Database) -> None:
    """Write the difference between `fleet.storage` and `database` (at head) as a new step: for developers."""
    with database.write() as session:
        config = _config(session)
        command.revision(config, message, autogenerate=True, rev_id=_next_revision(config))


def _next_revision(config: Config) -> str:
    return f"{len(list(ScriptDirectory.from_config(config).walk_revisions())) + 1:04d}"


def _config(session: Session) -> Config:
    config = Config()
    config.attributes["connection"] = session.connection()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    return config
