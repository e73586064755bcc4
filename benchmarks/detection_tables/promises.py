"""What was promised and what came of it: openings and time in alarm on healthy rows that follow on the learned ones.

Openings are counted as the agent reports them, once more where its rule says that it tells of an alarm again. Their number is taken for a Poisson variable, and the interval is the exact one of Garwood
("Fiducial limits for the Poisson distribution", Biometrika 28, 1936); where alarms come in bursts it is too narrow, which is the method's fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

from detection_tables.alarms import find_alarms
from detection_tables.methods import Judge

__all__ = ["Kept", "common_factor", "count_kept", "poisson_interval"]

Floats = NDArray[np.floating]

COVERAGE: Final = 0.95
STEP: Final = 10 ** (1 / 32)
"""Between factors that are tried, before the last is halved."""
SMALLEST_FACTOR: Final = 1e-30
"""No score is over a threshold of zero: a device that scores nothing never opens."""


def poisson_interval(count: int) -> tuple[float, float]:
    """The exact 95 % interval of a Poisson mean of which `count` was seen.

    >>> [round(end, 3) for end in poisson_interval(0)]
    [0.0, 3.689]
    """
    tail = (1 - COVERAGE) / 2
    low = float(gammaincinv(count, tail)) if count else 0.0
    return low, float(gammaincinv(count + 1, 1 - tail))


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Counts over healthy windows of some devices, which add up."""

    windows: int = 0
    openings: int = 0
    open_windows: int = 0

    def __add__(self, other: Kept) -> Kept:
        """Both together."""
        return Kept(
            windows=self.windows + other.windows,
            openings=self.openings + other.openings,
            open_windows=self.open_windows + other.open_windows,
        )


def count_kept(judge: Judge, later: Floats) -> tuple[Kept, Kept]:
    """(within the judge's horizon, beyond it) of the timed scores (m,) of its device's later rows."""
    alarms = find_alarms(later, judge.threshold, judge.rule)
    cut = len(later) if judge.horizon is None else min(judge.horizon, len(later))
    told = np.concatenate([alarms.openings, alarms.repeats])
    inside = int((told < cut).sum())
    within = Kept(windows=cut, openings=inside, open_windows=int(alarms.is_open[:cut].sum()))
    beyond = Kept(
        windows=len(later) - cut,
        openings=len(told) - inside,
        open_windows=int(alarms.is_open[cut:].sum()),
    )
    return within, beyond


def common_factor(judges: Sequence[Judge], later: Sequence[Floats], promise: float) -> float | None:
    """The lowest factor on all thresholds from which upwards no more than promise × windows alarms open; None without windows.

    One factor for all devices and not a threshold for each: 60 windows of an engine hold no threshold of 1 in 1000, and what a method
    says of its devices relative to each other is part of what is judged.

    Where a threshold falls far, alarms merge into one that never closes, and smooth scores may never open as many as are promised: then it is
    the factor at which most open, among those at which healthy machines are in alarm for less than half of their time.
    """
    windows = sum(len(scores) for scores in later)
    wanted = promise * windows
    if not windows:
        return None

    def kept(factor: float) -> Kept:
        moved = [replace(judge, threshold=factor * judge.threshold, horizon=None) for judge in judges]
        counts = [count_kept(judge, scores)[0] for judge, scores in zip(moved, later, strict=True)]
        return sum(counts, Kept())

    low = high = best = _silent_factor(judges, later)
    most = 0
    while True:
        low = high / STEP
        counted = kept(low)
        if counted.openings > wanted:
            break
        if counted.open_windows > windows / 2 or low < SMALLEST_FACTOR:
            return best
        if counted.openings >= most:
            best, most = low, counted.openings
        high = low
    for _ in range(8):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if kept(middle).openings > wanted else (low, middle)
    return high


def _silent_factor(judges: Sequence[Judge], later: Sequence[Floats]) -> float:
    """A factor at which no finite score is over its threshold."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = [
            scores.max() / judge.threshold for judge, scores in zip(judges, later, strict=True) if len(scores)
        ]
    return float(max((ratio for ratio in ratios if np.isfinite(ratio) and ratio > 0), default=1.0)) * STEP
