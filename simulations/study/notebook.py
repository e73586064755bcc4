"""What is noted of an agent while it is played: alarms, drift, scores and the windows furthest off, of held-back time alone.

Window numbers count from the beginning of held-back time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.judgement import Judged
from edge_agent.judges import Judge
from edge_agent.pipeline import Pipeline
from models.sensors import SensorView
from models.thresholds import Closed, Opened

__all__ = ["Episode", "Notebook", "Played", "Worst"]

WORST: Final = 3
APART: Final = 30
"""Windows between two of the worst, so that one event is shown once."""
BLAMED: Final = 3


@dataclass(frozen=True, kw_only=True)
class Episode:
    """An alarm over held-back windows [first, end), with the sensors that were blamed as it opened.

    `is_old`: it opened in the learning time; `is_open`: it still went on at the end.
    """

    first: int
    end: int
    contributors: tuple[str, ...] = ()
    is_old: bool = False
    is_open: bool = False


@dataclass(frozen=True, kw_only=True)
class Worst:
    """A window far off: how many times the threshold its score was, and which sensors made it, the most first."""

    window: int
    ratio: float
    contributors: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Played:
    """What an agent did on one machine under one release.

    Attributes:
        machine, release: names.
        ratios: statistic over threshold of each held-back window (n,), float32; NaN where there was no judgement.
        alarms: as the agent told them, in int8.
        float_alarms: of the same judges before quantisation.
        drift_reports: held-back windows at which drift began or went on elsewhere.
        away: held-back windows while the machine was not where its reference was taken.
        worst: the largest ratios, the largest first.
        sight: share of slight disturbances that the agent saw; None: not known.
        commissioned_after: windows until it knew its scale; None: never.
        promise: what it said of false alarms, at the end; empty: nothing.
        learnt_on: windows that its last detector was fitted on.
        problems: its own sentences, at the end.
        window_us: processor time of a window, the median, microseconds.
        slowest_s: of the slowest window: one at which it learnt.
        sent_bytes: of all messages about alarms.
    """

    machine: str
    release: str
    ratios: NDArray[np.float32]
    alarms: tuple[Episode, ...] = ()
    float_alarms: tuple[Episode, ...] = ()
    drift_reports: tuple[int, ...] = ()
    away: int = 0
    worst: tuple[Worst, ...] = ()
    sight: float | None = None
    commissioned_after: int | None = None
    promise: str = ""
    learnt_on: int = 0
    problems: tuple[str, ...] = ()
    window_us: float = 0.0
    slowest_s: float = 0.0
    sent_bytes: int = 0

    @property
    def judged(self) -> int:
        """Held-back windows that were judged."""
        return int(np.isfinite(self.ratios).sum())


@dataclass(kw_only=True)
class Notebook:
    """Of one agent; `first` is the number of the first held-back window."""

    sensors: SensorView
    first: int
    held_back: int
    ratios: NDArray[np.float32] = field(init=False)
    alarms: list[Episode] = field(default_factory=list)
    drift_reports: list[int] = field(default_factory=list)
    away: int = 0
    commissioned_after: int | None = None
    worst: list[Worst] = field(default_factory=list)
    _opened: tuple[int, tuple[str, ...]] | None = None

    def __post_init__(self) -> None:
        self.ratios = np.full(self.held_back, np.nan, np.float32)

    def note(self, number: int, judged: Judged, pipeline: Pipeline) -> None:
        """Window `number` of the recording was judged."""
        held = number - self.first
        self._note_alarm(held, judged)
        if held < 0:
            return
        is_drifted = pipeline.normal.is_drifted
        self.away += is_drifted
        if judged.drift is not None and is_drifted:
            self.drift_reports.append(held)
        self.ratios[held] = ratio = judged.score / judged.threshold
        if pipeline.normal.judge is not None and (len(self.worst) < WORST or ratio > self.worst[-1].ratio):
            self._keep_worst(held, ratio, judged, pipeline.normal.judge)

    def end(self) -> None:
        """The recording is through: an alarm that goes on ends with it."""
        if self._opened is not None:
            self.alarms.append(_episode(self._opened, self.held_back, is_open=True))
            self._opened = None

    def _note_alarm(self, held: int, judged: Judged) -> None:
        if isinstance(judged.alarm, Opened):
            self._opened = held, judged.contributors
        elif isinstance(judged.alarm, Closed) and self._opened is not None:
            if held > 0:
                self.alarms.append(_episode(self._opened, held))
            self._opened = None

    def _keep_worst(self, held: int, ratio: float, judged: Judged, judge: Judge) -> None:
        near = [one for one in self.worst if held - one.window < APART]
        if any(one.ratio >= ratio for one in near):
            return
        parts = judge.blame(judged.seen, None)
        blamed = () if parts is None else tuple(self.sensors.blame(parts, BLAMED))
        kept = [one for one in self.worst if one not in near]
        kept.append(Worst(window=held, ratio=ratio, contributors=blamed))
        self.worst = sorted(kept, key=lambda one: -one.ratio)[:WORST]


def _episode(opened: tuple[int, tuple[str, ...]], end: int, *, is_open: bool = False) -> Episode:
    first, contributors = opened
    return Episode(first=max(first, 0), end=end, contributors=contributors, is_old=first < 0, is_open=is_open)
