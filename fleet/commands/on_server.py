"""What commands on the server share: the fleet's database, and the audit line of who changed it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.settings import load_fleet_settings

# The database layer takes a second to import, which a client command of the same program need not wait for:
# the imports inside functions are for that.
if TYPE_CHECKING:
    from sqlalchemy.orm import Session

__all__ = ["changing", "note", "reading"]


@contextmanager
def changing(config: Path) -> Iterator[Session]:
    """A transaction on the database that the settings file names."""
    from fleet.migrations.upgrade import open_storage

    url = load_fleet_settings(config).effective_database_url
    with closing(open_storage(url)) as database, database.write() as session:
        yield session


@contextmanager
def reading(config: Path) -> Iterator[Session]:
    """A look at the database that the settings file names; nobody who writes waits for it."""
    from fleet.migrations.upgrade import open_storage

    url = load_fleet_settings(config).effective_database_url
    with closing(open_storage(url)) as database, database.read() as session:
        yield session


def note(session: Session, action: str, subject: str, **detail: object) -> None:
    """Write the audit line of what this command did."""
    from fleet import audit

    actor = audit.person_on_server()
    audit.record(session, at=time.time(), actor=actor, action=action, subject=subject, **detail)
