"""Prometheus figures about training: read from the store and the ledger when somebody asks, so nothing is counted twice or lost."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from aggregator.privacy.accounts import PrivacyAccounts
from aggregator.privacy.figures import Figures
from aggregator.rounds.run_store import RunStore
from protocol.names import FamilyName

__all__ = ["open_registry"]

AT_ONCE: Final = 200


def open_registry(
    store: RunStore, accounts: PrivacyAccounts, is_connected: Callable[[], bool]
) -> CollectorRegistry:
    """Everything that the aggregator says about training; `is_connected`: whether it sees the broker."""
    registry = CollectorRegistry()
    registry.register(RunMetrics(store))
    registry.register(PrivacyMetrics(accounts))
    connected = Gauge(
        "fedge_aggregator_broker_connected", "1 while connected to the broker", registry=registry
    )
    connected.set_function(is_connected)
    return registry


class RunMetrics(Collector):
    """Ended runs by family and outcome, runs under way, and the last round of each family.

    An ended run never changes, so each is read once in the life of the process.

    Args:
        store: the runs.
    """

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._ended: Counter[tuple[str, str]] = Counter()
        self._rounds: dict[str, tuple[float, int, int]] = {}
        self._upto: tuple[float, str] = (-math.inf, "")

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client.registry.Collector`."""
        with self._lock:
            self._read_on()
            ended = CounterMetricFamily(
                "fedge_training_runs", "Training runs that ended, by outcome", labels=["family", "state"]
            )
            for (family, state), count in sorted(self._ended.items()):
                ended.add_metric([family, state], count)
            running = GaugeMetricFamily(
                "fedge_training_runs_open", "Training runs under way, by state", labels=["family", "state"]
            )
            rounds = dict(self._rounds)
            for run in self._store.unfinished():
                running.add_metric([run.family, run.state.value], 1)
                if run.log:
                    last = run.log[-1]
                    rounds[run.family] = last.seconds, len(last.refused), len(last.participants)
        figures = {
            name: GaugeMetricFamily(f"fedge_training_round_{name}", words, labels=["family"])
            for name, words in (
                ("seconds", "Wall seconds of the last finished round"),
                ("refused", "Devices refused in the last round"),
                ("participants", "Devices in the sum of the last round"),
            )
        }
        for family, values in rounds.items():
            for metric, value in zip(figures.values(), values, strict=True):
                metric.add_metric([family], value)
        return [ended, running, *figures.values()]

    def _read_on(self) -> None:
        while True:
            runs = self._store.ended_after(*self._upto, limit=AT_ONCE)
            for run in runs:
                self._ended[run.family, run.state.value] += 1
                if run.log:
                    last = run.log[-1]
                    self._rounds[run.family] = last.seconds, len(last.refused), len(last.participants)
                self._upto = run.ended_at or 0.0, run.id
            if len(runs) < AT_ONCE:
                return


class PrivacyMetrics(Collector):
    """What each family has spent of its privacy, and its limits; reckoned anew only after another round.

    Args:
        accounts: over the ledger.
    """

    def __init__(self, accounts: PrivacyAccounts) -> None:
        self._accounts = accounts
        self._lock = threading.Lock()
        self._known: dict[str, tuple[tuple[int, int], Figures]] = {}

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client.registry.Collector`; a family without limit has no `..._limit`."""
        spent = GaugeMetricFamily(
            "fedge_privacy_epsilon_spent",
            "Epsilon spent by the device that gave most",
            labels=["family", "towards"],
        )
        limit = GaugeMetricFamily(
            "fedge_privacy_epsilon_limit", "Most epsilon that may be spent", labels=["family", "towards"]
        )
        for family in self._accounts.families():
            figures, budget = self._figures(family), self._accounts.budget(family)
            for towards, value, most in (
                ("server", figures.server, budget.epsilon_server),
                ("release", figures.release, budget.epsilon_release),
            ):
                spent.add_metric([family, towards], value)
                if most is not None:
                    limit.add_metric([family, towards], most)
        return [spent, limit]

    def _figures(self, family: FamilyName) -> Figures:
        with self._lock:
            # a round that was opened counts at its worst, and for what it is once it is closed
            rounds = self._accounts.rounds(family)
            mark = len(rounds), sum(held.is_open for held in rounds)
            known = self._known.get(family)
            if known is None or known[0] != mark:
                known = self._known[family] = mark, self._accounts.figures(family)
            return known[1]
