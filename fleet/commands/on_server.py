"""What commands on the server share: the fleet's database, and the audit lines of who changed it, or files beside it."""

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

__all__ = ["changing", "changing_files", "note", "reading"]


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


@contextmanager
def changing_files(config: Path, action: str, subject: str, **detail: object) -> Iterator[dict[str, object]]:
    """Change files, which no transaction holds: a line ``change_begun`` is stored before the block, and `action` after it.

    So a kill in between, or a refusal within the block, leaves a line that says what to look at, and never a change without one.
    Yields what the second line tells: `detail`, to which the block may add.
    """
    with changing(config) as session:
        note(session, "change_begun", subject, change=action, **detail)
    yield detail
    with changing(config) as session:
        note(session, action, subject, **detail)


def note(session: Session, action: str, subject: str, **detail: object) -> None:
    """Write the audit line of what this command did."""
    from fleet import audit

    actor = audit.person_on_server()
    audit.record(session, at=time.time(), actor=actor, action=action, subject=subject, **detail)
