"""Normal scores: a sensor's value as the standard deviations it would lie from the mean, were the sensor Gaussian.

::

    z  +3 ┤               ╭────     in a stretch: a straight line between Φ⁻¹ of the reference's shares at its edges
          │            ╭──╯         in the outer bins: a line whose slope makes the windows out there
        0 ┤        ────╯            lie as far out, on average, as a Gaussian's
          │   ╭────                 at an atom: the mean score of its share, for all its windows alike
       -3 ┤───╯                     and no further than ±3, so that one wild window fills no sum
          └──────────────────► x

A chart tuned on Gaussian windows then keeps its false-alarm run length on heavy-tailed, skewed and lumpy sensors as well
(`benchmarks/drift.py` measures it), and loses nothing on Gaussian ones, where the map is the identity up to ±3. An atom
takes variance away; the scores are stretched until it is 1 again, as far as ±3 allow. It has no state but the bins of
the rows last seen, which the histogram counts.

Invariants: z does not decrease in x, and lies in [-3, 3].

Source: B. L. van der Waerden, "Order tests for the two-sample problem and their power", Indag. Math. 14 (1952), for
scores by rank, and their mean for ties; the rest is interpolation.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.drift.bins import BINS, Bins

__all__ = ["LARGEST_SCORE", "NormalScores", "bin_scores"]

LARGEST_SCORE: Final = 3.0
"""Where scores are cut off: a Gaussian loses 0.3 % of its windows to it, a heavy tail its power to alarm alone."""

_SMALLEST_TAIL: Final = 0.01
"""Of a standard deviation: two windows out there that lie on their edge must not make the line upright."""

_GAUSSIAN: Final = NormalDist()

Float = NDArray[np.float32]


class NormalScores:
    """The map of C columns, the log anomaly score among them.

    Args:
        columns: bins of each.
        cut: where the scores of each end, shape (C,); ±3 by default.
        moments: mean and standard deviation of each, shapes (C,): deviations instead of scores by rank.

    Attributes:
        cells: bin of every value of the rows last seen (k, C), as an index into all 10·C bins.
    """

    def __init__(
        self,
        columns: Sequence[Bins],
        *,
        cut: Float | None = None,
        moments: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
    ) -> None:
        edges = np.array([bins.edges for bins in columns], np.float32)
        # Edges outside: adding up comparisons then runs along the sensors, which lie side by side.
        self._edges = np.ascontiguousarray(edges.T)[:, None, :]
        if moments is None:
            lines = np.array([_lines(bins) for bins in columns], np.float64)
        else:
            mean, std = moments
            lines = np.repeat(np.column_stack([-mean / std, 1 / std])[:, None], BINS, axis=1)
        self._offsets, self._slopes = lines.astype(np.float32).transpose(2, 0, 1).reshape(2, -1)
        self._lane = BINS * np.arange(len(columns))
        self.set_cut(np.full(len(columns), LARGEST_SCORE, np.float32) if cut is None else cut)
        self.cells = np.empty((0, len(columns)), np.intp)

    def set_cut(self, cut: Float) -> None:
        """From the next window on, scores end at ± this, shape (C,)."""
        self._highest, self._lowest = cut, -cut

    def __call__(self, rows: Float) -> Float:
        """Scores (k, C) of k finite rows (k, C)."""
        reached = np.add.reduce(rows >= self._edges, axis=0, dtype=np.int8)
        self.cells = self._lane + reached
        z = self._slopes.take(self.cells)
        z *= rows
        z += self._offsets.take(self.cells)
        np.minimum(z, self._highest, out=z)
        np.maximum(z, self._lowest, out=z)
        return z


def bin_scores(bins: Bins) -> NDArray[np.float64]:
    """The mean score (10,) of each bin's windows; ±3 for what was never seen at an end, 0 for bins left over."""
    below = np.concatenate([[0.0], np.cumsum(bins.masses)[:-1], [1.0]])
    masses = np.asarray(bins.masses)
    density = np.array([_density(share) for share in below])
    means = (density[:-1] - density[1:]) / np.maximum(masses, 1e-12)
    ends = np.where(
        np.arange(BINS) == 0, -LARGEST_SCORE, np.where(np.arange(BINS) == BINS - 1, LARGEST_SCORE, 0.0)
    )
    return np.where(masses > 0, _stretch(bins, means) * means, ends)


def _stretch(bins: Bins, means: NDArray[np.float64]) -> float:
    """What scores are multiplied with so that their variance is 1, as far as that makes no atom's exceed the cut."""
    if not bins.atoms:
        return 1.0
    atoms, masses = list(bins.atoms), np.asarray(bins.masses)
    upper = np.minimum(np.cumsum(masses), 1.0)
    lower = upper - masses
    second = np.array(
        [_second_moment(high) - _second_moment(low) for low, high in zip(lower, upper, strict=True)]
    )
    second[atoms] = masses[atoms] * means[atoms] ** 2
    largest = np.abs(means[masses > 0]).max()
    return (
        max(1.0, min(float(second.sum()) ** -0.5, LARGEST_SCORE / max(largest, 1e-9)))
        if second.sum() > 0
        else 1.0
    )


def _lines(bins: Bins) -> list[tuple[float, float]]:
    """Offset and slope of each bin's line."""
    means = bin_scores(bins)
    shares = np.concatenate([[0.0], np.cumsum(bins.masses)[:-1], [1.0]])
    plain = -np.diff([_density(share) for share in shares]) / np.maximum(np.diff(shares), 1e-12)
    stretch = _stretch(bins, plain)
    lines = [(float(mean), 0.0) for mean in means]
    for i, mass in enumerate(bins.masses):
        if mass == 0 or i in bins.atoms:
            continue
        low, high = shares[i], shares[i + 1]
        if i == 0 or i == BINS - 1:
            # An outer stretch: the distance from its edge has the mean of a Gaussian's beyond the same share.
            height = _quantile(high if i == 0 else low)
            excess = abs(float(plain[i]) - height)
            edge, tail = (bins.edges[0], bins.tails[0]) if i == 0 else (bins.edges[-1], bins.tails[1])
            slope = excess / max(tail, _SMALLEST_TAIL * excess)
            lines[i] = (stretch * (height - slope * edge), stretch * slope)
            continue
        left, right = bins.edges[i - 1], bins.edges[i]
        slope = (_quantile(high) - _quantile(low)) / max(right - left, 1e-9)
        lines[i] = (stretch * (_quantile(low) - slope * left), stretch * slope)
    return lines


def _quantile(share: float) -> float:
    """Φ⁻¹ within the cut."""
    if share <= 0 or share >= 1:
        return LARGEST_SCORE if share >= 1 else -LARGEST_SCORE
    return min(max(_GAUSSIAN.inv_cdf(share), -LARGEST_SCORE), LARGEST_SCORE)


def _density(share: float) -> float:
    """φ(Φ⁻¹(share))."""
    return _GAUSSIAN.pdf(_GAUSSIAN.inv_cdf(share)) if 0 < share < 1 else 0.0


def _second_moment(share: float) -> float:
    """∫ z² φ from -∞ to Φ⁻¹(share)."""
    return share - _GAUSSIAN.inv_cdf(share) * _density(share) if 0 < share < 1 else share
