"""Common grids for histograms that add up across devices.

A cloud that may only see sums cannot ask for a quantile or a maximum; it can ask every device to count its values
on the same edges and read both from the summed counts. Three grids: anomaly scores (to set a threshold), tensor
ranges (to calibrate int8), standardised feature values (the drift reference). And two lists of points, at each of which every
device counts how often it would have alarmed: levels of the statistic, and ages of a detector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["AGES", "FEATURE_GRID", "LEVELS", "RANGE_GRID", "SCORE_GRID", "SQUARED", "Grid"]

LEVELS: Final = 10.0 ** (np.arange(-48, 161) / 32)
"""Levels (209,) of the statistic of `models.detection`, from .03 to 100,000."""

SQUARED: Final = 4
"""At every fourth level it is summed how much devices differ in what they counted."""

AGES: Final = (16, 64, 256, 1024)
"""Windows that a detector was fitted on; a device belongs to the largest that it has reached."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """Bins (-inf, e0], (e0, e1], ..., (e_last, inf): one more bin than edges. Edges are strictly ascending."""

    edges: NDArray[np.float64]

    @property
    def bins(self) -> int:
        """How many counts a histogram on this grid has."""
        return len(self.edges) + 1

    def count(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Counts per bin, shape (bins,), of any array of finite values."""
        index = np.searchsorted(self.edges, np.asarray(values, np.float64).ravel(), side="left")
        return np.bincount(index, minlength=self.bins).astype(np.float64)

    def quantile(self, counts: NDArray[np.floating], q: float) -> float:
        """The value below which a share `q` of the counted values lies, interpolated within its bin.

        Values beyond the outer edges are taken to sit on them. Raises ValueError for an empty histogram or q
        outside (0, 1).

        >>> halves = Grid(edges=np.array([0.0, 0.5, 1.0]))
        >>> together = halves.count(np.array([0.1, 0.2])) + halves.count(np.array([0.7, 0.9]))
        >>> halves.quantile(together, 0.75)
        0.75
        """
        if not 0 < q < 1:
            raise ValueError(f"quantile {q} must lie strictly between 0 and 1")
        cumulative = np.cumsum(np.asarray(counts, np.float64))
        if cumulative[-1] <= 0:
            raise ValueError("the quantile of an empty histogram is not defined: no device counted a value")
        target = q * cumulative[-1]
        b = int(np.searchsorted(cumulative, target, side="left"))
        if b == 0:
            return float(self.edges[0])
        if b == len(self.edges):
            return float(self.edges[-1])
        below = cumulative[b - 1]
        share = (target - below) / (cumulative[b] - below)
        return float(self.edges[b - 1] + share * (self.edges[b] - self.edges[b - 1]))

    def outer_bounds(
        self, low_counts: NDArray[np.floating], high_counts: NDArray[np.floating]
    ) -> tuple[float, float]:
        """(lower, upper) that enclose every counted minimum and maximum, rounded outwards to an edge; ValueError for none."""
        lows, highs = np.flatnonzero(low_counts), np.flatnonzero(high_counts)
        if not len(lows) or not len(highs):
            raise ValueError("no device reported a range")
        lower = self.edges[max(int(lows[0]) - 1, 0)]
        upper = self.edges[min(int(highs[-1]), len(self.edges) - 1)]
        return float(lower), float(upper)


def _signed_powers() -> NDArray[np.float64]:
    positive = 2.0 ** (np.arange(-48, 97) / 8)
    return np.concatenate([-positive[::-1], [0.0], positive])


SCORE_GRID: Final = Grid(edges=10.0 ** (np.arange(-160, 161) / 32))
"""Anomaly scores from 1e-5 to 1e5, 32 bins a decade: a quantile is at most 7.5 % off before interpolation."""

RANGE_GRID: Final = Grid(edges=_signed_powers())
"""Tensor minima and maxima, ±2^-6 … ±2^12 in steps of 2^(1/8): a range is at most 9 % too wide."""

FEATURE_GRID: Final = Grid(edges=np.arange(-32, 33) / 4)
"""Standardised features, -8 … 8 in steps of a quarter of a standard deviation."""
