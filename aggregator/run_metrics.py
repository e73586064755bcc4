"""Prometheus figures about training runs, read from the store when somebody asks: nothing is counted twice or lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from aggregator.rounds.run_store import RunStore

__all__ = ["RunMetrics"]


class RunMetrics(Collector):
    """Runs by family and state; the last finished round's seconds, overhead and refusals by family."""

    def __init__(self, store: RunStore) -> None:
        self._store = store

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client.registry.Collector`."""
        runs = self._store.recent(limit=500)
        states = GaugeMetricFamily(
            "fedge_training_runs", "Training runs by state (the last 500)", labels=["family", "state"]
        )
        for (family, state), count in Counter((run.family, run.state.value) for run in runs).items():
            states.add_metric([family, state], count)
        seconds = GaugeMetricFamily(
            "fedge_round_seconds", "Wall seconds of the last finished round", labels=["family"]
        )
        refused = GaugeMetricFamily(
            "fedge_round_refused_devices", "Devices refused in the last round", labels=["family"]
        )
        seen: set[str] = set()
        for run in runs:
            if run.family in seen or not run.log:
                continue
            seen.add(run.family)
            last = run.log[-1]
            seconds.add_metric([run.family], last.seconds)
            refused.add_metric([run.family], len(last.refused))
        return [states, seconds, refused]
