"""The gauges that are counted in the database: every replica sets its own, whoever leads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from fleet.alert_settings import Receiver
from fleet.metrics import FleetMetrics
from fleet.repeating import repeat
from fleet.storage.base import Database
from fleet.views.alerts import count_open, count_undelivered
from fleet.views.overview import UNDER_WAY, count_lasting, read_overview

__all__ = ["Gauges"]

EVERY_S: Final = 5.0
RECENT_S: Final = 7 * 86_400.0


class Gauges:
    """Counts what the first page shows (`fleet.views.overview`), and alerts.

    Args:
        database: the fleet's.
        metrics: gets the numbers.
        now: Unix seconds.
        receivers: who is told of alerts.
    """

    def __init__(
        self,
        database: Database,
        metrics: FleetMetrics,
        now: Callable[[], float],
        receivers: Sequence[Receiver] = (),
    ) -> None:
        self._database, self._metrics, self._now = database, metrics, now
        self._receivers = receivers

    async def run(self) -> None:
        """Count every `EVERY_S` until canceled."""
        await repeat(self.count, every_s=EVERY_S, failed="gauges_not_counted")

    def count(self) -> None:
        """Do it now."""
        with self._database.read() as session:
            overview = read_overview(session, since=self._now() - RECENT_S)
            lasting = count_lasting(session, since=self._now() - RECENT_S)
            alerts, undelivered = count_open(session), count_undelivered(session)
        metrics = self._metrics
        for state, count in overview.devices.items():
            metrics.devices.labels(state).set(count)
        for rollout_state in UNDER_WAY:
            metrics.rollouts.labels(rollout_state.value).set(overview.rollouts.get(rollout_state, 0))
        metrics.identity_conflicts.set(overview.identity_conflicts)
        metrics.dead_letters_present.set(overview.dead_letters)
        metrics.unjudged.set(overview.unjudged)
        metrics.open_anomalies.set(lasting)
        for kind, count in alerts.items():
            metrics.alerts_open.labels(kind).set(count)
        for receiver in self._receivers:
            waits = undelivered.get(receiver.name)
            since = None if waits is None else waits.oldest_at
            late_s = 0.0 if since is None else max(0.0, self._now() - since)
            metrics.alerts_undelivered.labels(receiver.name).set(late_s)
            metrics.alerts_parked.labels(receiver.name).set(waits.parked if waits else 0)
