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

Float = NDArray[np.float32]


class CusumCharts:
    """Six sums for each of C columns.

    Args:
        memory: windows per independent window of each column, shape (C,), ≥ 1.
        fitted_on: independent windows behind each column's reference, shape (C,), positive.
        ceiling: where sums stop growing, shape (6, C).
    """

    def __init__(
        self,
        *,
        memory: NDArray[np.floating],
        fitted_on: NDArray[np.floating],
        ceiling: NDArray[np.floating],
    ) -> None:
        columns = len(memory)
        per_memory = np.ones((2, 1, columns))
        per_memory[0, 0] = 1.0 / np.sqrt(memory)
        self._per_memory = per_memory.astype(np.float32)
        allowance = 1.0 / np.sqrt(np.asarray(fitted_on, np.float64))
        constant = _CONSTANT[:, None] + _PER_ALLOWANCE[:, None] * allowance
        self._constant = constant[:, None, :].astype(np.float32)
        self._ceiling = np.asarray(ceiling, np.float32)
        self.reset()

    def reset(self) -> None:
        """All sums back to zero."""
        self._sums = np.zeros(self._ceiling.shape, np.float32)

    @property
    def statistic(self) -> Float:
        """(6, C): the sums, in the order of `CHARTS`."""
        return self._sums

    def update(self, z: Float) -> None:
        """Add the normal scores of k windows, shape (k, C), in order."""
        k, columns = z.shape
        powers = np.empty((2, k, columns), np.float32)
        np.multiply(z, self._per_memory[0], out=powers[0])
        np.multiply(z, z, out=powers[1])
        steps = (_WEIGHTS @ powers.reshape(2, -1)).reshape(-1, k, columns)
        steps += self._constant
        if k == 1:
            self._sums += steps[:, 0]
            np.maximum(self._sums, 0.0, out=self._sums)
        else:
            # The recursion's end in closed form: the last partial sum minus the smallest one below zero.
            steps[:, 0] += self._sums
            partial = steps.cumsum(axis=1, out=steps)
            lowest = np.minimum.reduce(partial, axis=1, initial=0.0)
            np.subtract(partial[:, -1], lowest, out=self._sums)
        np.minimum(self._sums, self._ceiling, out=self._sums)

    def state(self) -> dict[str, NDArray[np.floating]]:
        """Named arrays to save."""
        return {"sums": self._sums}

    def restore(self, state: dict[str, NDArray[np.floating]]) -> None:
        """Continue from what `state` gave; raises ValueError for arrays of another shape."""
        if state["sums"].shape != self._sums.shape:
            raise ValueError(f"CUSUM state has shape {state['sums'].shape}, want {self._sums.shape}")
        self._sums = np.array(state["sums"], np.float32)
