"""What happens by itself as time passes: devices go offline, old health goes, conflicts end, commands expire, gauges are set.

Anomalies, drift, install reports and the audit log are kept: they are few, and people ask about them later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import SQLAlchemyError

from fleet.desired import DesiredPublisher
from fleet.device_commands import expire_commands, is_due
from fleet.ingest.clones import end_conflicts, is_over
from fleet.metrics import FleetMetrics
from fleet.storage.base import Database
from fleet.storage.boot_tables import IdentityConflict
from fleet.storage.command_tables import CommandRecord
from fleet.storage.dead_letter_tables import DeadLetter
from fleet.storage.device_tables import Device, DeviceState
from fleet.storage.event_tables import HealthRecord
from fleet.storage.outages import DatabaseAwayError, why_not_stored
from protocol.messages.kinds import AgentState, Kind

__all__ = ["Housekeeping"]

EVERY_S: Final = 5.0
"""How late a silent device may be called offline; four statements on indexed columns."""

PRUNED_AT_ONCE: Final = 5000
"""Health rows removed in one transaction: ~20 ms, so that ingest never waits long for the write lock."""

_log = structlog.get_logger()


class Housekeeping:
    """Keeps the fleet's view true while nothing arrives: who is silent is offline, old health goes, gauges are set.

    Args:
        database: the fleet's.
        metrics: gets the number of devices by what they are.
        offline_after_s: silence after which a device counts as offline, seconds.
        health_history_s: how long health messages are kept, seconds.
        now: Unix seconds.
        publisher: tells devices that a command of theirs has expired.
    """

    def __init__(
        self,
        database: Database,
        metrics: FleetMetrics,
        *,
        offline_after_s: float,
        health_history_s: float,
        now: Callable[[], float],
        publisher: DesiredPublisher,
    ) -> None:
        self._database = database
        self._metrics = metrics
        self._offline_after_s = offline_after_s
        self._health_history_s = health_history_s
        self._now = now
        self._publisher = publisher

    async def run(self) -> None:
        """Tidy every `EVERY_S` until canceled."""
        while True:
            try:
                await asyncio.to_thread(self.tidy)
            except DatabaseAwayError:
                pass  # it has been told
            except SQLAlchemyError as error:
                _log.error("housekeeping_failed", error=why_not_stored(error))
            await asyncio.sleep(EVERY_S)

    def tidy(self) -> None:
        """Do everything that is due now."""
        now = self._now()
        # what was heard in the future was heard by a clock of ours that was wrong, and proves nothing
        heard = Device.last_seen.between(now - self._offline_after_s, now + self._offline_after_s)
        silent = Device.online.is_(True) & ~heard
        old = select(HealthRecord.id).where(HealthRecord.received_at < now - self._health_history_s)
        with self._database.read() as session:
            has_silent = session.scalar(select(Device.id).where(silent).limit(1)) is not None
            has_old = session.scalar(old.limit(1)) is not None
        if has_silent or has_old:
            with self._database.write() as session:
                session.execute(update(Device).where(silent).values(online=False))
                session.execute(
                    delete(HealthRecord)
                    .where(HealthRecord.id.in_(old.limit(PRUNED_AT_ONCE)))
                    .execution_options(synchronize_session=False)
                )
        self._end_conflicts(now)
        self._expire_commands(now)
        self._count()

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

    def _count(self) -> None:
        enrolled = Device.state == DeviceState.ENROLLED
        conditions = {
            "enrolled": enrolled,
            "online": enrolled & Device.online.is_(True),
            "drifted": enrolled & Device.drifted.is_(True),
            "blind": enrolled & (Device.agent_state == AgentState.BLIND),
            "waiting": Device.state == DeviceState.WAITING,
            "revoked": Device.state == DeviceState.REVOKED,
        }
        with self._database.read() as session:
            for state, condition in conditions.items():
                count = session.scalar(select(func.count()).select_from(Device).where(condition))
                self._metrics.devices.labels(state).set(count or 0)
            named = (
                select(func.count()).select_from(IdentityConflict).where(IdentityConflict.since.is_not(None))
            )
            self._metrics.identity_conflicts.set(session.scalar(named) or 0)
            letters = select(func.count()).select_from(DeadLetter)
            self._metrics.dead_letters_present.set(session.scalar(letters) or 0)
