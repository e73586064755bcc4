"""What happens by itself as time passes: devices go offline, conflicts end, commands expire. Old rows go by `fleet.retention`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import select, update

from fleet.desired import DesiredPublisher
from fleet.device_commands import expire_commands, is_due
from fleet.ingest.clones import end_conflicts, is_over
from fleet.repeating import repeat
from fleet.storage.base import Database
from fleet.storage.boot_tables import IdentityConflict
from fleet.storage.command_tables import CommandRecord
from fleet.storage.device_tables import Device
from protocol.messages.kinds import Kind

__all__ = ["Housekeeping"]

EVERY_S: Final = 5.0
"""How late a silent device may be called offline; four statements on indexed columns."""


class Housekeeping:
    """Keeps the fleet's view true while nothing arrives: who is silent is offline, what is over ends.

    Args:
        database: the fleet's.
        offline_after_s: silence after which a device counts as offline, seconds.
        now: Unix seconds.
        publisher: tells devices that a command of theirs has expired.
    """

    def __init__(
        self,
        database: Database,
        *,
        offline_after_s: float,
        now: Callable[[], float],
        publisher: DesiredPublisher,
    ) -> None:
        self._database = database
        self._offline_after_s = offline_after_s
        self._now = now
        self._publisher = publisher

    async def run(self) -> None:
        """Tidy every `EVERY_S` until canceled."""
        await repeat(self.tidy, every_s=EVERY_S, failed="housekeeping_failed")

    def tidy(self) -> None:
        """Do everything that is due now."""
        now = self._now()
        # what was heard in the future was heard by a clock of ours that was wrong, and proves nothing
        heard = Device.last_seen.between(now - self._offline_after_s, now + self._offline_after_s)
        silent = Device.online.is_(True) & ~heard
        with self._database.read() as session:
            has_silent = session.scalar(select(Device.id).where(silent).limit(1)) is not None
        if has_silent:
            with self._database.write() as session:
                session.execute(update(Device).where(silent).values(online=False))
        self._end_conflicts(now)
        self._expire_commands(now)

    def _end_conflicts(self, now: float) -> None:
        with self._database.read() as session:
            has_ended = (
                session.scalar(select(IdentityConflict.device).where(is_over(now)).limit(1)) is not None
            )
        if has_ended:
            with self._database.write() as session:
                end_conflicts(session, now)

    def _expire_commands(self, now: float) -> None:
        with self._database.read() as session:
            has_due = session.scalar(select(CommandRecord.number).where(is_due(now)).limit(1)) is not None
        if has_due:
            with self._database.write() as session:
                devices = expire_commands(session, now)
            self._publisher.announce(devices, Kind.COMMANDS)
