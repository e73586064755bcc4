"""What a missing value would most likely have been: its mean, given what the other sensors say now.

    healthy rows ─► mean m, covariance C (shrunk) ─► precision P ─► missing M, observed O:
                                                     x_M = m_M - P_MM⁻¹ P_MO (x_O - m_O)

A row that is filled like this is as ordinary as its observed part allows, so the rest of it stays watched under the same
threshold; multiplying scores by F/(F - k) over-alarms (`docs/detection.md` has figures). It is an estimate for
judging: a row with estimates in it is never kept as if it had been measured.

Long raw windows are filled instant by instant from the channels at the same instant: the full precision of thousands of
samples would cost more memory than the agent.

Invariants: observed values stay as they are, filled ones are finite and within ±`CLIP`; for the same rows the same
values, whatever was filled before.

Source: the conditional mean of a Gaussian, e.g. R. Little and D. Rubin, "Statistical Analysis with Missing Data" (3rd
ed., Wiley 2019), Section 11.2.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.standardiser import CLIP

__all__ = ["ROWS_FOR_IMPUTATION", "Imputer"]

ROWS_FOR_IMPUTATION: Final = 1024
"""Newest healthy windows that are worth reading: twenty times as many as most devices have sensors."""

_WIDEST: Final = 256
"""Values of a row that are filled from each other: 256 kB of precision."""

_FEWEST_ROWS: Final = 20
_SMALLEST_VARIANCE: Final = 1e-6
_REMEMBERED_GAPS: Final = 16
"""Sets of missing values whose gain is kept: sensors fail one by one, or flicker."""

Float = NDArray[np.float32]
Bools = NDArray[np.bool_]


class Imputer:
    """Fills rows of F values.

    Args:
        rows: healthy standardised windows (n, F); with fewer than 20 every value is filled with 0, the healthy centre.
        sensors: how many sensors a row is of, where it holds several samples of each, sample by sample.
    """

    def __init__(self, rows: NDArray[np.floating], sensors: int) -> None:
        self._width = rows.shape[1] if rows.shape[1] <= _WIDEST else sensors
        self._mean = np.zeros(self._width, np.float32)
        self._precision: NDArray[np.floating] = np.eye(self._width)
        if len(rows) >= _FEWEST_ROWS:
            x = np.asarray(rows, np.float64).reshape(-1, self._width)
            self._mean = x.mean(axis=0).astype(np.float32)
            covariance = np.atleast_2d(np.cov(x, rowvar=False))
            # Towards no correlation at all, the more so the fewer windows there are for a sensor.
            covariance *= len(rows) / (len(rows) + self._width)
            np.fill_diagonal(covariance, x.var(axis=0) + _SMALLEST_VARIANCE)
            self._precision = np.linalg.inv(covariance)
        self._gains: dict[bytes, tuple[NDArray[np.intp], Float]] = {}

    def fill(self, row: Float, missing: Bools) -> Float:
        """A new row (F,): where `missing` (F,) is true the conditional mean, else what `row` (F,) says."""
        filled = np.array(row, np.float32)
        instants, gaps = filled.reshape(-1, self._width), missing.reshape(-1, self._width)
        for gap in gaps if len(gaps) == 1 else np.unique(gaps, axis=0):
            holes, gain = self._gain(gap)
            if len(holes):
                at = slice(None) if len(gaps) == 1 else (gaps == gap).all(axis=1)
                there = instants[at]
                off = there - self._mean
                off[:, holes] = 0.0
                estimate = off @ gain
                estimate += self._mean[holes]
                np.maximum(estimate, -CLIP, out=estimate)
                np.minimum(estimate, CLIP, out=estimate)
                there[:, holes] = estimate
                instants[at] = there
        return filled

    def _gain(self, gap: Bools) -> tuple[NDArray[np.intp], Float]:
        """Indices of the missing values (m,), and the matrix (width, m) that gives them of the others' deviations."""
        key = gap.tobytes()
        known = self._gains.get(key)
        if known is None:
            if len(self._gains) >= _REMEMBERED_GAPS:
                self._gains.clear()
            holes = np.flatnonzero(gap)
            gain = np.zeros((self._width, len(holes)), np.float32)
            if 0 < len(holes) < self._width:
                precision = self._precision[holes]
                gain[~gap] = -np.linalg.solve(precision[:, holes], precision[:, ~gap]).T
            known = self._gains[key] = (holes, gain)
        return known
