"""What the agent knows of itself: counters that survive restarts, latencies, memory, and how it is at present.

Pure state; it reads one file of /proc and writes none (`edge_agent.status` does). Counters are cumulative since the
device was commissioned, so that a lost health message loses no figure.

Source: reservoir sampling, J. S. Vitter, "Random Sampling with a Reservoir", ACM TOMS 1985 (algorithm R).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from msgspec import Struct

from protocol.messages.kinds import AgentState, InstallStep
from protocol.messages.payloads import Health

__all__ = ["Counters", "Interval", "LatencyReservoir", "Vitals", "health_of", "memory_pss_bytes"]

_RESERVOIR: Final = 512
"""Latencies kept: the p99 of 512 is known within about half a percentile, for 4 KB."""


class Counters(Struct, kw_only=True):
    """Cumulative over all boots. `machine_time_s` is how much machine time was watched; bytes are payload bytes."""

    windows: int = 0
    windows_over_threshold: int = 0
    anomalies: int = 0
    machine_time_s: float = 0.0
    raw_bytes: int = 0
    telemetry_bytes: int = 0
    training_bytes: int = 0
    update_bytes: int = 0
    outbox_evicted: int = 0
    malformed_downlinks: int = 0
    source_errors: int = 0
    inference_errors: int = 0


class Interval(Struct, kw_only=True):
    """What happened since the last health message."""

    started_s: float
    windows: int = 0
    over: int = 0
    score_sum: float = 0.0


class LatencyReservoir:
    """A uniform sample of all latencies since it was last cleared; bounded."""

    def __init__(self, rng: random.Random, size: int = _RESERVOIR) -> None:
        self._rng = rng
        self._size = size
        self._kept: list[float] = []
        self._seen = 0

    def add(self, latency_us: float) -> None:
        """Note one inference, µs."""
        self._seen += 1
        if len(self._kept) < self._size:
            self._kept.append(latency_us)
        else:
            slot = int(self._rng.random() * self._seen)
            if slot < self._size:
                self._kept[slot] = latency_us

    def quantile(self, q: float) -> float:
        """The nearest-rank quantile, µs; 0 where nothing was noted."""
        if not self._kept:
            return 0.0
        ordered = sorted(self._kept)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))]

    def clear(self) -> None:
        """Forget all: another model is another distribution."""
        self._kept.clear()
        self._seen = 0


@dataclass(kw_only=True)
class Vitals:
    """How the agent is: its loop writes this, who reports reads it. One thread.

    `release` is the one whose model judges windows now; `is_trial` whether it still has to prove itself. Started on the
    clocks of the loop: monotonic and Unix seconds.
    """

    counters: Counters
    latencies: LatencyReservoir
    started_clock_s: float
    started_wall_s: float
    interval: Interval
    state: AgentState = AgentState.STARTING
    release: str | None = None
    is_trial: bool = False
    last_score: float | None = None


def health_of(
    vitals: Vitals,
    clock_s: float,
    *,
    drift_score: float,
    drifted: bool,
    outbox_events: int,
    buffered_windows: int,
    training_run: str | None,
    install_step: InstallStep,
    memory_pss_bytes: int,
) -> Health:
    """Lay everything out as the protocol's Health; `clock_s` is on the clock of `vitals.started_clock_s`."""
    counters, interval, latencies = vitals.counters, vitals.interval, vitals.latencies
    windows = interval.windows
    return Health(
        state=vitals.state,
        release=vitals.release,
        uptime_s=round(clock_s - vitals.started_clock_s, 1),
        windows=counters.windows,
        windows_over_threshold=counters.windows_over_threshold,
        anomalies=counters.anomalies,
        interval_s=round(max(0.0, clock_s - interval.started_s), 2),
        interval_windows=windows,
        anomaly_rate=_brief(interval.over / windows) if windows else 0.0,
        score_mean=_brief(interval.score_sum / windows) if windows else 0.0,
        drift_score=_brief(drift_score),
        drifted=drifted,
        machine_time_s=round(counters.machine_time_s, 1),
        inference_p50_us=round(latencies.quantile(0.5), 1),
        inference_p99_us=round(latencies.quantile(0.99), 1),
        memory_pss_bytes=memory_pss_bytes,
        raw_bytes=counters.raw_bytes,
        telemetry_bytes=counters.telemetry_bytes,
        training_bytes=counters.training_bytes,
        update_bytes=counters.update_bytes,
        outbox_events=outbox_events,
        outbox_evicted=counters.outbox_evicted,
        buffered_windows=buffered_windows,
        training_run=training_run,
        install_step=install_step,
    )


def _brief(value: float) -> float:
    """Four digits say all that a rate or a mean over some windows can; the rest would only be sent."""
    return float(f"{value:.4g}")


def memory_pss_bytes(smaps_rollup: Path = Path("/proc/self/smaps_rollup")) -> int:
    """This process's proportional share of memory, bytes; 0 where the kernel does not tell."""
    try:
        for line in smaps_rollup.read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return 0
    return 0
