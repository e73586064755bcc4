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
    """
    windows = sum(len(scores) for scores in later)
    wanted = promise * windows
    if not windows:
        return None

    def is_kept(factor: float) -> bool:
        openings = 0
        for judge, scores in zip(judges, later, strict=True):
            openings += count_kept(replace(judge, threshold=factor * judge.threshold, horizon=None), scores)[
                0
            ].openings
            if openings > wanted:
                return False
        return True

    # Alarms merge where a threshold falls, so their number is not monotone: from above, the first factor that does not hold.
    step = 10 ** (1 / 32)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = [
            scores.max() / judge.threshold for judge, scores in zip(judges, later, strict=True) if len(scores)
        ]
    finite = [ratio for ratio in ratios if np.isfinite(ratio) and ratio > 0]
    high = max(finite, default=1.0) * step
    low = high
    for _ in range(2000):
        low = high / step
        if not is_kept(low):
            break
        high = low
    else:
        return high
    for _ in range(8):
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if is_kept(middle) else (middle, high)
    return high
