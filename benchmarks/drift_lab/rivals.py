"""The detectors ours are measured beside, over many lives at once.

Page–Hinkley and KSWIN are river's, step for step, with an axis for the lives (`tests/models/test_drift_laboratory.py`
compares them with the originals); ADWIN is river's own object, one a life; PSI is what a dashboard computes, on the true
deciles. Each returns a statistic that is compared with one level, so that all can be held to the same run length between
false alarms. ADWIN has no statistic: its sensitivity is its delta, and 1 is an alarm.
"""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from river.drift import ADWIN

from models.drift.reference import DriftReference

__all__ = ["AdwinLives", "KswinLives", "LivesDetector", "PageHinkleyLives", "PsiLives", "ks_distance"]

Float = NDArray[np.float64]


class LivesDetector(Protocol):
    """A detector over many lives."""

    def update(self, x: NDArray[np.floating]) -> Float:
        """One window of every life, shape (lives,); returns the statistic of each after it."""


class PageHinkleyLives:
    """river.drift.PageHinkley, both sides, with its defaults (delta .005, alpha .9999, 30 values before the first alarm)."""

    _DELTA: Final = 0.005
    _ALPHA: Final = 1 - 0.0001
    _FEWEST: Final = 30

    def __init__(self, reference: DriftReference, _rng: np.random.Generator) -> None:
        lives = reference.sensors
        self._seen = 0
        self._mean = np.zeros(lives)
        self._up, self._down = np.zeros(lives), np.zeros(lives)
        self._lowest, self._highest = np.full(lives, np.inf), np.full(lives, -1.0)

    def update(self, x: NDArray[np.floating]) -> Float:
        """See `LivesDetector`."""
        self._seen += 1
        self._mean += (x - self._mean) / self._seen
        deviation = x - self._mean
        self._up = self._ALPHA * self._up + deviation - self._DELTA
        self._down = self._ALPHA * self._down + deviation + self._DELTA
        np.minimum(self._lowest, self._up, out=self._lowest)
        np.maximum(self._highest, self._down, out=self._highest)
        if self._seen < self._FEWEST:
            return np.zeros_like(self._mean)
        return np.maximum(self._up - self._lowest, self._highest - self._down)


class KswinLives:
    """river.drift.KSWIN with its defaults: the newest 30 of 100 values against 30 random ones of the other 70.

    The Kolmogorov–Smirnov distance of 30 against 30 values has few levels; a random part of one step is added, which lets
    the test be held to any run length, as a randomised test is.
    """

    WINDOW: Final = 100
    RECENT: Final = 30

    def __init__(self, reference: DriftReference, rng: np.random.Generator) -> None:
        self._rng = rng
        self._window = np.zeros((self.WINDOW, reference.sensors))
        self._seen = 0

    def update(self, x: NDArray[np.floating]) -> Float:
        """See `LivesDetector`."""
        self._window[self._seen % self.WINDOW] = x
        self._seen += 1
        lives = len(x)
        if self._seen < self.WINDOW:
            return np.zeros(lives)
        age = (self._seen + np.arange(self.WINDOW)) % self.WINDOW  # oldest first
        older, recent = age[: -self.RECENT], age[-self.RECENT :]
        # One draw for all lives: they share no values, so they stay independent but for which ages are compared.
        chosen = self._rng.choice(older, self.RECENT, replace=False)
        distance = ks_distance(self._window[chosen], self._window[recent])
        return distance + self._rng.random(lives) / self.RECENT


def ks_distance(one: Float, other: Float) -> Float:
    """Kolmogorov–Smirnov distance between the columns of two samples of equal length, shapes (m, lives)."""
    both = np.concatenate([one, other])
    order = both.argsort(axis=0)
    steps = np.where(order < len(one), 1.0, -1.0)
    return np.asarray(np.abs(np.cumsum(steps, axis=0)).max(axis=0) / len(one))


class PsiLives:
    """Population stability index of successive windows of 200 values against the true deciles."""

    LENGTH: Final = 200

    def __init__(self, reference: DriftReference, rng: np.random.Generator) -> None:
        self._edges = np.asarray(reference.edges[0])
        lives = reference.sensors
        self._filled = rng.integers(0, self.LENGTH, lives)  # a change falls anywhere in a window
        self._counts = np.zeros((lives, len(self._edges) + 1))
        self._is_whole = np.zeros(lives, bool)
        self._row = np.arange(lives)

    def update(self, x: NDArray[np.floating]) -> Float:
        """See `LivesDetector`."""
        self._counts[self._row, self._edges.searchsorted(x)] += 1
        self._filled += 1
        is_full = self._filled == self.LENGTH
        psi = np.zeros(len(x))
        if is_full.any():
            share = np.maximum(self._counts[is_full] / self.LENGTH, 0.5 / self.LENGTH)
            expected = 1.0 / self._counts.shape[1]
            values = ((share - expected) * np.log(share / expected)).sum(axis=1)
            psi[is_full] = np.where(self._is_whole[is_full], values, 0.0)  # the first one is shorter
            self._counts[is_full], self._filled[is_full], self._is_whole[is_full] = 0, 0, True
        return psi


class AdwinLives:
    """river.drift.ADWIN with its defaults but for `delta`."""

    def __init__(self, lives: int, delta: float) -> None:
        self._lives = [ADWIN(delta=delta) for _ in range(lives)]

    def update(self, x: NDArray[np.floating]) -> Float:
        """See `LivesDetector`."""
        alarms = np.zeros(len(self._lives))
        for i, (detector, value) in enumerate(zip(self._lives, x.tolist(), strict=True)):
            detector.update(value)
            alarms[i] = detector.drift_detected
        return alarms
