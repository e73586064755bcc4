"""One window, or several: a score looked at on several time scales, each in its own unit.

    at once      min(u_t, max(u_{t−1}, u_{t−2}))   over in two of three windows: one spike is no anomaly
    4, 16        exponential averages of √u with weight 2/(s + 1), squared again: what is small but stays
    furthest     as at once, of the sensor that is furthest off instead of the score

Of roots, because a score is a squared distance: a single wild window must not open an alarm through the averages, nor one
that is over keep it open. The statistic is the largest of them, each divided by its own `unit`. A scale is used where each fifth of the
windows that the device learnt from has seen it once; what takes longer than 16 is for the drift monitor. Whoever must not miss a single window
(`shortest_event_windows` = 1) gets score and furthest sensor of one: averaging would cost a third of what is found there.

Averages begin at the typical healthy distance. Memory is constant: two windows, and an average a scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["TimeScales", "averages_for", "on_time_scales"]

Floats = NDArray[np.float64]

_AVERAGED: Final = (4, 16)
_LEARNT_PER_AVERAGED: Final = 5
_NOTHING: Final = (0.0, 0.0)
_MOST: Final = 1e12
"""No score comes near it: values end at eight deviations."""


def averages_for(windows: int, *, shortest_event_windows: int = 2) -> tuple[int, ...]:
    """Windows that a device averages over, roughly, if it learns from so many; none where a single one matters."""
    if shortest_event_windows == 1:
        return ()
    return tuple(s for s in _AVERAGED if _LEARNT_PER_AVERAGED * s <= windows)


@dataclass(kw_only=True)
class TimeScales:
    """The statistic of one device, window by window.

    Attributes:
        units: positive, of the score at once, of each average, and of the furthest sensor at once.
        averages: windows that are averaged over, as `averages_for` says; empty: nothing is averaged, and a single window counts.
        typical: healthy distance, the root of a score, that averages begin at.
    """

    units: tuple[float, ...]
    averages: tuple[int, ...]
    typical: float

    def __post_init__(self) -> None:
        """Begin with nothing seen."""
        self._at_once, *inverse, self._of_furthest = (1.0 / unit for unit in self.units)
        self._averages = tuple(
            (2.0 / (s + 1), scale) for s, scale in zip(self.averages, inverse, strict=True)
        )
        self.reset()

    @property
    def state(self) -> tuple[float, ...]:
        """What `resume` goes on from."""
        return (*self._before, *self._last, *self._means)

    def reset(self) -> None:
        """Forget what was seen."""
        self.resume((*_NOTHING, *_NOTHING, *(self.typical for _ in self.averages)))

    def resume(self, state: tuple[float, ...]) -> None:
        """Go on after a restart; of another number of scales, or from what no scores can have left, afresh."""
        if len(state) != 4 + len(self.averages) or not all(0 <= part < _MOST for part in state):
            self.reset()
            return
        self._before, self._last, self._means = (state[0], state[1]), (state[2], state[3]), list(state[4:])

    def update(self, score: float, furthest: float) -> float:
        """The statistic with one more window: its score, and the square of its furthest sensor, both ≥ 0."""
        if not self.averages:
            return self.lasting(score, furthest)
        before, last = self._before, self._last
        self._before, self._last = last, (score, furthest)
        statistic = self.lasting(min(score, max(before[0], last[0])), min(furthest, max(before[1], last[1])))
        means, distance = self._means, math.sqrt(score)
        for i, (weight, scale) in enumerate(self._averages):
            means[i] = mean = means[i] + weight * (distance - means[i])
            statistic = max(statistic, mean * mean * scale)
        return statistic

    def lasting(self, score: float, furthest: float) -> float:
        """The statistic if just such windows came for as long as the shortest event lasts; remembers nothing."""
        of_score, of_furthest = score * self._at_once, furthest * self._of_furthest
        return of_score if of_score > of_furthest else of_furthest

    def follow(self, scores: NDArray[np.floating], furthest: NDArray[np.floating]) -> Floats:
        """The statistic (n,) of successive windows: scores (n,), and squares of the furthest sensor (n,)."""
        both = zip(scores.tolist(), furthest.tolist(), strict=True)
        return np.array([self.update(*window) for window in both], np.float64)


def on_time_scales(
    scores: NDArray[np.floating], furthest: NDArray[np.floating], averages: tuple[int, ...], typical: float
) -> list[Floats]:
    """Successive windows, from nothing seen, on each scale, in their own units: 2 + len(averages) arrays (n,)."""
    off = (np.inf,) * len(averages)
    alone = [
        TimeScales(units=(1.0, *off, np.inf), averages=averages, typical=typical),
        *(TimeScales(units=(np.inf, 1.0, np.inf), averages=(s,), typical=typical) for s in averages),
        TimeScales(units=(np.inf, *off, 1.0), averages=averages, typical=typical),
    ]
    return [scale.follow(scores, furthest) for scale in alone]
