"""The EWMA-histogram: has the SHAPE of a sensor's distribution left its reference?

Ten equiprobable bins of the reference; each window moves an exponentially forgetting histogram p towards the bin it
falls into, and the statistic is S = Σ (p_i - 1/B)². It sees shifts, scale changes and stuck sensors alike, at any
distribution, because only ranks enter.

    p ← (1-λ) p + λ e_b

Nothing decays cell by cell: p is kept divided by its running weight (1-λ)^t, so a window costs one search among the
edges, O(log B), and one cell per rate, O(1); the weight is folded in before it gets small, and S is summed once for a
whole block of windows. `tests/models` holds the twin that recomputes everything with every window.

Invariants: Σ p_i = 1 for each sensor; statistics lie in [0, 1 - 1/B]; state is 4·B bytes per sensor and rate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.drift.reference import BINS

__all__ = ["EwmaHistogram"]

_SMALLEST_WEIGHT = 1e-3
"""Cells grow as 1/weight; folding here keeps seven digits in float32 and happens every ~700 windows at λ = .01."""
_LONGEST_BLOCK = 64
"""Windows counted in one go: bounds the table of steps and the weight's change within a block."""


class EwmaHistogram:
    """Histograms of F sensors at R forgetting rates.

    Args:
        edges: strictly ascending inner bin edges, shape (F, 9).
        rates: forgetting rates λ in (0, 1), shape (R,).

    Attributes:
        statistic: S per rate and sensor (R, F).
    """

    def __init__(self, edges: NDArray[np.floating], rates: NDArray[np.floating]) -> None:
        if edges.ndim != 2 or edges.shape[1] != BINS - 1:
            raise ValueError(f"edges must be (F, {BINS - 1}), got {edges.shape}")
        self._sensors = len(edges)
        self._rates = np.asarray(rates, np.float64).reshape(-1, 1)
        self._keep = 1.0 - self._rates
        # Step j of a block adds λ / weight after j + 1 windows: the powers are the same for every block.
        self._steps = self._rates / self._keep ** np.arange(1, _LONGEST_BLOCK + 1)
        # One ascending list for all sensors: sensor f's edges lie in (f - 1/2, f + 1/2), so one search bins a row.
        self._squashed_edges = _squash(edges, np.arange(self._sensors)[:, None]).ravel()
        self._lane = np.arange(self._sensors)
        self.reset()

    def reset(self) -> None:
        """Back to the reference: every histogram uniform, every statistic 0."""
        self._cells = np.full((len(self._rates), self._sensors * BINS), 1.0 / BINS, np.float32)
        self._weight = np.ones_like(self._rates)
        self.statistic = np.zeros((len(self._rates), self._sensors))

    @property
    def histograms(self) -> NDArray[np.float64]:
        """Histogram p per rate and sensor, shape (R, F, 10); rows add up to 1."""
        return np.asarray((self._cells * self._weight).reshape(len(self._rates), self._sensors, BINS))

    def update(self, rows: NDArray[np.floating]) -> None:
        """Count k windows, shape (k, F), in order."""
        for start in range(0, len(rows), _LONGEST_BLOCK):
            self._count(rows[start : start + _LONGEST_BLOCK])
        self.statistic = self._sum_of_squares()

    def _count(self, rows: NDArray[np.floating]) -> None:
        # Sensor f has 9 f edges below it in the list, and one more cell than edges: + f.
        cell = self._squashed_edges.searchsorted(_squash(rows, self._lane))
        cell += self._lane
        flat = cell.ravel()
        weights = self._steps[:, : len(rows)] / self._weight
        for i, steps in enumerate(weights.repeat(self._sensors, axis=1)):
            self._cells[i] += np.bincount(flat, steps, self._sensors * BINS)
        self._weight *= self._keep ** len(rows)
        if self._weight.item(0) < _SMALLEST_WEIGHT:
            self._cells *= self._weight
            self._weight[:] = 1.0

    def state(self) -> dict[str, NDArray[np.floating]]:
        """Named arrays to save."""
        return {"cells": self._cells, "weight": self._weight}

    def restore(self, state: dict[str, NDArray[np.floating]]) -> None:
        """Continue from what `state` gave; `models.drift.state_file` has compared the shapes."""
        self._cells = np.array(state["cells"], np.float32)
        self._weight = np.array(state["weight"], np.float64).reshape(self._rates.shape)
        self.statistic = self._sum_of_squares()

    def _sum_of_squares(self) -> NDArray[np.float64]:
        off = self.histograms
        off -= 1.0 / BINS
        return np.asarray(np.einsum("rfb,rfb->rf", off, off))


def _squash(x: NDArray[np.floating], lane: NDArray[np.integer] | float = 0.0) -> NDArray[np.float64]:
    """A strictly increasing map of the real line into (lane - 1/2, lane + 1/2); x / (1 + |x|) costs two passes."""
    squashed: NDArray[np.float64] = np.abs(x, dtype=np.float64)
    squashed += 1.0
    np.divide(x, squashed, out=squashed)
    squashed *= 0.499
    squashed += lane
    return squashed
