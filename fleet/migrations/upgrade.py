"""Brings a database to the newest schema in one transaction, or refuses one that is newer than this build.

Two processes may do it at once (a server that starts, a command line beside it): the second waits and finds nothing
left to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.orm import Session

from fleet.leadership import is_led
from fleet.storage.base import Database, open_database
from runtime.errors import StorageError

__all__ = ["make_revision", "open_storage"]

FOLDER: Final = Path(__file__).parent


def open_storage(url: str) -> Database:
    """Connect to the database at `url` and apply every migration that it misses.

    Raises:
        SettingsError: as `open_database`.
        StorageError: the database is of a newer build, or not one of ours, or of an older one that serves it now (PostgreSQL).
    """
    database = open_database(url)
    with database.write() as session:
        try:
            _check_nobody_leads(database, session)
            command.upgrade(_config(session), "head")
        except CommandError as error:
            raise StorageError(
                f"the database's schema is not known to this build ({error}); run the build that wrote it, or a newer one"
            ) from None
    return database


def _check_nobody_leads(database: Database, session: Session) -> None:
    """A schema is not changed below a process that goes on with the former one."""
    present = MigrationContext.configure(session.connection()).get_current_revision()
    head = ScriptDirectory.from_config(_config(session)).get_current_head()
    if present not in {None, head} and is_led(database):
        raise StorageError(
            f"the database's schema is {present}, this build's is {head}, and a process of the other build leads this fleet;"
            " stop every replica, then start this build (docs/scaling.md)"
        )


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
