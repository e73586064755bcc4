"""Thresholds for a wanted run length between false alarms (ARL0), so that detectors are comparable and add up.

A device with N columns that may each raise a false alarm every A windows gives one every A/N: every column is therefore
tuned to ARL0 = N · (wanted ARL0 of the device). Within a column the charts share that budget unequally (`SHARES`): a small
shift of the mean is the hardest to see and gets nearly all of it, for what is easy to see costs little even when it is
nearly never allowed to be wrong.

The statistics see normal scores or ranks, so one table serves every distribution: `_GUMBEL`, simulated by
``python benchmarks/drift_thresholds.py``. The largest value of a statistic over a stretch of windows follows a Gumbel
law, hence threshold = intercept + slope · ln ARL0; both depend on the n windows that the reference was fitted on.
`models.drift.bootstrap` adds what this device's own windows ask for.

Source: E. J. Gumbel, "Statistics of extremes" (Columbia University Press 1958).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["HISTOGRAM_RATES", "SHARES", "histogram_threshold", "stuck_run", "threshold"]

HISTOGRAM_RATES: Final = (0.01, 0.002)
"""λ: a memory of ~100 windows for what is sudden, ~500 for what is slow."""

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
    "histogram 0.01": (
        (-0.000372, 0.001441),
        (-0.004099, 0.002046),
        (-0.016189, 0.003772),
        (-0.034187, 0.006159),
        (-0.059509, 0.009610),
    ),
    "histogram 0.002": (
        (-0.000769, 0.000323),
        (-0.003793, 0.000785),
        (-0.014085, 0.002155),
        (-0.026872, 0.003846),
        (-0.047687, 0.006602),
    ),
}


def threshold(
    statistic: str, run_length: float, *, fitted_on: float | NDArray[np.floating]
) -> NDArray[np.float64]:
    """The value that a statistic exceeds once in `run_length` ÷ its share windows without drift.

    Args:
        statistic: a key of SHARES but for ``histogram``, which is `histogram_threshold`'s.
        run_length: wanted ARL0 of the sensor in windows, ≥ 1000.
        fitted_on: independent windows behind the reference, ≥ 60 (fewer are treated as 60); an array gives one.

    Raises:
        ValueError: a statistic that was not simulated.
    """
    if statistic not in SHARES or statistic not in _GUMBEL:
        raise ValueError(f"no thresholds were simulated for {statistic!r}; choose one of {sorted(SHARES)}")
    return _look_up(statistic, run_length / SHARES[statistic], fitted_on)


def histogram_threshold(
    rate: float, run_length: float, *, fitted_on: float, memory: float | NDArray[np.floating] = 1.0
) -> NDArray[np.float64]:
    """The S above which an EWMA-histogram alarms once in `run_length` windows without drift.

    Args:
        rate: λ, one of HISTOGRAM_RATES.
        run_length: wanted ARL0 of this one statistic in windows, ≥ 1000.
        fitted_on: windows behind the bin edges, ≥ 60 (fewer are treated as 60).
        memory: windows per independent window, ≥ 1. Bin counts forget faster than means: half of the excess counts.

    Raises:
        ValueError: a rate that was not simulated.
    """
    if rate not in HISTOGRAM_RATES:
        raise ValueError(
            f"no thresholds were simulated for a forgetting rate of {rate}; choose one of {HISTOGRAM_RATES}"
        )
    independent = _look_up(f"histogram {rate:g}", run_length, fitted_on)
    return np.asarray(independent * (1.0 + (np.asarray(memory) - 1.0) / 2.0))


def stuck_run(run_length: float, *, repeats: float, fitted_on: float, shortest: int) -> int:
    """Windows in a row with the value before that are no chance, for a sensor that repeats itself now and then.

    Args:
        run_length: wanted ARL0 in windows.
        repeats: share of the reference's windows that repeated the one before, in [0, 1].
        fitted_on: windows behind that share; three more repeats than were seen are allowed for.
        shortest: never fewer than this.
    """
    likely = min((repeats * fitted_on + 3.0) / (fitted_on + 3.0), 0.999)
    return max(shortest, int(np.ceil(np.log(run_length) / -np.log(likely))))


def _look_up(key: str, run_length: float, fitted_on: float | NDArray[np.floating]) -> NDArray[np.float64]:
    table = np.asarray(_GUMBEL[key])
    inverse = 1.0 / np.asarray(fitted_on, np.float64)
    intercept = np.interp(inverse, _INVERSE_N, table[:, 0])
    slope = np.interp(inverse, _INVERSE_N, table[:, 1])
    return np.asarray(intercept + slope * np.log(max(run_length, 1000.0)))
