"""The EWMA-histogram: has the SHAPE of a sensor's distribution left its reference?

The bins of the reference (`models.drift.bins`), with its masses q; each window moves an exponentially forgetting histogram
p towards the bin it falls into, and the statistic is S = Σ (p_i - q_i)² / (10 q_i), which is Σ (p_i - 1/10)² for ten equal
bins. It sees shifts, scale changes and stuck sensors alike, at any distribution, because only ranks enter.

    p ← (1-λ) p + λ e_b

Nothing decays cell by cell: p is kept divided by its running weight (1-λ)^t, so a window costs one cell, O(1); the weight
is folded in before it gets small, and S is summed once for a whole block of windows. `tests/models` holds the twin that
recomputes everything with every window.

Invariants: Σ p_i = 1 for each sensor; state is 4·B bytes per sensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.drift.bins import BINS, Bins

__all__ = ["HISTOGRAM_RATE", "EwmaHistogram"]

HISTOGRAM_RATE: Final = 0.01
"""λ: a memory of ~100 windows. A slower one sees no change sooner that a chart does not see sooner still."""

_SMALLEST_MASS: Final = 0.05
"""What is rarer is compared as if it were this frequent: a single window of what was never seen is no other shape."""

_SMALLEST_WEIGHT = 1e-3
"""Cells grow as 1/weight; folding here keeps seven digits in float32 and happens every ~700 windows at λ = .01."""
_LONGEST_BLOCK = 64
"""Windows counted in one go: bounds the table of steps and the weight's change within a block."""


class EwmaHistogram:
    """Histograms of F sensors.

    Args:
        sensors: bins of each.
        rate: the forgetting rate λ in (0, 1).

    Attributes:
        statistic: S of each sensor (F,).
    """

    def __init__(self, sensors: Sequence[Bins], rate: float = HISTOGRAM_RATE) -> None:
        self._masses = np.array([bins.masses for bins in sensors], np.float64).reshape(-1, BINS)
        self._per_mass = 1.0 / (BINS * np.maximum(self._masses, _SMALLEST_MASS))
        self._keep = 1.0 - rate
        # Step j of a block adds λ / weight after j + 1 windows: the powers are the same for every block.
        steps = rate / self._keep ** np.arange(1, _LONGEST_BLOCK + 1)
        self._steps = np.repeat(steps, len(sensors))
        self.reset()

    def reset(self) -> None:
        """Back to the reference: every statistic 0."""
        self._cells = self._masses.astype(np.float32)
        self._weight = 1.0
        self.statistic = np.zeros(len(self._masses))

    @property
    def histograms(self) -> NDArray[np.float64]:
        """Histogram p of each sensor, shape (F, 10); rows add up to 1."""
        return np.asarray(self._cells * self._weight, np.float64)

    def update(self, cells: NDArray[np.intp]) -> None:
        """Count k windows (k, F), in order, given by their bins as `NormalScores.cells` numbers them."""
        for start in range(0, len(cells), _LONGEST_BLOCK):
            self._count(cells[start : start + _LONGEST_BLOCK])
        self.statistic = self._sum_of_squares()

    def _count(self, cells: NDArray[np.intp]) -> None:
        steps = self._steps[: cells.size] / self._weight
        counts = np.bincount(cells.ravel(), steps, self._masses.size)
        self._cells += counts.reshape(self._cells.shape)
        self._weight *= self._keep ** len(cells)
        if self._weight < _SMALLEST_WEIGHT:
            self._cells *= self._weight
            self._weight = 1.0

    def state(self) -> dict[str, NDArray[np.floating]]:
        """Named arrays to save."""
        return {"cells": self._cells, "weight": np.array([self._weight])}

    def restore(self, state: dict[str, NDArray[np.floating]]) -> None:
        """Continue from what `state` gave; `models.drift.state_file` has compared the shapes."""
        self._cells = np.array(state["cells"], np.float32)
        self._weight = float(state["weight"][0])
        self.statistic = self._sum_of_squares()

    def _sum_of_squares(self) -> NDArray[np.float64]:
        off = self.histograms
        off -= self._masses
        off *= off
        return np.asarray(np.einsum("fb,fb->f", off, self._per_mass))
