"""What the agent knows of itself: counters that survive restarts, latencies, memory, and how it is at present.

Pure state; it reads one file of /proc and writes none (`edge_agent.status` does). Counters are cumulative since the
device was commissioned, so that a lost health message loses no figure.

Source: reservoir sampling, J. S. Vitter, "Random Sampling with a Reservoir", ACM TOMS 1985 (algorithm R).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from edge_agent.kept_promise import KeptPromise
from protocol.messages.commands import SettingInForce
from protocol.messages.kinds import AgentState, InstallStep
from protocol.messages.payloads import Health

__all__ = [
    "LARGE_SHARE",
    "Counters",
    "Interval",
    "LatencyReservoir",
    "Readings",
    "Vitals",
    "headline",
    "health_of",
    "memory_pss_bytes",
]

_RESERVOIR: Final = 512
"""Latencies kept: the p99 of 512 is known within about half a percentile, for 4 KB."""


BLIND_WITHOUT_WINDOWS_S: Final = 60.0
"""A source that fails for less is a plug that somebody pushes in again."""
LARGE_SHARE: Final = 0.1
"""Of the recent windows: more that get no score are no accident, though blindness is never reached."""
_RECENT_WINDOWS: Final = 64

_MOST_MISSING: Final = 16
_LONGEST_NAME: Final = 200
_MOST_PROBLEMS: Final = 8
_LONGEST_PROBLEM: Final = 300
"""What `Health` takes of names and sentences; `status.json` says the problems whole."""


class Counters(Struct, kw_only=True):
    """Cumulative over all boots.

    `machine_time_s` is how much machine time was watched. `telemetry_bytes` are those that left for the broker, pings and
    greetings too; other bytes are payload bytes. `outbox_refused` events the fleet would never take.
    `stage_failures` are what `edge_agent.fence` caught. `unjudged_windows` met a model and got no score. `starts` counts
    starts of the agent, `crashes` those of them that no farewell preceded: `has_said_farewell` is false on disk while it
    runs.
    """

    windows: int = 0
    windows_over_threshold: int = 0
    anomalies: int = 0
    machine_time_s: float = 0.0
    raw_bytes: int = 0
    telemetry_bytes: int = 0
    training_bytes: int = 0
    update_bytes: int = 0
    outbox_evicted: int = 0
    outbox_refused: int = 0
    malformed_downlinks: int = 0
    source_errors: int = 0
    inference_errors: int = 0
    unjudged_windows: int = 0
    stage_failures: int = 0
    starts: int = 0
    crashes: int = 0
    has_said_farewell: bool = True

    def begin(self) -> None:
        """The agent starts."""
        if self.starts and not self.has_said_farewell:
            self.crashes += 1
        self.starts += 1
        self.has_said_farewell = False

    @property
    def restarts(self) -> int:
        """Starts after the first."""
        return max(0, self.starts - 1)


class Interval(Struct, kw_only=True):
    """What happened since the last health message; `over` and the scores are of `judged` windows, `threshold` of the last of them."""

    started_s: float
    windows: int = 0
    judged: int = 0
    over: int = 0
    score_sum: float = 0.0
    score_max: float = 0.0
    threshold: float | None = None

    def note(self, score: float, threshold: float) -> None:
        """One window was judged."""
        self.judged += 1
        self.score_sum += score
        self.score_max = max(self.score_max, score)
        self.threshold = threshold


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
    clocks of the loop: monotonic and Unix seconds. `unjudged_run` windows in a row got no score though a model was in
    force, the last one for `unjudged_reason`; from `blind_after_windows` on that is blindness. `unjudged_share` is that
    of the recent windows, in [0, 1]; `is_unusable` says that nothing could be made of the very last one. `last_score` is None
    unless the last window got one. `source_problem` says why no window comes, since `source_problem_since_s`;
    `stage_problems` which stages of the loop fail.
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
    blind_after_windows: int = 12
    unjudged_run: int = 0
    unjudged_reason: str = ""
    unjudged_share: float = 0.0
    is_unusable: bool = False
    source_problem: str = ""
    source_problem_since_s: float = 0.0
    stage_problems: tuple[str, ...] = ()

    def note_no_window(self, why: str, clock_s: float) -> None:
        """The source fails or does not answer; for a minute of that, whatever the reason, and this device is blind."""
        if not self.source_problem:
            self.source_problem_since_s = clock_s
        self.source_problem = why
        if clock_s - self.source_problem_since_s >= BLIND_WITHOUT_WINDOWS_S:
            self.state = AgentState.BLIND

    def note_judged(self, *, is_judged: bool) -> None:
        """A window met a model, and got a score or got none."""
        self.unjudged_run = 0 if is_judged else self.unjudged_run + 1
        self.unjudged_share += ((not is_judged) - self.unjudged_share) / _RECENT_WINDOWS


@dataclass(frozen=True, kw_only=True)
class Readings:
    """What the parts of the agent say at present; the fields are those of `protocol.messages.payloads.Health`, but for `promise`."""

    drift_score: float
    drifted: bool
    outbox_events: int
    buffered_windows: int
    training_run: str | None
    install_step: InstallStep
    memory_pss_bytes: int
    drift_accepted: bool = False
    drift_severity: float | None = None
    missing: tuple[str, ...] = ()
    sight: float | None = None
    commissioned_share: float = 1.0
    is_provisional: bool = False
    clipped_share: float = 0.0
    set_aside_windows: int = 0
    obeyed: int = 0
    settings: tuple[SettingInForce, ...] = ()
    promise: KeptPromise | None = None
    outbox_parked: int = 0
    problems: tuple[str, ...] = ()


def health_of(vitals: Vitals, readings: Readings, clock_s: float) -> Health:
    """Lay everything out as the protocol's Health; `clock_s` is on the clock of `vitals.started_clock_s`."""
    counters, interval, latencies = vitals.counters, vitals.interval, vitals.latencies
    judged = interval.judged
    return _without_defaults(
        Health(
            state=vitals.state,
            release=vitals.release,
            uptime_s=round(clock_s - vitals.started_clock_s, 1),
            windows=counters.windows,
            windows_over_threshold=counters.windows_over_threshold,
            anomalies=counters.anomalies,
            interval_s=round(max(0.0, clock_s - interval.started_s), 2),
            interval_windows=interval.windows,
            interval_judged=judged,
            anomaly_rate=_brief(interval.over / judged) if judged else 0.0,
            score_mean=_brief(interval.score_sum / judged) if judged else 0.0,
            score_max=_brief(interval.score_max),
            threshold=None if interval.threshold is None else _brief(interval.threshold),
            drift_score=_brief(readings.drift_score),
            drifted=readings.drifted,
            drift_accepted=readings.drift_accepted,
            drift_severity=None if readings.drift_severity is None else _brief(readings.drift_severity),
            machine_time_s=round(counters.machine_time_s, 1),
            inference_p50_us=round(latencies.quantile(0.5), 1),
            inference_p99_us=round(latencies.quantile(0.99), 1),
            memory_pss_bytes=readings.memory_pss_bytes,
            raw_bytes=counters.raw_bytes,
            telemetry_bytes=counters.telemetry_bytes,
            training_bytes=counters.training_bytes,
            update_bytes=counters.update_bytes,
            outbox_events=readings.outbox_events,
            outbox_evicted=counters.outbox_evicted,
            outbox_refused=counters.outbox_refused,
            outbox_parked=readings.outbox_parked,
            buffered_windows=readings.buffered_windows,
            training_run=readings.training_run,
            install_step=readings.install_step,
            unjudged_windows=counters.unjudged_windows,
            restarts=counters.restarts,
            crashes=counters.crashes,
            stage_failures=counters.stage_failures,
            missing=tuple(name[:_LONGEST_NAME] for name in readings.missing[:_MOST_MISSING]),
            sight=None if readings.sight is None else _brief(readings.sight),
            commissioned_share=_brief(readings.commissioned_share),
            is_provisional=readings.is_provisional,
            clipped_share=_brief(readings.clipped_share),
            set_aside_windows=readings.set_aside_windows,
            obeyed=readings.obeyed,
            settings=readings.settings,
            **_promised(readings.promise),
            problems=tuple(problem[:_LONGEST_PROBLEM] for problem in readings.problems[:_MOST_PROBLEMS]),
        )
    )


