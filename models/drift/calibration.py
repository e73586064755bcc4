"""Thresholds for a wanted run length between false alarms (ARL0), so that detectors are comparable and add up.

A device with N columns that may each raise a false alarm every A windows gives one every A/N: every column is therefore
tuned to ARL0 = N · (wanted ARL0 of the device). Within a column the charts share that budget unequally (`SHARES`): a small
shift of the mean is the hardest to see and gets nearly all of it, for what is easy to see costs little even when it is
nearly never allowed to be wrong.

The statistics see normal scores or ranks, so one table serves every distribution: `_GUMBEL`, simulated by
``python benchmarks/drift_thresholds.py``. The largest value of a statistic over a stretch of windows follows a Gumbel
law, hence threshold = intercept + slope · ln ARL0; both depend on the n windows that the reference was fitted on.
`models.drift.limits` applies the table to a reference, and `models.drift.replay` adds what its own windows ask for.

Source: E. J. Gumbel, "Statistics of extremes" (Columbia University Press 1958).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.drift.bins import BINS, Bins
from models.drift.normal_scores import LARGEST_SCORE, bin_scores

__all__ = ["SHARES", "for_scores", "histogram_threshold", "threshold"]

SHARES: Final = {
    "small shift": 0.95,
    "shift": 0.50,
    "spread up": 0.012,
    "spread down": 0.012,
    "histogram": 0.012,
    "stuck": 0.01,
}
"""False alarms of each statistic, per false alarm of its sensor. They add up to more than one because the charts for a
small and a larger shift often alarm together, and because a monitor looks only every few windows;
``benchmarks/drift.py`` measures the sum."""

_HISTOGRAM_MEAN: Final = (BINS - 1) / BINS * 0.01 / (2 - 0.01)
"""Of S for ten equal bins without drift: Σ Var(p) λ / (2 - λ)."""

_INVERSE_N: Final = (0.0, 1 / 1000, 1 / 250, 1 / 120, 1 / 60)
_GUMBEL: Final = {
    # (intercept, slope) at each 1/n above
    "small shift": (
        (-3.5757, 1.9626),
        (-4.4648, 1.8664),
        (-9.0120, 2.2230),
        (-17.4583, 3.0318),
        (-49.7434, 6.3048),
    ),
    "shift": ((-1.1498, 0.9944), (-2.0134, 1.0173), (-3.6750, 1.1493), (-7.0725, 1.4804), (-11.5317, 1.9214)),
    "spread up": (
        (-7.5013, 3.0440),
        (-14.3159, 3.5559),
        (-28.5987, 4.9258),
        (-46.1458, 6.7223),
        (-264.5966, 29.2625),
    ),
    "spread down": (
        (-2.1258, 1.1103),
        (-2.9533, 1.0368),
        (-4.1483, 1.0233),
        (-5.3434, 1.0385),
        (-5.6630, 0.9580),
    ),
    "histogram": (
        (-0.000372, 0.001441),
        (-0.004099, 0.002046),
        (-0.016189, 0.003772),
        (-0.034187, 0.006159),
        (-0.059509, 0.009610),
    ),
}

_STEPS: Final[Mapping[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]]] = {
    "small shift": lambda z: z - 0.25,
    "shift": lambda z: z - 0.5,
    "spread up": lambda z: z**2 - 1.4596,
    "spread down": lambda z: 0.5747 - z**2,
}
"""A chart's step without the allowance for a reference of few windows (`models.drift.cusum`)."""


def threshold(
    statistic: str, run_length: float, *, fitted_on: float | NDArray[np.floating]
) -> NDArray[np.float64]:
    """The value that a statistic exceeds once in `run_length` ÷ its share windows without drift.

    Args:
        statistic: a chart's: a key of SHARES but for ``histogram`` and ``stuck``.
        run_length: wanted ARL0 of the sensor in windows, ≥ 1000.
        fitted_on: independent windows behind the reference, ≥ 60 (fewer are treated as 60); an array gives one.

    Raises:
        ValueError: a statistic that was not simulated.
    """
    if statistic not in _STEPS:
        raise ValueError(f"no thresholds were simulated for {statistic!r}; choose one of {sorted(_STEPS)}")
    return _look_up(statistic, run_length / SHARES[statistic], fitted_on)


def histogram_threshold(
    run_length: float,
    *,
    fitted_on: float,
    memory: float | NDArray[np.floating] = 1.0,
    bins: float | NDArray[np.integer] = BINS,
) -> NDArray[np.float64]:
    """The S above which the EWMA-histogram alarms once in `run_length` windows without drift.

    Args:
        run_length: wanted ARL0 of this one statistic in windows, ≥ 1000.
        fitted_on: windows behind the bin edges, ≥ 60 (fewer are treated as 60).
        memory: windows per independent window, ≥ 1. Bin counts forget faster than means: half of the excess counts.
        bins: how many have a mass, 2 to 10. S is a multiple of a χ² with one degree of freedom fewer, and so its
            quantiles are known from those of ten (Wilson and Hilferty).
    """
    of_ten = _look_up("histogram", run_length, fitted_on)
    full, fewer = BINS - 1.0, np.maximum(np.asarray(bins, np.float64) - 1.0, 1.0)
    mean_of_one = _HISTOGRAM_MEAN / full
    z = (np.cbrt(of_ten / (full * mean_of_one)) - 1 + 2 / (9 * full)) / (2 / (9 * full)) ** 0.5
    independent = fewer * mean_of_one * (1 - 2 / (9 * fewer) + z * np.sqrt(2 / (9 * fewer))) ** 3
    return np.asarray(independent * (1.0 + (np.asarray(memory) - 1.0) / 2.0))


def _look_up(key: str, run_length: float, fitted_on: float | NDArray[np.floating]) -> NDArray[np.float64]:
    table = np.asarray(_GUMBEL[key])
    inverse = 1.0 / np.asarray(fitted_on, np.float64)
    intercept = np.interp(inverse, _INVERSE_N, table[:, 0])
    slope = np.interp(inverse, _INVERSE_N, table[:, 1])
    return np.asarray(intercept + slope * np.log(max(run_length, 1000.0)))


def for_scores(statistic: str, bins: Bins) -> float:
    """What the threshold of Gaussian scores is multiplied with for those of a sensor with atoms, ≥ 1.

    Far out, the law of a chart's largest sum falls as exp(-θ·sum) with E exp(θ·step) = 1 (Lundberg's exponent): lumpy
    scores have a smaller θ where they are skewed, and thresholds are inversely proportional to it.

    Source: D. Siegmund, "Sequential Analysis" (1985), Chapter X.
    """
    if not bins.atoms:
        return 1.0
    step, masses = _STEPS[statistic], np.asarray(bins.masses)
    z = bin_scores(bins)
    sides = (z, -z) if "shift" in statistic else (z,)
    gaussian = _exponent(step(np.clip(_GRID, -LARGEST_SCORE, LARGEST_SCORE)), _DENSITY)
    return max(1.0, *(gaussian / _exponent(step(side), masses) for side in sides))


_GRID: Final = np.linspace(-4.5, 4.5, 181)
_DENSITY: Final = np.exp(-(_GRID**2) / 2) / np.exp(-(_GRID**2) / 2).sum()


def _exponent(steps: NDArray[np.float64], shares: NDArray[np.float64]) -> float:
    """θ > 0 with E exp(θ·step) = 1, by bisection; the largest looked at where no step is upwards."""
    low, high = 1e-3, 4.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if float(shares @ np.exp(middle * steps)) < 1.0 else (low, middle)
    return low
