"""Where the charts of one device's columns alarm, and how much of a moving level they put up with.

A machine is of one of two kinds, and its own replay says of which (`models.drift.replay`).

    steady       scores by rank, cut at ±3: every distribution is Gaussian; memory is in the thresholds
    wandering    its level moves for hours without anything being wrong. Deviations are compared as they are, because all
                 that lies beyond the reference has the same rank; each column's *wander* is subtracted, what counts of a
                 window ends `BEYOND_WANDER` above it, and `PATIENCE` windows have to agree. A shape that is the
                 hour's and not the day's is not compared at all.

How much may be subtracted is not a matter of taste: `largest_wander` leaves a shift of `FOUND_STDS` to be found within
`FOUND_WITHIN` windows. `benchmarks/drift.py promise` prints what that costs and brings on real machines.

Invariants: all arrays are (…, F + 1), with ln score as the last column; only a rising score is watched.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.drift.calibration import SHARES, for_scores, histogram_threshold, threshold
from models.drift.cusum import ALLOWANCES, MEANS
from models.drift.normal_scores import LARGEST_SCORE
from models.drift.reference import DriftReference

__all__ = ["chart_thresholds", "cuts", "histogram_thresholds", "largest_wander"]

BEYOND_WANDER: Final = 1.5
"""Standard deviations: a burst, however high, is no more than a level so far out."""
PATIENCE: Final = 100.0
"""Windows that a level beyond the wander lasts at least before it is a change: an hour or two of a server's day."""
PATIENCE_SHARE: Final = 0.1
"""Of the reference, at most: one of 500 windows cannot say what is usual for a hundred."""
FOUND_STDS: Final = 4.0
FOUND_WITHIN: Final = 185.0
"""The power floor, 200 windows, less the blocks that a monitor waits for."""

_NOISE: Final = 0.35
"""What the cut takes from a level that the windows scatter about."""
_OWN_DOUBT: Final = 2.0
_LONGEST_MEMORY: Final = 20.0
"""Standard errors, of a reference whose windows remember twenty: its own level is not better known."""

_STATISTIC_OF_CHART: Final = ("small shift", "small shift", "shift", "shift", "spread up", "spread down")
_NOT_OF_THE_SCORE: Final = (1, 3, 4, 5)
_MOST_AT_REST: Final = 0.5
"""Of a sensor that lies at atoms for longer than that, the spread is a matter of how long: the histogram sees that."""

Doubles = NDArray[np.float64]


def cuts(reference: DriftReference, wander: Doubles) -> NDArray[np.float32]:
    """Where a column's scores (F + 1,) end."""
    ends = wander + BEYOND_WANDER if reference.is_wandering else np.full(len(wander), LARGEST_SCORE)
    return ends.astype(np.float32)


def chart_thresholds(reference: DriftReference, run_length: float) -> Doubles:
    """(6, F + 1): what each chart exceeds once in `run_length` windows ÷ its share, were a column an autoregression."""
    memory = reference.memories
    # Squares of an autoregression with lag-one correlation ρ have ρ²: they forget faster than the values.
    rho = (memory - 1.0) / (memory + 1.0)
    of_squares = (1.0 + rho**2) / (1.0 - rho**2)
    rows = []
    for statistic in _STATISTIC_OF_CHART:
        slower = of_squares if statistic.startswith("spread") else memory
        limit = threshold(statistic, run_length, fitted_on=reference.fitted_on / slower)
        lumpy = [for_scores(statistic, bins) for bins in reference.columns]
        rows.append(_with_memory(statistic, limit, memory, of_squares) * lumpy)
    limits = np.stack(rows)
    if reference.is_wandering:
        patience = min(PATIENCE, PATIENCE_SHARE * reference.fitted_on)
        steepest = BEYOND_WANDER / np.sqrt(memory) - _slack(reference)
        limits[MEANS] = np.maximum(limits[MEANS], patience * steepest)
    is_resting = [sum(bins.masses[i] for i in bins.atoms) > _MOST_AT_REST for bins in reference.columns]
    limits[len(ALLOWANCES) :, is_resting] = np.inf
    limits[_NOT_OF_THE_SCORE, -1] = np.inf
    return limits


def largest_wander(reference: DriftReference, run_length: float) -> Doubles:
    """The allowance (F + 1,) with which a shift of `FOUND_STDS` is still found within `FOUND_WITHIN` windows."""
    memory = reference.memories
    doubt = _OWN_DOUBT * (_LONGEST_MEMORY / reference.fitted_on) ** 0.5
    height = (FOUND_STDS if reference.is_wandering else LARGEST_SCORE) - _NOISE - doubt
    rise = _slack(reference)[0] + chart_thresholds(reference, run_length)[0] / FOUND_WITHIN
    return np.asarray(np.maximum(height - np.sqrt(memory) * rise, 0.0))


def histogram_thresholds(reference: DriftReference, run_length: float) -> Doubles:
    """(F + 1,), infinite where shapes are not compared: of the score, and of a machine that wanders."""
    limits = histogram_threshold(
        run_length / SHARES["histogram"],
        fitted_on=reference.fitted_on,
        memory=reference.memories,
        bins=np.array([np.count_nonzero(bins.masses) for bins in reference.columns]),
    )
    limits[-1] = np.inf
    return np.full(len(limits), np.inf) if reference.is_wandering else limits


def _slack(reference: DriftReference) -> Doubles:
    """What a chart of a mean (4, F + 1) subtracts of each step beside the wander."""
    return np.asarray(ALLOWANCES[:, None] + 1.5 * np.sqrt(reference.memories / reference.fitted_on))


def _with_memory(
    statistic: str, limit: NDArray[np.float64], memory: NDArray[np.float64], of_squares: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The threshold of independent windows, for windows that remember; `benchmarks/drift.py` measures what it gives.

    A sum of dependent steps crosses its limit smoothly, without the overshoot that independent ones have, and starts anew
    less often: in units of the long-run deviation that is worth a constant times √memory, whatever the run length.
    """
    match statistic:
        case "small shift":
            return np.maximum(limit - 1.65 * (np.sqrt(memory) - 1.0), 0.2 * limit)
        case "shift":
            return np.maximum(limit - 1.8 * (np.sqrt(memory) - 1.0), 0.2 * limit)
        case "spread up":
            return limit * (1.0 + 1.1 * (of_squares - 1.0))
        case _:
            return limit * (1.0 + 0.55 * (of_squares - 1.0))
