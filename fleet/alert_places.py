"""How far alerts have been made of what is stored: one place a table, moved in the transaction that writes the alerts.

A number is committed in the order in which it is given out, because writers are one at a time (`fleet.storage.base`), so nothing
comes later under a number that was passed. SQLite gives the numbers of deleted last rows once more; `count_anew` follows.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from fleet.storage.access_tables import AuditEntry
from fleet.storage.alert_tables import AlertPlace
from fleet.storage.device_tables import DeviceChange
from fleet.storage.event_tables import Anomaly, AnomalyEnd
from fleet.storage.rollout_tables import RolloutTransition

__all__ = ["WATCHED", "count_anew", "newest", "places"]

WATCHED: Final[tuple[Any, ...]] = (Anomaly, AnomalyEnd, DeviceChange, RolloutTransition, AuditEntry)
"""The tables that alerts are made of."""


def newest(session: Session) -> dict[str, int]:
    """The last number of each table."""
    asked = select(*(select(func.max(table.id)).scalar_subquery() for table in WATCHED))
    numbers = session.execute(asked).one()
    return {table.__tablename__: number or 0 for table, number in zip(WATCHED, numbers, strict=True)}


def places(session: Session) -> dict[str, int]:
    """Where each table is; a table that is not among them was never looked at."""
    return dict(session.execute(select(AlertPlace.table, AlertPlace.number)).all())


def count_anew(session: Session) -> None:
    """After rows were deleted: what comes under their numbers has not been looked at."""
    for table in WATCHED:
        last = select(func.coalesce(func.max(table.id), 0)).scalar_subquery()
        ahead = (AlertPlace.table == table.__tablename__) & (AlertPlace.number > last)
        moved = update(AlertPlace).where(ahead).values(number=last)
        session.execute(moved.execution_options(synchronize_session=False))
