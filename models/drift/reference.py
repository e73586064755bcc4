"""The world a device calls normal: what its drift detectors compare every window with.

Fitted on the device from its own standardised windows (in commissioning, and again after every new release). It is
not the fleet's reference, which a bundle carries for people; both hold the same fields, and this one also how long
each sensor remembers.

Invariants: edges ascend strictly per sensor, every standard deviation is positive, all numbers are finite.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.errors import InputError

__all__ = ["BINS", "DriftReference", "fit_reference", "has_tied_edges", "log_score_moments", "memory_of"]

BINS = 10
"""Equiprobable bins of the reference histogram; ten keep a sensor's state small and PSI readable."""

SMALLEST_STD = 1e-3
"""In units of the standardised feature: a constant sensor must not turn rounding noise into drift."""

_HAIR = 1e-6
_TIED = 1e-3
"""Edges closer than this share of the whole decile range are one value with rounding noise on it."""
_LONGEST_MEMORY = 20.0


class DriftReference(Struct, frozen=True, kw_only=True):
    """Per-sensor reference statistics, and those of the anomaly score.

    `edges` holds for each of F sensors the 9 inner edges of ten equiprobable bins; `mean` and `std` are per sensor,
    `score_mean` and `score_std` of the (linear) anomaly score, `fitted_on` counts the windows behind them.
    `memory` is how many successive windows carry the information of one independent window, ≥ 1 per sensor (empty:
    windows are independent); `score_memory` the same for the score. `tails` holds how far, on average, the lowest and
    the highest tenth of a sensor's windows lie beyond its outer edges, ≥ 0, and `repeats` the share of windows that
    repeat the value before (both empty where nobody measured them: in a fleet's reference). `threshold_factor`
    multiplies every statistical threshold: what a block bootstrap of this device's windows asked for.
    """

    edges: tuple[tuple[float, ...], ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    score_mean: float
    score_std: float
    fitted_on: int
    memory: tuple[float, ...] = ()
    score_memory: float = 1.0
    tails: tuple[tuple[float, float], ...] = ()
    repeats: tuple[float, ...] = ()
    threshold_factor: float = 1.0

    def __post_init__(self) -> None:
        """Refuse, by ValueError, what no detector can compare with: a file may hold anything."""
        sensors = self.sensors
        shapes = {"edges": (sensors, BINS - 1), "mean": (sensors,), "std": (sensors,), "memory": (sensors,)}
        for field, shape in (shapes | {"tails": (sensors, 2), "repeats": (sensors,)}).items():
            value = getattr(self, field)
            if not value and field in {"memory", "tails", "repeats"}:
                continue
            try:
                values = np.array(value, np.float64)
            except ValueError:  # rows of different length
                raise ValueError(f"{field} is ragged; expected {shape} numbers") from None
            if values.shape != shape or not np.isfinite(values).all():
                raise ValueError(f"{field} must be {shape} finite numbers, got shape {values.shape}")
        if min(self.std, default=0.0) <= 0 or not np.isfinite([self.score_mean, self.score_std]).all():
            raise ValueError("a reference needs positive std and finite score statistics")

    @property
    def sensors(self) -> int:
        """How many sensors (features) the reference describes."""
        return len(self.mean)


def fit_reference(rows: NDArray[np.floating], scores: NDArray[np.floating]) -> DriftReference:
    """Learn what normal looks like.

    Args:
        rows: standardised healthy windows in the order of time, shape (n, F), n ≥ 20.
        scores: their anomaly scores, shape (n,), not negative.

    Raises:
        InputError: too few rows, shapes that disagree, or a value that is not finite; collect more windows.
    """
    x = np.asarray(rows, np.float64)
    s = np.asarray(scores, np.float64)
    if x.ndim != 2 or s.shape != (len(x),):
        raise InputError(f"reference rows must be (n, F) with n scores, got {x.shape} and {s.shape}")
    if len(x) < 2 * BINS:
        raise InputError(f"a drift reference needs at least {2 * BINS} windows, got {len(x)}")
    if not (np.isfinite(x).all() and np.isfinite(s).all() and (s >= 0).all()):
        raise InputError(
            "a drift reference needs finite rows and scores; drop windows with NaN or infinity first"
        )
    std = np.maximum(x.std(axis=0, ddof=1), SMALLEST_STD)
    edges = np.quantile(x, np.arange(1, BINS) / BINS, axis=0, method="median_unbiased").T
    log_scores = np.log(np.maximum(s, np.finfo(np.float64).tiny))
    return DriftReference(
        edges=tuple(tuple(row) for row in _strictly_ascending(edges, std).tolist()),
        mean=tuple(x.mean(axis=0).tolist()),
        std=tuple(std.tolist()),
        score_mean=float(s.mean()),
        score_std=float(max(s.std(ddof=1), 1e-3 * s.mean(), 1e-12)),
        fitted_on=len(x),
        memory=tuple(memory_of(x).tolist()),
        score_memory=float(memory_of(log_scores[:, None])[0]),
        tails=tuple((low, high) for low, high in _tails(x, edges).tolist()),
        repeats=tuple((x[1:] == x[:-1]).mean(axis=0).tolist()),
    )


def has_tied_edges(reference: DriftReference) -> NDArray[np.bool_]:
    """Which sensors (F,) have so few distinct values that bins coincide and ranks say little."""
    edges = np.asarray(reference.edges)
    width = np.maximum(edges[:, -1] - edges[:, 0], SMALLEST_STD)
    return np.asarray((np.diff(edges, axis=1) < _TIED * width[:, None]).any(axis=1))


def memory_of(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """Integrated autocorrelation time (F,) of the columns of x (n, F), in [1, 20].

    The variance of a mean over b successive windows is memory/b times that of one window. Two estimates, the larger
    counts: overlapping batch means, which ask for no model but miss memories beyond √n, and a first-order
    autoregression, (1 + ρ)/(1 - ρ) with ρ's small-sample bias undone.

    Sources: Meketon and Schmeiser, "Overlapping batch means" (WSC 1984); Kendall, "Note on bias in the estimation of
    autocorrelation", Biometrika 41 (1954).
    """
    n = len(x)
    centred = x - x.mean(axis=0)
    variance = np.maximum(x.var(axis=0), SMALLEST_STD**2)
    batch = max(2, min(int(n**0.5), 25))
    padded = np.vstack([np.zeros((1, x.shape[1])), np.cumsum(centred, axis=0)])
    means = (padded[batch:] - padded[:-batch]) / batch
    # Batches of one short series share its mean: without the last factor their spread is too small.
    by_batches = batch * means.var(axis=0) / variance / (1 - batch / n)
    lag_one = (centred[1:] * centred[:-1]).mean(axis=0) / variance
    rho = np.clip(lag_one + (1 + 3 * lag_one) / n, 0.0, 0.9)
    return np.asarray(np.clip(np.maximum(by_batches, (1 + rho) / (1 - rho)), 1.0, _LONGEST_MEMORY))


def log_score_moments(reference: DriftReference) -> tuple[float, float]:
    """(mean, std) of ln score for a log-normal score with the reference's linear moments."""
    mean = max(reference.score_mean, 1e-12)
    variance = float(np.log1p((reference.score_std / mean) ** 2))
    return float(np.log(mean)) - variance / 2, max(variance**0.5, 0.05)


def _tails(x: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean distance (F, 2) of the windows beyond the outer edges from them; 0 where none is."""
    below, above = edges[:, 0] - x, x - edges[:, -1]
    return np.column_stack(
        [
            np.where(far > 0, far, 0.0).sum(axis=0) / np.maximum((far > 0).sum(axis=0), 1)
            for far in (below, above)
        ]
    )


def _strictly_ascending(edges: NDArray[np.float64], std: NDArray[np.float64]) -> NDArray[np.float64]:
    """Part equal edges by a hair, so that a sensor with few distinct values still has ten bins."""
    hair = _HAIR * std[:, None] * np.arange(edges.shape[1])
    return np.asarray(np.maximum.accumulate(edges, axis=1) + hair)
