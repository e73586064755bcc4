"""The world a device calls normal: what its drift detectors compare every window with.

Fitted on the device from its own standardised windows (in commissioning, and again after every new release). It is
not the fleet's reference, which a bundle carries for people; both hold the same fields.

Invariants: edges ascend strictly per sensor, every standard deviation is positive, all numbers are finite.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

__all__ = ["BINS", "DriftReference", "fit_reference"]

BINS = 10
"""Equiprobable bins of the reference histogram; ten keep a sensor's state small and PSI readable."""

_SMALLEST_STD = 1e-3
"""In units of the standardised feature: a constant sensor must not turn rounding noise into drift."""


class DriftReference(Struct, frozen=True, kw_only=True):
    """Per-sensor reference statistics, and those of the anomaly score.

    `edges` holds for each of F sensors the 9 inner edges of ten equiprobable bins; `mean` and `std` are per sensor,
    `score_mean` and `score_std` of the (linear) anomaly score, `fitted_on` counts the windows behind them.
    """

    edges: tuple[tuple[float, ...], ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    score_mean: float
    score_std: float
    fitted_on: int

    @property
    def sensors(self) -> int:
        """How many sensors (features) the reference describes."""
        return len(self.mean)


def fit_reference(rows: NDArray[np.floating], scores: NDArray[np.floating]) -> DriftReference:
    """Learn what normal looks like.

    Args:
        rows: standardised healthy windows, shape (n, F), n ≥ 20.
        scores: their anomaly scores, shape (n,), positive.

    Raises:
        ValueError: too few rows, shapes that disagree, or a value that is not finite; collect more windows.
    """
    x = np.asarray(rows, np.float64)
    s = np.asarray(scores, np.float64)
    if x.ndim != 2 or s.shape != (len(x),):
        raise ValueError(f"reference rows must be (n, F) with n scores, got {x.shape} and {s.shape}")
    if len(x) < 2 * BINS:
        raise ValueError(f"a drift reference needs at least {2 * BINS} windows, got {len(x)}")
    if not (np.isfinite(x).all() and np.isfinite(s).all()):
        raise ValueError(
            "a drift reference needs finite rows and scores; drop windows with NaN or infinity first"
        )
    std = np.maximum(x.std(axis=0, ddof=1), _SMALLEST_STD)
    quantiles = np.arange(1, BINS) / BINS
    edges = np.quantile(x, quantiles, axis=0, method="median_unbiased").T
    edges = _strictly_ascending(edges, std)
    return DriftReference(
        edges=tuple(tuple(row) for row in edges.tolist()),
        mean=tuple(x.mean(axis=0).tolist()),
        std=tuple(std.tolist()),
        score_mean=float(s.mean()),
        score_std=float(max(s.std(ddof=1), 1e-6 * max(abs(s.mean()), 1e-6))),
        fitted_on=len(x),
    )


def _strictly_ascending(edges: NDArray[np.float64], std: NDArray[np.float64]) -> NDArray[np.float64]:
    """Part equal edges by a hair, so that a sensor with few distinct values still has ten bins."""
    hair = 1e-6 * std[:, None] * np.arange(edges.shape[1])
    return np.asarray(np.maximum.accumulate(edges, axis=1) + hair)
