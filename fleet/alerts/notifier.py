"""The notifier: again and again it makes alerts of what is new, and of them storms and lines of the outbox. Under the leader alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy.orm import Session

from fleet.alert_settings import AlertSettings
from fleet.alerts.alarms import end_quiet, hear_anybody, note_signs, settle
from fleet.alerts.grouping import group_alerts, remind, resolve, tell
from fleet.alerts.signs import read_news
from fleet.repeating import repeat
from fleet.storage.alert_tables import AlertPlace
from fleet.storage.base import Database

__all__ = ["Notifier"]

EVERY_S: Final = 2.0
PAUSE_S: Final = 0.1
"""Where more waits: whoever stores events has the write lock in between."""


class Notifier:
    """Makes alerts and fills the outbox; `fleet.alerts.delivering` empties it.

    Args:
        database: the fleet's, as its leader writes to it.
        settings: of alerts.
        tenant: in the names of storms.
        now: Unix seconds.
    """

    def __init__(
        self,
        database: Database,
        settings: AlertSettings,
        *,
        tenant: str,
        now: Callable[[], float],
    ) -> None:
        self._database, self._settings = database, settings
        self._tenant, self._now = tenant, now

    async def run(self) -> None:
        """Do so until canceled."""
        await repeat(self.turn, every_s=EVERY_S, pause_s=PAUSE_S, failed="alerts_not_made")

    def turn(self) -> bool:
        """Take what is new, once, in one transaction; gives whether more waits."""
        with self._database.write() as session:
            return take_turn(session, self._settings, self._tenant, self._now())


def take_turn(session: Session, settings: AlertSettings, tenant: str, now: float) -> bool:
    """The places, the alerts made of what was read, and the outbox: all of it, or nothing."""
    news = read_news(session, now)
    note_signs(session, [*news.signs, *hear_anybody(session, now)], settings, now)
    for table, number in news.places.items():
        place = session.get(AlertPlace, table)
        if place is None:
            session.add(AlertPlace(table=table, number=number))
        elif place.number != number:
            place.number = number
    end_quiet(session, settings, now)
    has_more = group_alerts(session, settings, tenant, now)
    tell(session, settings, now)
    remind(session, settings, now)
    settle(session, now)
    resolve(session, settings, now)
    return news.has_more or has_more
