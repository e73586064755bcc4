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

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.standardiser import CLIP

__all__ = ["ROWS_FOR_IMPUTATION", "Imputer"]

ROWS_FOR_IMPUTATION: Final = 1024
"""Newest healthy windows that are worth reading: twenty times as many as most devices have sensors."""

_WIDEST: Final = 256
"""Values of a row that are filled from each other: 256 kB of precision."""

_LOWEST: Final = np.array(-CLIP, np.float32)
_HIGHEST: Final = np.array(CLIP, np.float32)

_FEWEST_ROWS: Final = 20
_SMALLEST_VARIANCE: Final = 1e-6
_REMEMBERED_GAPS: Final = 16
"""Sets of several missing values whose gain is kept, the newest: sensors stay dead for long, or flicker one by one."""

Float = NDArray[np.float32]
Bools = NDArray[np.bool_]


class _Gain(NamedTuple):
    """Indices of missing values (m,), the matrix (width, m) that gives them of the others' deviations, their means (m,)."""

    holes: NDArray[np.intp]
    matrix: Float
    mean: Float


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
        # What gives each value alone of the others' deviations.
        self._alone = np.asarray(-self._precision / np.diag(self._precision)[:, None], np.float32)
        self._gains: dict[bytes, _Gain] = {}

    def fill(self, row: Float, missing: Bools) -> Float:
        """A new row (F,): where `missing` (F,) is true the conditional mean, else what `row` (F,) says."""
        if len(row) == self._width:
            return (
                self._fill_one(row, missing) if np.count_nonzero(missing) == 1 else self._fill(row, missing)
            )
        instants, gaps = row.reshape(-1, self._width), missing.reshape(-1, self._width)
        filled = np.array(instants)
        for gap in np.unique(gaps, axis=0):
            at = (gaps == gap).all(axis=1)
            filled[at] = self._fill(instants[at], gap)
        return filled.reshape(-1)

    def _fill_one(self, row: Float, missing: Bools) -> Float:
        """As `_fill` of one row that lacks one value: the common gap, and nothing has to be known of it but a line of the table."""
        hole = int(missing.argmax())
        off = row - self._mean
        off[hole] = 0.0
        estimate = float(self._alone[hole].dot(off)) + float(self._mean[hole])
        filled = row.copy()
        filled[hole] = min(max(estimate, -CLIP), CLIP)
        return filled

    def _fill(self, values: Float, gap: Bools) -> Float:
        """New values (width,) or (n, width) that all have the same gap (width,)."""
        holes, gain, mean = self._gain(gap)
        filled = values.copy()
        off = values - self._mean
        off.T[holes] = 0.0
        estimate = off.dot(gain)
        estimate += mean
        np.maximum(estimate, _LOWEST, out=estimate)
        np.minimum(estimate, _HIGHEST, out=estimate)
        filled.T[holes] = estimate.T
        return filled

    def _gain(self, gap: Bools) -> _Gain:
        key = gap.tobytes()
        known = self._gains.get(key)
        if known is None:
            if len(self._gains) >= _REMEMBERED_GAPS:
                del self._gains[next(iter(self._gains))]
            holes = np.flatnonzero(gap)
            rows = self._precision[holes]
            gain = -np.linalg.inv(rows[:, holes]) @ rows
            known = self._gains[key] = _Gain(holes, gain.T.astype(np.float32), self._mean[holes])
        return known
