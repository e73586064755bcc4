"""Normal scores: a sensor's value as the standard deviations it would lie from the mean, were the sensor Gaussian.

::

    z  +3 ┤               ╭────     between the nine decile edges: straight lines, edge i ↦ Φ⁻¹(i/10)
          │            ╭──╯         beyond them: a line whose slope makes the tenth out there
        0 ┤        ╭───╯            lie as far out, on average, as a Gaussian's
          │   ╭────╯
       -3 ┤───╯                     and no further than ±3, so that one wild window fills no sum
          └──────────────────► x

A chart tuned on Gaussian windows then keeps its false-alarm run length on heavy-tailed and skewed sensors as well
(`benchmarks/drift.py` measures it), and loses nothing on Gaussian ones, where the map is the identity up to ±3.
It is not a test and it has no state: only a piecewise linear function per sensor.

Invariants: z is continuous, does not decrease in x, and lies in [-3, 3].

Source: B. L. van der Waerden, "Order tests for the two-sample problem and their power", Indag. Math. 14 (1952), for
scores by rank; the rest is interpolation.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.drift.reference import DriftReference, has_tied_edges, log_score_moments

__all__ = ["DECILE_CENTRES", "DECILE_SCORES", "LARGEST_SCORE", "NormalScores"]

LARGEST_SCORE: Final = 3.0
"""Where scores are cut off: a Gaussian loses 0.3 % of its windows to it, a heavy tail its power to alarm alone."""

_UPPER_DECILES: Final = (0.2533471, 0.5244005, 0.8416212, 1.2815516)
DECILE_SCORES: Final = (*(-z for z in reversed(_UPPER_DECILES)), 0.0, *_UPPER_DECILES)
"""Φ⁻¹(i/10) for i = 1 … 9."""

_UPPER_CENTRES: Final = (0.1256613, 0.3853205, 0.6744898, 1.0364334, 1.7549833)
DECILE_CENTRES: Final = (*(-z for z in reversed(_UPPER_CENTRES)), *_UPPER_CENTRES)
"""Φ⁻¹((i - 1/2)/10) for i = 1 … 10, and of the outer tenths their mean."""

_TAIL_EXCESS: Final = 0.4734317
"""E[z | z > Φ⁻¹(.9)] - Φ⁻¹(.9) of a standard Gaussian: φ(1.28155)/0.1 - 1.28155."""

Float = NDArray[np.float32]


class NormalScores:
    """The map of F sensors and, as the last column, of the log anomaly score.

    Args:
        reference: what is normal. A sensor with tied edges, and the score, are only centred and scaled.
    """

    def __init__(self, reference: DriftReference) -> None:
        knots = _knots(reference)
        heights = np.array([-LARGEST_SCORE, *DECILE_SCORES, LARGEST_SCORE])
        slopes = np.pad(np.diff(heights) / np.diff(knots, axis=1), ((0, 0), (1, 1)))
        self._knots = knots.astype(np.float32)
        # A line bends at each knot: z(x) = -3 + Σ bend · max(0, x - knot).
        self._bends = np.diff(slopes, axis=1).astype(np.float32)

    def __call__(self, rows: Float) -> Float:
        """Scores (k, F + 1) of k windows with their log anomaly score, shape (k, F + 1), finite."""
        beyond = rows[:, :, None] - self._knots
        np.maximum(beyond, 0.0, out=beyond)
        z: Float = np.einsum("kcj,cj->kc", beyond, self._bends)
        z -= LARGEST_SCORE
        return z


def _knots(reference: DriftReference) -> NDArray[np.float64]:
    """Where each line bends: (F + 1, 11), strictly ascending."""
    edges = np.asarray(reference.edges, np.float64)
    mean, std = np.asarray(reference.mean)[:, None], np.asarray(reference.std)[:, None]
    # Without measured tails (a fleet's reference) they are taken for Gaussian ones of the same decile range.
    spread = (edges[:, 8] - edges[:, 0]) / (2 * DECILE_SCORES[8])
    tails = (
        np.asarray(reference.tails, np.float64).reshape(-1, 2).T if reference.tails else _TAIL_EXCESS * spread
    )
    reach = np.maximum(tails, 0.01 * spread) * (LARGEST_SCORE - DECILE_SCORES[8]) / _TAIL_EXCESS
    low, high = np.broadcast_to(reach, (2, len(edges)))
    knots = np.column_stack([edges[:, 0] - low, edges, edges[:, 8] + high])
    straight = np.array([-LARGEST_SCORE, *DECILE_SCORES, LARGEST_SCORE])
    knots = np.where(has_tied_edges(reference)[:, None], mean + std * straight, knots)
    score_mean, score_std = log_score_moments(reference)
    return np.vstack([knots, score_mean + score_std * straight])
