"""What a device's own healthy windows ask of its drift detectors: a replay in their true order, once for each reference.

The table in `models.drift.calibration` takes a sensor for an autoregression. Real machines have days and shifts, warm up
and wander. So each fifth of the healthy windows is watched, in the order of time, by charts whose reference are the
other four:

    healthy windows = A B C D E      B C D E ─► bins ─► scores of A ┐
                                     A C D E ─► bins ─► scores of B ├─► one series, as long as the reference, of windows
                                     …                              ┘   that their reference has not seen
                      ─► largest statistic of each chart ÷ what 95 of 100 such series of independent windows stay below

Where that exceeds one, a chart of a mean gets an allowance, its *wander*: how far the level may lie from the reference
without adding up; for whatever a mean does for hours, no threshold is high enough. The charts of the spread get the same
in the logarithm of the variance, their *swing*, and the histogram a factor. Both allowances are at least three times what
the fifths differ by: in the next ten references a level that walks goes that far.

A machine whose columns ask for a `WANDERING` allowance on average is of another kind (`models.drift.limits`), and its
windows are replayed once more as such. What a few days have shown is less than what comes (`MARGIN`), and what one sensor
has not shown, the machine's others have (`_pooled`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.drift.bins import SMALLEST_STD, fit_bins
from models.drift.cusum import MEANS, largest_sums
from models.drift.ewma_histogram import EwmaHistogram
from models.drift.limits import chart_thresholds, cuts, histogram_thresholds, largest_wander
from models.drift.monitor import DriftSettings, run_length_of_a_column
from models.drift.normal_scores import NormalScores
from models.drift.reference import DriftReference, fit_reference, log_score

__all__ = ["fit_calibrated_reference"]

FEWEST_WINDOWS: Final = 60
"""Below this a fifth is a dozen windows: the table's thresholds stand."""

FIFTHS: Final = 5
WANDERING: Final = 0.25
"""Mean wander of a machine's columns, in standard deviations: independent windows show a tenth of it."""
MARGIN: Final = 2.5
WALK: Final = 3.0
LONGEST_MEMORY: Final = 4.0
"""Of a machine that wanders: what is slower is left to the allowance, or its charts would be deaf twice."""
LARGEST_SWING: Final = 3.0
"""A twentyfold variance: beyond it the charts of the spread are off."""

_QUIET: Final = 0.95
_BLOCK: Final = 16
_DEVIATIONS: Final = 1.645
_UNCUT: Final = 20.0

Float = NDArray[np.float32]
Doubles = NDArray[np.float64]


def fit_calibrated_reference(
    rows: NDArray[np.floating], scores: NDArray[np.floating], settings: DriftSettings
) -> DriftReference:
    """Learn what normal looks like, and what detectors have to put up with for it.

    Args:
        rows: standardised healthy windows in the order of time, shape (n, F), n ≥ 20.
        scores: their anomaly scores, shape (n,), not negative.
        settings: whose run length is wanted.

    Raises:
        InputError: as `fit_reference`.
    """
    reference = fit_reference(rows, scores)
    n = len(rows)
    if n < FEWEST_WINDOWS:
        return reference
    windows = np.column_stack([np.asarray(rows, np.float32), log_score(scores)])
    reference = _with_wander(reference, windows, settings)
    if np.mean(reference.wander) >= WANDERING:
        reference = msgspec.structs.replace(
            reference,
            is_wandering=True,
            memory=tuple(min(each, LONGEST_MEMORY) for each in reference.memory),
            score_memory=min(reference.score_memory, LONGEST_MEMORY),
        )
        reference = _with_wander(reference, windows, settings)
    return reference


def _with_wander(reference: DriftReference, windows: Float, settings: DriftSettings) -> DriftReference:
    """The reference with what the replay of its windows (n, F + 1) asks for."""
    z, surprise = _held_out(windows, is_wandering=reference.is_wandering)
    level, power = _levels(windows, z)
    columns, nothing = len(level), np.zeros(len(level))
    memory = reference.memories
    # With this run length a series as long as the reference is quiet in 95 of 100 cases.
    run_length = columns * len(z) / -np.log(_QUIET)
    limits = chart_thresholds(reference, run_length)

    def ratios(wander: Doubles, swing: Doubles) -> Doubles:
        cut = cuts(reference, wander)
        sums = largest_sums(
            np.clip(z, -cut, cut), memory=memory, fitted_on=len(z) / memory, wander=wander, swing=swing
        )
        return np.asarray(sums / limits)

    widest = largest_wander(reference, run_length_of_a_column(reference, settings))
    shift = _smallest_quiet(lambda w: ratios(w, nothing)[MEANS].max(axis=0), high=widest)
    wander = np.minimum(_pooled(np.maximum(MARGIN * shift, WALK * level)), widest)
    change = _smallest_quiet(
        lambda u: ratios(wander, u)[MEANS.stop :].max(axis=0), high=np.full(columns, LARGEST_SWING)
    )
    swing = np.minimum(_pooled(np.maximum(MARGIN * change, WALK * power)), LARGEST_SWING)
    distance = surprise / histogram_thresholds(reference, run_length)
    shape = np.where(distance > 1, MARGIN * distance, 1.0)
    return msgspec.structs.replace(
        reference, wander=tuple(wander.tolist()), swing=tuple(swing.tolist()), shape=tuple(shape.tolist())
    )


