"""The gauges that are counted in the database: every replica sets its own, whoever leads."""

from __future__ import annotations

from typing import Final

from fleet.metrics import FleetMetrics
from fleet.repeating import repeat
from fleet.storage.base import Database
from fleet.views.overview import count_devices, count_waiting

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
        with self._database.read() as session:
            for state, count in count_devices(session).items():
                self._metrics.devices.labels(state).set(count)
            letters, conflicts = count_waiting(session)
        self._metrics.identity_conflicts.set(conflicts)
        self._metrics.dead_letters_present.set(letters)
