"""One window, or several: a score looked at on three time scales, each in its own unit.

    at once    min(u_t, max(u_{t−1}, u_{t−2}))   over in two of three windows: one spike is no anomaly
    4, 16      exponential averages with weight 2/(s + 1): what is small but stays

The statistic is the largest of them, each divided by its own `unit`. Whoever must not miss a single window
(`shortest_event_windows` = 1) gets the score alone: averaging would cost a third of what is found there.

State is four numbers, all from 0: an average that has seen little does not alarm.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["AVERAGED", "TimeScales", "on_time_scales"]

Floats = NDArray[np.float64]

AVERAGED: Final = (4, 16)
"""Windows averaged, roughly; an event shorter than that is left to the first scale."""

_WEIGHTS: Final = tuple(2.0 / (s + 1) for s in AVERAGED)


@dataclass(kw_only=True)
class TimeScales:
    """The statistic of one device, window by window; `units` are positive, one a scale."""

    units: tuple[float, ...]

    def __post_init__(self) -> None:
        """Begin with nothing seen."""
        self._inverse = tuple(1.0 / unit for unit in self.units)
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self._before, self._last, self._short, self._long = 0.0, 0.0, 0.0, 0.0

    def update(self, score: float) -> float:
        """The statistic with one more window's score ≥ 0."""
        if len(self._inverse) == 1:
            return score * self._inverse[0]
        at_once, short, long = self._inverse
        earlier = self._before if self._before > self._last else self._last
        both = score if score < earlier else earlier
        self._before, self._last = self._last, score
        self._short += _WEIGHTS[0] * (score - self._short)
        self._long += _WEIGHTS[1] * (score - self._long)
        return max(both * at_once, self._short * short, self._long * long)

    def follow(self, scores: NDArray[np.floating]) -> Floats:
        """The statistic (n,) of successive scores (n,)."""
        return np.array([self.update(score) for score in scores.tolist()], np.float64)


def on_time_scales(scores: NDArray[np.floating], *, shortest_event_windows: int = 2) -> list[Floats]:
    """Successive scores (n,), from nothing seen, on each scale: three arrays (n,), or the scores alone where one window matters."""
    u = np.asarray(scores, np.float64)
    if shortest_event_windows == 1:
        return [u]
    before = np.concatenate([[0.0, 0.0], u])
    scales = [np.minimum(u, np.maximum(before[:-2], before[1:-1]))]
    return [*scales, *(np.array(list(_averages(u.tolist(), weight))) for weight in _WEIGHTS)]


def _averages(scores: Iterable[float], weight: float) -> Iterable[float]:
    average = 0.0
    for score in scores:
        average += weight * (score - average)
        yield average
