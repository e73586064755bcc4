"""Thresholds for a wanted run length between false alarms (ARL0), so that detectors are comparable and add up.

A device with N statistics that may each raise a false alarm every A windows gives one every A/N: every statistic is
therefore tuned to ARL0 = N · (wanted ARL0 of the device).

* EWMA-histogram: `_GUMBEL` is a table simulated by ``python benchmarks/drift_thresholds.py``: it depends on λ, on the
  windows the edges were fitted on, and on ln ARL0, and on nothing else, because the statistic uses ranks only.
* CUSUM: Siegmund's approximation, inverted.
* Block bootstrap, where there is enough reference data: measures what the whole monitor does on resampled blocks of
  the device's own windows (autocorrelated, not Gaussian) and gives the factor its thresholds lack.

Source: D. Siegmund, "Sequential Analysis" (Springer 1985), Eq. (2.56) with the 1.166 overshoot correction.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "HISTOGRAM_RATES",
    "bootstrap_rows",
    "corrected_run_length",
    "cusum_run_length",
    "cusum_threshold",
    "factor_for_run_length",
    "histogram_threshold",
]

HISTOGRAM_RATES: Final = (0.01, 0.002)
"""λ: a memory of ~100 windows for what is sudden, ~500 for what is slow."""

_INVERSE_N: Final = (0.0, 1 / 1000, 1 / 250, 1 / 120, 1 / 60)
_GUMBEL: Final = {
    # λ: ((intercept, slope) at each 1/n above); threshold = intercept + slope · ln ARL0
    0.01: (
        (-0.000476, 0.001588),
        (-0.002576, 0.002036),
        (-0.016496, 0.003998),
        (-0.033788, 0.006302),
        (-0.061399, 0.010034),
    ),
    0.002: (
        (-0.000464, 0.000303),
        (-0.003902, 0.000811),
        (-0.013183, 0.002089),
        (-0.026472, 0.003816),
        (-0.049662, 0.006827),
    ),
}


def corrected_run_length(run_length: float, statistics: int) -> float:
    """The ARL0 each of `statistics` must keep so that together they keep `run_length`."""
    return run_length * statistics


def histogram_threshold(rate: float, run_length: float, *, fitted_on: float, memory: float = 1.0) -> float:
    """The S above which an EWMA-histogram alarms once in `run_length` windows without drift.

    Args:
        rate: λ, one of HISTOGRAM_RATES.
        run_length: wanted ARL0 of this one statistic in windows, ≥ 1000.
        fitted_on: windows behind the bin edges, ≥ 60 (fewer are treated as 60).
        memory: windows per independent window, ≥ 1. Bin counts forget faster than means: half of the excess counts.

    Raises:
        ValueError: a rate that was not simulated.
    """
    if rate not in _GUMBEL:
        raise ValueError(
            f"no thresholds were simulated for a forgetting rate of {rate}; choose one of {HISTOGRAM_RATES}"
        )
    table = np.asarray(_GUMBEL[rate])
    inverse = 1.0 / fitted_on
    intercept = float(np.interp(inverse, _INVERSE_N, table[:, 0]))
    slope = float(np.interp(inverse, _INVERSE_N, table[:, 1]))
    independent = intercept + slope * float(np.log(max(run_length, 1000.0)))
    return independent * (1.0 + (memory - 1.0) / 2.0)


def cusum_run_length(threshold: float, allowance: float) -> float:
    """ARL0 of a two-sided CUSUM on independent standard normal windows (Siegmund)."""
    b = 2.0 * allowance * (threshold + 1.166)
    return float((np.exp(b) - 1.0 - b) / (2.0 * allowance**2)) / 2.0


def cusum_threshold(run_length: float, allowance: float) -> float:
    """The h of a two-sided CUSUM with this ARL0, by bisection of `cusum_run_length`; both arguments positive."""
    low, high = 0.0, 1.0
    while cusum_run_length(high, allowance) < run_length:
        high *= 2.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if cusum_run_length(middle, allowance) < run_length else (low, middle)
    return high


def bootstrap_rows(
    rows: NDArray[np.floating], *, length: int, block: int, rng: np.random.Generator
) -> NDArray[np.floating]:
    """`length` windows put together from random blocks of `block` successive rows (n, F), in a circle.

    Künsch, "The jackknife and the bootstrap for general stationary observations", Annals of Statistics 17 (1989).
    """
    starts = rng.integers(0, len(rows), size=-(-length // block))
    index = (starts[:, None] + np.arange(block)) % len(rows)
    return np.asarray(rows[index.ravel()[:length]])


def factor_for_run_length(largest: NDArray[np.floating], *, windows: int, run_length: float) -> float:
    """By how much thresholds must grow, given each chain's largest statistic ÷ threshold over `windows` windows.

    Run lengths are taken as exponential, maxima as Gumbel; never below 1, for a bootstrap of few windows is optimistic.
    """
    scale = float(largest.std()) * 6**0.5 / np.pi
    location = float(largest.mean()) - 0.5772 * scale
    return max(1.0, location + scale * float(np.log(run_length / windows)))
