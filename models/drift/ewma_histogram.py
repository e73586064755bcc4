"""The EWMA-histogram: has the SHAPE of a sensor's distribution left its reference?

Ten equiprobable bins of the reference; each window moves an exponentially forgetting histogram p towards the bin it
falls into, and the statistic is S = Σ (p_i - 1/B)². It sees shifts, scale changes and stuck sensors alike, at any
distribution, because only ranks enter.

    p ← (1-λ) p + λ e_b       S ← (1-λ)² S + 2 λ (1-λ) (p_b - 1/B) + λ² (1 - 1/B)         (p_b before the step)

so a window costs one search and one cell per sensor and rate: p is kept divided by its running weight, and that
weight is folded in before it gets small. `tests/models` holds the twin that recomputes everything.

Invariants: Σ p_i = 1 for each sensor; statistics lie in [0, 1 - 1/B]; state is 8·B + 16 bytes per sensor and rate pair.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.drift.reference import BINS

__all__ = ["EwmaHistogram"]

_SMALLEST_WEIGHT = 1e-3
"""Cells grow as 1/weight; folding here keeps seven digits in float32 and happens every ~700 windows at λ = .01."""


class EwmaHistogram:
    """Histograms of F sensors at R forgetting rates.

    Args:
        edges: strictly ascending inner bin edges, shape (F, 9).
        rates: forgetting rates λ in (0, 1), shape (R,).
    """

    def __init__(self, edges: NDArray[np.floating], rates: NDArray[np.floating]) -> None:
        if edges.ndim != 2 or edges.shape[1] != BINS - 1:
            raise ValueError(f"edges must be (F, {BINS - 1}), got {edges.shape}")
        self._sensors = len(edges)
        self._rates = np.asarray(rates, np.float64).reshape(-1, 1)
        keep = 1.0 - self._rates
        self._keep = keep
        self._keep_squared, self._cross = keep**2, 2.0 * self._rates * keep
        self._constant = self._rates**2 * (1.0 - 1.0 / BINS) - self._cross / BINS
        # One ascending list for all sensors: sensor f's edges lie in (f - 1/2, f + 1/2), so one search bins a row.
        self._squashed_edges = (_squash(edges) + np.arange(self._sensors)[:, None]).ravel()
        self._lane = np.arange(self._sensors, dtype=np.float64)
        self.reset()

    def reset(self) -> None:
        """Back to the reference: every histogram uniform, every statistic 0."""
        self._cells = np.full((len(self._rates), self._sensors * BINS), 1.0 / BINS, np.float32)
        self._weight = np.ones_like(self._rates)
        self._statistic = np.zeros((len(self._rates), self._sensors))

    @property
    def statistic(self) -> NDArray[np.float64]:
        """S per rate and sensor, shape (R, F)."""
        return self._statistic

    @property
    def histograms(self) -> NDArray[np.float64]:
        """Histogram p per rate and sensor, shape (R, F, 10); rows add up to 1."""
        return (self._cells * self._weight).reshape(len(self._rates), self._sensors, BINS).astype(np.float64)

    def update(self, rows: NDArray[np.floating]) -> None:
        """Count k windows, shape (k, F), in order."""
        cells, statistic, weight = self._cells, self._statistic, self._weight
        squashed = _squash(rows) + self._lane
        # Sensor f has 9 f edges below it in the list, and one more cell than edges: + f.
        index = self._squashed_edges.searchsorted(squashed) + np.arange(self._sensors)
        for cell in index:
            occupied = cells[:, cell]
            statistic *= self._keep_squared
            statistic += (self._cross * weight) * occupied
            statistic += self._constant
            weight *= self._keep
            occupied += self._rates / weight
            cells[:, cell] = occupied
            if weight[0, 0] < _SMALLEST_WEIGHT:
                cells *= weight
                weight[:] = 1.0

    def state(self) -> dict[str, NDArray[np.floating]]:
        """Named arrays to save."""
        return {"cells": self._cells * self._weight.astype(np.float32), "statistic": self._statistic}

    def restore(self, state: dict[str, NDArray[np.floating]]) -> None:
        """Continue from what `state` gave; raises ValueError for arrays of another shape."""
        cells, statistic = state["cells"], state["statistic"]
        if cells.shape != self._cells.shape or statistic.shape != self._statistic.shape:
            raise ValueError(
                f"histogram state has shapes {cells.shape}, {statistic.shape}, want {self._cells.shape}"
            )
        self._cells = np.array(cells, np.float32)
        self._statistic = np.array(statistic, np.float64)
        self._weight[:] = 1.0


def _squash(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """A strictly increasing map of the real line into (-1/2, 1/2); x / (1 + |x|) costs two passes."""
    wide = np.asarray(x, np.float64)
    return np.asarray(0.499 * wide / (1.0 + np.abs(wide)))
