"""The world a device calls normal: what its drift detectors compare every window with.

Fitted on the device from its own standardised windows (in commissioning, and again after every new release). It is
not the fleet's reference, which a bundle carries for people: that one holds deciles and moments only.

Invariants: edges ascend per sensor, every standard deviation is positive, all numbers are finite.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.drift.bins import BINS, SMALLEST_STD, Bins, fit_bins
from models.drift.repeats import Repeats, count_repeats
from models.errors import InputError

__all__ = ["DriftReference", "fit_reference", "log_score", "memory_of"]

FEWEST_WINDOWS: Final = 2 * BINS

_LONGEST_MEMORY = 20.0
_SMALLEST_SCORE: Final = 1e-12
_UPPER_DECILE: Final = 1.2815516
_TAIL_EXCESS: Final = 0.4734317
"""E[z | z > Φ⁻¹(.9)] - Φ⁻¹(.9) of a standard Gaussian: φ(1.28155)/0.1 - 1.28155."""


class DriftReference(Struct, frozen=True, kw_only=True):
    """Per-sensor reference statistics, and those of the anomaly score.

    `edges` holds for each of F sensors 9 inner edges of ten bins; `mean` and `std` are per sensor, `score_mean` and
    `score_std` of the (linear) anomaly score, `fitted_on` counts the windows behind them.

    What a device measures of its own windows, and a fleet's reference does not have: `bins` of each sensor and, as the
    last, of the logarithm of the score; `memory`, how many successive windows carry the information of one independent
    window, ≥ 1 per sensor, and `score_memory`; `repeats` of each sensor; and what the replay of these windows asks for
    (`models.drift.replay`), per column with the score as the last: `wander`, how far a column's level moves without
    anything being wrong, in normal scores, `swing`, how far the logarithm of its variance does, and `shape`, a factor on
    the threshold of its histogram.
    """

    edges: tuple[tuple[float, ...], ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    score_mean: float
    score_std: float
    fitted_on: int
    bins: tuple[Bins, ...] = ()
    memory: tuple[float, ...] = ()
    score_memory: float = 1.0
    repeats: tuple[Repeats, ...] = ()
    wander: tuple[float, ...] = ()
    swing: tuple[float, ...] = ()
    shape: tuple[float, ...] = ()
    is_wandering: bool = False

    def __post_init__(self) -> None:
        """Refuse, by ValueError, what no detector can compare with: a file may hold anything."""
        sensors = self.sensors
        _check("edges", self.edges, (sensors, BINS - 1))
        for field in ("mean", "std"):
            _check(field, getattr(self, field), (sensors,))
        for field, columns in (
            ("memory", sensors),
            ("wander", sensors + 1),
            ("swing", sensors + 1),
            ("shape", sensors + 1),
        ):
            if getattr(self, field):
                _check(field, getattr(self, field), (columns,))
        if self.bins:
            _check("bins.edges", [bins.edges for bins in self.bins], (sensors + 1, BINS - 1))
            _check("bins.masses", [bins.masses for bins in self.bins], (sensors + 1, BINS))
            _check("bins.tails", [bins.tails for bins in self.bins], (sensors + 1, 2))
        if min(self.std, default=0.0) <= 0 or not np.isfinite([self.score_mean, self.score_std]).all():
            raise ValueError("a reference needs positive std and finite score statistics")

    @property
    def sensors(self) -> int:
        """How many sensors (features) the reference describes."""
        return len(self.mean)

    @property
    def columns(self) -> tuple[Bins, ...]:
        """Bins of each sensor, and of ln score as the last; where nobody measured them, those of deciles and moments."""
        return self.bins or (*map(_from_deciles, self.edges), _log_normal(self.score_mean, self.score_std))

    @property
    def memories(self) -> NDArray[np.float64]:
        """Memory (F + 1,) of each sensor, and of the score as the last; 1 where nobody measured it."""
        return np.array([*(self.memory or (1.0,) * self.sensors), self.score_memory])

    @property
    def centres(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation (F + 1,) of each sensor, and of ln score as the last."""
        mean, std = _log_moments(self.score_mean, self.score_std)
        return np.array([*self.mean, mean]), np.array([*self.std, std])


def fit_reference(rows: NDArray[np.floating], scores: NDArray[np.floating]) -> DriftReference:
    """Learn what normal looks like.

    Args:
        rows: standardised healthy windows in the order of time, shape (n, F), n ≥ 20.
        scores: their anomaly scores, shape (n,), not negative.

    Raises:
        InputError: too few rows, shapes that disagree, or a value that is not finite; collect more windows.
    """
    # As the monitor sees them: two values are equal, or not, in float32.
    x = np.asarray(rows, np.float32)
    s = np.asarray(scores, np.float64)
    if x.ndim != 2 or s.shape != (len(x),):
        raise InputError(f"reference rows must be (n, F) with n scores, got {x.shape} and {s.shape}")
    if len(x) < FEWEST_WINDOWS:
        raise InputError(f"a drift reference needs at least {FEWEST_WINDOWS} windows, got {len(x)}")
    if not (np.isfinite(x).all() and np.isfinite(s).all() and (s >= 0).all()):
        raise InputError(
            "a drift reference needs finite rows and scores; drop windows with NaN or infinity first"
        )
    logs = log_score(s)
    bins = tuple(fit_bins(column) for column in (*x.T, logs))
    wide = x.astype(np.float64)
    return DriftReference(
        edges=tuple(each.edges for each in bins[:-1]),
        mean=tuple(wide.mean(axis=0).tolist()),
        std=tuple(np.maximum(wide.std(axis=0, ddof=1), SMALLEST_STD).tolist()),
        score_mean=float(s.mean()),
        score_std=float(max(s.std(ddof=1), 1e-3 * s.mean(), 1e-12)),
        fitted_on=len(x),
        bins=bins,
        memory=tuple(memory_of(wide).tolist()),
        score_memory=float(memory_of(logs[:, None].astype(np.float64))[0]),
        repeats=tuple(count_repeats(column) for column in x.T),
    )


def log_score(scores: NDArray[np.floating]) -> NDArray[np.float32]:
    """Logarithm of the score (n,) as the monitor sees it; NaN where there is no score."""
    with np.errstate(invalid="ignore"):
        return np.log(np.asarray(scores, np.float64) + _SMALLEST_SCORE).astype(np.float32)


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


def _from_deciles(edges: tuple[float, ...]) -> Bins:
    """Bins of a sensor of which only deciles are known: its tails are taken for Gaussian ones of the same range."""
    tail = _TAIL_EXCESS * (edges[-1] - edges[0]) / (2 * _UPPER_DECILE)
    return Bins(edges=edges, tails=(tail, tail))


def _log_normal(mean: float, std: float) -> Bins:
    """Bins of ln score for a log-normal score with these linear moments."""
    centre, spread = _log_moments(mean, std)
    deciles = (NormalDist().inv_cdf(i / BINS) for i in range(1, BINS))
    return _from_deciles(tuple(centre + spread * z for z in deciles))


def _log_moments(mean: float, std: float) -> tuple[float, float]:
    variance = float(np.log1p((std / max(mean, 1e-12)) ** 2))
    return float(np.log(max(mean, 1e-12))) - variance / 2, max(variance**0.5, 0.05)


def _check(field: str, value: object, shape: tuple[int, ...]) -> None:
    try:
        values = np.array(value, np.float64)
    except ValueError:  # rows of different length
        raise ValueError(f"{field} is ragged; expected {shape} numbers") from None
    if values.shape != shape or not np.isfinite(values).all():
        raise ValueError(f"{field} must be {shape} finite numbers, got shape {values.shape}")
