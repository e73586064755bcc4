"""Each machine's own scale: features in units of that machine's healthy variation.

Fitted once, in commissioning, and then kept: refitting would hide the very drift it should show. Personal centring is
what makes one shared model fit machines that differ (on PRONOSTIA it is worth a factor five in false alarms).

Invariants: every `std` is positive, `apply` returns finite float32 within ±8 for finite input.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.errors import InputError

__all__ = ["CLIP", "Standardiser", "fit_standardiser"]

CLIP = 8.0
"""Where standardised values end: `protocol.grids.FEATURE_GRID` ends there, and int8 keeps its resolution."""

_RELATIVE_FLOOR = 1e-3
_ABSOLUTE_FLOOR = 1e-6


class Standardiser(Struct, frozen=True, kw_only=True):
    """Centre and scale per feature, and the number of windows they were fitted on."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    fitted_on: int

    def apply(self, x: NDArray[np.floating]) -> NDArray[np.float32]:
        """(F,) or (n, F) raw features → the same shape in units of healthy variation, clipped to ±8."""
        centred = np.asarray(x, np.float32) - np.asarray(self.mean, np.float32)
        return np.clip(centred / np.asarray(self.std, np.float32), -CLIP, CLIP)


def fit_standardiser(rows: NDArray[np.floating]) -> Standardiser:
    """Learn a machine's scale from healthy windows.

    A constant feature gets a small positive scale (a thousandth of its value), so it maps to 0 and a real jump of it
    still shows.

    Args:
        rows: raw features, shape (n, F), n ≥ 2.

    Raises:
        InputError: fewer than two rows, another rank, or values that are not finite.

    >>> scale = fit_standardiser(np.array([[1.0, 40.0], [2.0, 40.0], [3.0, 40.0]]))
    >>> scale.apply(np.array([4.0, 40.04])).round(2)
    array([2., 1.], dtype=float32)
    """
    x = np.asarray(rows, np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise InputError(f"a standardiser needs at least 2 rows of features, got an array of shape {x.shape}")
    if not np.isfinite(x).all():
        bad = int(np.argmin(np.isfinite(x).all(axis=0)))
        raise InputError(
            f"feature {bad} holds values that are not finite; drop those windows before commissioning"
        )
    mean = x.mean(axis=0)
    floor = np.maximum(_RELATIVE_FLOOR * np.abs(mean), _ABSOLUTE_FLOOR)
    std = np.maximum(x.std(axis=0, ddof=1), floor)
    return Standardiser(mean=tuple(mean.tolist()), std=tuple(std.tolist()), fitted_on=len(x))