def _promised(kept: KeptPromise | None) -> dict[str, Any]:
    if kept is None:
        return {}
    promise, realised = kept.promise, kept.realised
    low, high = realised.interval_per_1000
    return {
        "promised_per_1000": kept.promised_per_1000,
        "supported_per_1000": _brief(1000 * promise.supported),
        "is_promise_provisional": promise.is_provisional,
        "promise_horizon_left": kept.horizon_left,
        "realised_alarms": realised.alarms,
        "realised_windows": realised.windows,
        "realised_low_per_1000": _brief(low),
        "realised_high_per_1000": None if high is None else _brief(high),
        "time_in_alarm_share": _brief(realised.in_alarm / max(realised.windows, 1)),
    }


_DEFAULTS: Final = {
    field.name: field.default
    for field in msgspec.structs.fields(Health)
    if field.default is not msgspec.NODEFAULT
}


def _without_defaults(health: Health) -> Health:
    """The same, with the very objects that are the defaults: msgspec leaves out what *is* one, not what equals one."""
    same = {name: default for name, default in _DEFAULTS.items() if getattr(health, name) == default}
    return msgspec.structs.replace(health, **same)


def _brief(value: float) -> float:
    """Four digits say all that a rate or a mean over some windows can; the rest would only be sent."""
    return float(f"{value:.4g}")


def headline(vitals: Vitals) -> str:
    """How the agent is, in a line for whoever started it."""
    problems = (
        vitals.source_problem,
        *vitals.stage_problems,
        vitals.unjudged_reason if vitals.unjudged_run else "",
    )
    said = next(filter(None, problems), "")
    return f"{vitals.state.value}, release {vitals.release or 'none'}, {vitals.counters.windows} windows{'; ' if said else ''}{said}"


def memory_pss_bytes(smaps_rollup: Path = Path("/proc/self/smaps_rollup")) -> int:
    """This process's proportional share of memory, bytes; 0 where the kernel does not tell."""
    try:
        for line in smaps_rollup.read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return 0
    return 0
