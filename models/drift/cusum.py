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

__all__ = ["CHARTS", "CusumCharts"]

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
_CONSTANT: Final = np.array([-0.25, -0.25, -0.5, -0.5, -1.4596, 0.5747])
"""Spread charts: 2 ln s / (1 - 1/s²) for s = 1.5 and 0.6, where the two likelihoods are equal."""
_PER_ALLOWANCE: Final = np.array([-1.5, -1.5, -1.5, -1.5, -2.8, -1.4])
"""In standard errors of the reference's mean, and one (downwards) or two of its variance: chosen by simulation,
for short delays with a reference of 120 windows and no penalty with one of a thousand."""

_LONGEST_BLOCK: Final = 16

Float = NDArray[np.float32]


class CusumCharts:
    """Six sums for each of C columns.

    Args:
        memory: windows per independent window of each column, shape (C,), ≥ 1.
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
        ceiling: NDArray[np.floating],
    ) -> None:
        columns = len(memory)
        allowance = 1.0 / np.sqrt(np.asarray(fitted_on, np.float64))
        constant = _CONSTANT[:, None] + _PER_ALLOWANCE[:, None] * allowance
        # Repeated for each window of a block: adding arrays of one shape costs half of broadcasting.
        self._constant = np.tile(constant, (_LONGEST_BLOCK, 1, 1)).astype(np.float32)
        self._per_memory = np.tile(1.0 / np.sqrt(memory), (_LONGEST_BLOCK, 1)).astype(np.float32)
        self._powers = np.empty((_LONGEST_BLOCK, 2, columns), np.float32)
        self._ceiling = np.asarray(ceiling, np.float32)
        self._zero = np.zeros(self._ceiling.shape, np.float32)
        self.reset()

    def reset(self) -> None:
        """All sums back to zero."""
        self.statistic = np.zeros(self._ceiling.shape, np.float32)

    def update(self, z: Float) -> None:
        """Add the normal scores of k windows, shape (k, C), in order."""
        for start in range(0, len(z), _LONGEST_BLOCK):
            self._add(z[start : start + _LONGEST_BLOCK])
        np.minimum(self.statistic, self._ceiling, out=self.statistic)

    def _add(self, z: Float) -> None:
        k, sums, zero = len(z), self.statistic, self._zero
        powers = self._powers[:k]
        np.multiply(z, self._per_memory[:k], out=powers[:, 0])
        np.multiply(z, z, out=powers[:, 1])
        steps = np.matmul(_WEIGHTS, powers)
        steps += self._constant[:k]
        for step in steps:
            np.add(sums, step, out=sums)
            np.maximum(sums, zero, out=sums)

    def state(self) -> dict[str, NDArray[np.floating]]:
        """Named arrays to save."""
        return {"sums": self.statistic}

    def restore(self, state: dict[str, NDArray[np.floating]]) -> None:
        """Continue from what `state` gave; `models.drift.state_file` has compared the shapes."""
        self.statistic = np.array(state["sums"], np.float32)