def _held_out(windows: Float, *, is_wandering: bool) -> tuple[Float, Doubles]:
    """Scores (n, C) of windows (n, C), each by the other fifths; and the histogram's largest S of each column (C,)."""
    z, largest = [], np.zeros(windows.shape[1])
    state: dict[str, NDArray[np.floating]] | None = None
    for fifth in np.array_split(np.arange(len(windows)), FIFTHS):
        others = np.delete(windows, fifth, axis=0)
        bins = [fit_bins(column) for column in others.T]
        wide = others.astype(np.float64)
        moments = (wide.mean(axis=0), np.maximum(wide.std(axis=0), SMALLEST_STD)) if is_wandering else None
        uncut = np.full(len(bins), _UNCUT, np.float32) if is_wandering else None
        scores = NormalScores(bins, cut=uncut, moments=moments)
        z.append(scores(windows[fifth]))
        histogram = EwmaHistogram(bins)
        if state is not None:
            histogram.restore(state)
        for start in range(0, len(fifth), _BLOCK):
            histogram.update(scores.cells[start : start + _BLOCK])
            np.maximum(largest, histogram.statistic, out=largest)
        state = histogram.state()
    return np.vstack(z), largest


def _levels(windows: Float, z: Float) -> tuple[Doubles, Doubles]:
    """How far (C,) the fifths' levels lie from that of the others, and the logarithms of their variances from theirs.

    As standard deviations, without what chance makes of them.
    """
    n = len(z)
    fifths = [z[fifth].astype(np.float64) for fifth in np.array_split(np.arange(n), FIFTHS)]
    means = np.array([fifth.mean(axis=0) for fifth in fifths])
    logs = np.log(np.array([fifth.var(axis=0) for fifth in fifths]) + 0.01)
    centred = windows - windows.mean(axis=0)
    rho = (centred[1:] * centred[:-1]).sum(axis=0) / np.maximum((centred**2).sum(axis=0), 1e-12)
    rho = np.clip(rho, 0.0, 0.9).astype(np.float64)
    chance = FIFTHS / n * (1 + 1 / (FIFTHS - 1)) * (1 + rho) / (1 - rho)
    of_logs = 2 * FIFTHS / n * (1 + rho**2) / (1 - rho**2)
    return _beyond(np.mean(means**2, axis=0), chance), _beyond(np.var(logs, axis=0, ddof=1), of_logs)


def _beyond(variances: Doubles, chance: Doubles) -> Doubles:
    """Standard deviations (C,) beyond what chance makes of variances of five fifths, at the 95 % level.

    Five say little of one column: half of what counts is the machine's mean, which is far better known.
    """
    error = _DEVIATIONS * (2 / (FIFTHS - 1)) ** 0.5
    own = np.maximum(variances - (1 + error) * chance, 0.0)
    common = max(float(np.mean(variances - (1 + error / len(chance) ** 0.5) * chance)), 0.0)
    return np.asarray(np.sqrt((own + common) / 2))


def _smallest_quiet(ratio: Callable[[Doubles], Doubles], *, high: Doubles) -> Doubles:
    """The smallest allowance (C,) up to `high` with which no chart exceeds its limit, by bisection; 0 where none is needed."""
    low, top = np.zeros(len(high)), high
    is_quiet = ratio(low) <= 1
    for _ in range(6):
        middle = (low + top) / 2
        over = ratio(middle) > 1
        low, top = np.where(over, middle, low), np.where(over, top, middle)
    return np.where(is_quiet, 0.0, top)


def _pooled(own: Doubles) -> Doubles:
    """At least what the machine's columns show on average: one that kept still for some days is of the same machine."""
    return np.asarray(np.maximum(own, own.mean()))
