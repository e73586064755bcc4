"""One window, or several: a score looked at on several time scales, each in its own unit.

    at once      min(u_t, max(u_{t−1}, u_{t−2}))   over in two of three windows: one spike is no anomaly
    4, 16        exponential averages of √u with weight 2/(s + 1), squared again: what is small but stays

Of roots, because a score is a squared distance: a single wild window must not open an alarm through the averages, nor one
that is over keep it open. The statistic is the largest of them, each divided by its own `unit`. A scale is used where each fifth of the
windows that the device learnt from has seen it once; what takes longer than 16 is for the drift monitor. Whoever must not miss a single window
(`shortest_event_windows` = 1) gets the score alone: averaging would cost a third of what is found there.

Averages begin at the typical healthy distance. Memory is constant: two scores, and an average a scale.
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
        units: positive, of the score at once and of each average.
        averages: windows that are averaged over, as `averages_for` says; empty: nothing is averaged, and a single window counts.
        typical: healthy distance, the root of a score, that averages begin at.
    """

    units: tuple[float, ...]
    averages: tuple[int, ...]
    typical: float

    def __post_init__(self) -> None:
        """Begin with nothing seen."""
        self._at_once, *inverse = (1.0 / unit for unit in self.units)
        self._averages = tuple(
            (2.0 / (s + 1), scale) for s, scale in zip(self.averages, inverse, strict=True)
        )
        self.reset()

    @property
    def state(self) -> tuple[float, ...]:
        """What `resume` goes on from."""
        return (self._before, self._last, *self._means)

    def reset(self) -> None:
        """Forget what was seen."""
        self.resume((0.0, 0.0, *(self.typical for _ in self.averages)))

    def resume(self, state: tuple[float, ...]) -> None:
        """Go on after a restart; of another number of scales, or from what no scores can have left, afresh."""
        if len(state) != 2 + len(self.averages) or not all(0 <= part < _MOST for part in state):
            self.reset()
            return
        self._before, self._last, *self._means = state

    def update(self, score: float) -> float:
        """The statistic with one more window's score ≥ 0."""
        if not self.averages:
            return score * self._at_once
        earlier = self._before if self._before > self._last else self._last
        statistic = (score if score < earlier else earlier) * self._at_once
        self._before, self._last = self._last, score
        means, distance = self._means, math.sqrt(score)
        for i, (weight, scale) in enumerate(self._averages):
            means[i] = mean = means[i] + weight * (distance - means[i])
            statistic = max(statistic, mean * mean * scale)
        return statistic

    def follow(self, scores: NDArray[np.floating]) -> Floats:
        """The statistic (n,) of successive scores (n,)."""
        return np.array([self.update(score) for score in scores.tolist()], np.float64)


def on_time_scales(scores: NDArray[np.floating], averages: tuple[int, ...], typical: float) -> list[Floats]:
    """Successive scores (n,), from nothing seen, on each scale, in their own units: 1 + len(averages) arrays (n,)."""
    alone = [
        TimeScales(units=(1.0, *(np.inf for _ in averages)), averages=averages, typical=typical),
        *(TimeScales(units=(np.inf, 1.0), averages=(s,), typical=typical) for s in averages),
    ]
    return [scale.follow(scores) for scale in alone]
