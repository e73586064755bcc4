"""CUSUM charts over normal scores: has the MEAN or the SPREAD of a sensor moved?

    sum ← max(0, sum + step)

    chart               step                       tuned to find
    mean up, down       ± z - (1/4 + 1.5 a)        half a standard deviation
    mean up, down       ± z - (1/2 + 1.5 a)        a whole one
    spread up           z² - (1.460 + 2.8 a)       1.5 × the reference's spread
    spread down         (0.575 - 1.4 a) - z²       0.6 × the reference's spread

Each step is a log-likelihood ratio of two Gaussians up to a factor, which makes the chart the quickest there is for the
change it is tuned to, at its run length between false alarms. a = 1/√n allows for a reference of n windows.
Autocorrelated windows do not masquerade as drift: z of the mean charts is divided by the square root of the memory.

Invariants: sums are ≥ 0 and never above `ceiling` after an update, so that recovery takes bounded time.

Sources: E. S. Page, "Continuous inspection schemes", Biometrika 41 (1954); G. Lorden, "Procedures for reacting to a
change in distribution", Annals of Mathematical Statistics 42 (1971), for the optimality.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["ALLOWANCES", "CHARTS", "MEANS", "CusumCharts", "largest_sums"]

CHARTS: Final = (
    "mean up, small",
    "mean down, small",
    "mean up",
    "mean down",
    "spread up",
    "spread down",
)

_WEIGHTS: Final = np.array([[1, 0], [-1, 0], [1, 0], [-1, 0], [0, 1], [0, -1]], np.float32)
"""Of z and z² in the steps of each chart."""
ALLOWANCES: Final = np.array([0.25, 0.25, 0.5, 0.5])
"""Half the shift that each chart of a mean is tuned to."""
_CONSTANT: Final = np.array([*-ALLOWANCES, -1.4596, 0.5747])
"""Spread charts: 2 ln s / (1 - 1/s²) for s = 1.5 and 0.6, where the two likelihoods are equal."""
MEANS: Final = slice(0, 4)
"""Charts of a mean; the others are of the spread."""
_SPREAD_UP: Final = 4
_SPREAD_DOWN: Final = 5
_PER_ALLOWANCE: Final = np.array([-1.5, -1.5, -1.5, -1.5, -2.8, -1.4])
"""In standard errors of the reference's mean, and one (downwards) or two of its variance: chosen by simulation,
for short delays with a reference of 120 windows and no penalty with one of a thousand."""

_LONGEST_BLOCK: Final = 16
_POWERS: Final = 2
_PARTS: Final = 2 * len(CHARTS)


def _paths() -> NDArray[np.float32]:
    """What makes each chart's path of steps, from its start on, of its sum, its constant, and the windows' z and z²."""
    start = np.zeros((_LONGEST_BLOCK + 1, 1))
    start[0] = -1.0
    sums = np.kron(start, np.eye(len(CHARTS)))
    constants = np.kron(np.arange(_LONGEST_BLOCK + 1)[:, None], np.eye(len(CHARTS)))
    windows = np.kron(np.tri(_LONGEST_BLOCK + 1, _LONGEST_BLOCK, -1), _WEIGHTS)
    return np.hstack([sums, constants, windows]).astype(np.float32)


_PATHS: Final = _paths()

Float = NDArray[np.float32]


class CusumCharts:
    """Six sums for each of C columns.

    Args:
        memory: windows per independent window of each column, shape (C,), ≥ 1.
        wander: how far the level of each column moves without anything being wrong, normal scores, shape (C,), ≥ 0.
        swing: how far the logarithm of its variance does, shape (C,), ≥ 0.
        fitted_on: independent windows behind each column's reference, shape (C,), positive.
        ceiling: where sums stop growing, shape (6, C).

    Attributes:
        statistic: the sums (6, C), in the order of `CHARTS`.
    """

    def __init__(
        self,
        *,
        memory: NDArray[np.floating],
        fitted_on: NDArray[np.floating],
        wander: NDArray[np.floating],
        swing: NDArray[np.floating],
        ceiling: NDArray[np.floating],
    ) -> None:
        columns = len(memory)
        self._of = (memory, fitted_on, swing)
        # What one product makes paths of: the sums so far, the constants, and z and z² window by window.
        self._parts = np.zeros((_PARTS + _POWERS * _LONGEST_BLOCK, columns), np.float32)
        self.statistic = self._parts[: len(CHARTS)]
        self.allow(wander)
        self._per_memory = np.tile(1.0 / np.sqrt(memory), (_LONGEST_BLOCK, 1)).astype(np.float32)
        self._ceiling = np.asarray(ceiling, np.float32)

    def allow(self, wander: NDArray[np.floating]) -> None:
        """From the next window on, another wander of each column (C,)."""
        memory, fitted_on, swing = self._of
        self._parts[len(CHARTS) : _PARTS] = _constants(memory, fitted_on, wander, swing)

    def reset(self) -> None:
        """All sums back to zero."""
        self.statistic[:] = 0.0

    def update(self, z: Float) -> None:
        """Add the normal scores of k windows, shape (k, C), in order."""
        for start in range(0, len(z), _LONGEST_BLOCK):
            self._add(z[start : start + _LONGEST_BLOCK])

    def _add(self, z: Float) -> None:
        k, used = len(z), _PARTS + _POWERS * len(z)
        np.multiply(z, self._per_memory[:k], out=self._parts[_PARTS:used:_POWERS])
        np.multiply(z, z, out=self._parts[_PARTS + 1 : used : _POWERS])
        # One small product adds up along the windows, faster than a loop or an accumulation of such small arrays.
        paths = np.matmul(_PATHS[: len(CHARTS) * (k + 1), :used], self._parts[:used])
        paths = paths.reshape(k + 1, len(CHARTS), -1)
        # max(0, sum + step) again and again is the path above its lowest point, the start's being -sum.
        np.subtract(paths[-1], np.minimum.reduce(paths, axis=0), out=self.statistic)
        np.minimum(self.statistic, self._ceiling, out=self.statistic)

    def state(self) -> dict[str, NDArray[np.floating]]:
        """Named arrays to save."""
        return {"sums": self.statistic.copy()}

    def restore(self, state: dict[str, NDArray[np.floating]]) -> None:
        """Continue from what `state` gave; `models.drift.state_file` has compared the shapes."""
        self.statistic[:] = state["sums"]


def largest_sums(
    z: Float,
    *,
    memory: NDArray[np.floating],
    fitted_on: NDArray[np.floating],
    wander: NDArray[np.floating],
    swing: NDArray[np.floating],
) -> NDArray[np.float64]:
    """The largest value (6, C) that each sum, without a ceiling, takes on over n windows of normal scores (n, C).

    A sum is how far the path of its steps has risen above its lowest point so far.
    """
    powers = np.stack([z / np.sqrt(memory), np.square(z)], axis=-1, dtype=np.float64)
    largest = []
    for weights, constant in zip(_WEIGHTS, _constants(memory, fitted_on, wander, swing), strict=True):
        path = np.cumsum(powers @ weights + constant, axis=0)
        largest.append((path - np.minimum(np.minimum.accumulate(path, axis=0), 0.0)).max(axis=0))
    return np.stack(largest)


def _constants(
    memory: NDArray[np.floating],
    fitted_on: NDArray[np.floating],
    wander: NDArray[np.floating],
    swing: NDArray[np.floating],
) -> NDArray[np.float64]:
    """What is added to every step (6, C) beside the scores."""
    constant = np.repeat(_CONSTANT[:, None], len(memory), axis=1)
    constant[MEANS] -= wander / np.sqrt(memory)
    # A level that moves adds its square to the variance, or has taken it from what the spread is about one level.
    constant[_SPREAD_UP] *= (1 + np.square(wander)) * np.exp(swing)
    constant[_SPREAD_DOWN] /= (1 + np.square(wander)) * np.exp(swing)
    return np.asarray(constant + _PER_ALLOWANCE[:, None] / np.sqrt(np.asarray(fitted_on, np.float64)))
