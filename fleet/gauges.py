"""The gauges that are counted in the database: every replica sets its own, whoever leads."""

from __future__ import annotations

from typing import Final

from sqlalchemy import func, select

from fleet.metrics import FleetMetrics
from fleet.repeating import repeat
from fleet.storage.base import Database
from fleet.storage.boot_tables import IdentityConflict
from fleet.storage.dead_letter_tables import DeadLetter
from fleet.storage.device_tables import Device, DeviceState
from protocol.messages.kinds import AgentState

__all__ = ["Gauges"]

EVERY_S: Final = 5.0


class Gauges:
    """Counts devices by what they are, conflicts and dead letters.

    Args:
        database: the fleet's.
        metrics: gets the numbers.
    """

    def __init__(self, database: Database, metrics: FleetMetrics) -> None:
        self._database, self._metrics = database, metrics

    async def run(self) -> None:
        """Count every `EVERY_S` until canceled."""
        await repeat(self.count, every_s=EVERY_S, failed="gauges_not_counted")

    def count(self) -> None:
        """Do it now."""
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
