"""What a row is to be compared with at this moment: the hour of the machine's clock, and the regime that it runs in.

    row (F,) ─► − profile(clock) ─► − centre of the nearest regime ─► ÷ what of its deviation is left ─► row (F,), judged

With neither, which is the rule, there is no context, and a row is judged as it is. The rows that a detector is fitted on, those
that drift is compared with, those that a fleet's sums are made of and those that are judged are all taken out of their
context in the same way.

**The gate.** That a profile or a regime explains variance is no reason to use it: where an event is a little early one day, or an hour
is as wild as it is regular, what is left has the same extremes in smaller units, and opens as many alarms. So each is asked what a
person would ask: at the level that held-out windows hardly exceed, how small a deviation of one sensor is seen?

    sharpness = mean over sensors of ln(Mᵢᵢ / sᵢ²) − ln(mean over folds of the level that their windows hardly exceed)

M is the score's matrix and sᵢ the unit of sensor i. It must rise by more than its error, by leaving out one fold after the other and
Student's t (one-sided, 95 %): over whole periods for a profile, over fifths of the windows for regimes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.detection.experts import FEWEST_WINDOWS, FOLDS, fit_form, hardly_exceeded
from models.detection.profile import Periods, Profile
from models.detection.regimes import Regimes, fit_regimes

__all__ = ["Context", "Timed", "fit_context"]

Float = NDArray[np.float32]
Floats = NDArray[np.float64]

_STUDENT_95: Final = (
    6.31,
    2.92,
    2.35,
    2.13,
    2.02,
    1.94,
    1.89,
    1.86,
    1.83,
    1.81,
    1.80,
    1.78,
    1.77,
    1.76,
    1.75,
)
"""One-sided, of 1 to 15 degrees of freedom."""
_SMALLEST: Final = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class Context:
    """A profile, regimes, or both; `spread` (F,) is what is left of a sensor's deviation without them."""

    spread: Float
    profile: Profile | None = None
    regimes: Regimes | None = None

    def seen(self, row: Float, expected: Float | None) -> Float:
        """A standardised row (F,) without what the profile, if there is one, `expected` (F,), and its regime; in units of the rest."""
        if expected is not None:
            row = row - expected
        if self.regimes is not None:
            row = row - self.regimes.centres[self.regimes.nearest(row)]
        return row / self.spread

    def profile_rows(self, machine_s: Floats) -> Float:
        """What the profile expects (n, F), or nothing (n, 1), at times (n,)."""
        if self.profile is None:
            return np.zeros((len(machine_s), 1), np.float32)
        return self.profile.expected_rows(machine_s)

    def seen_rows(self, rows: Float, machine_s: Floats) -> Float:
        """`seen` of rows (n, F) at times (n,) of the machine's clock."""
        rows = rows - self.profile_rows(machine_s)
        if self.regimes is not None:
            rows = rows - self.regimes.centres[self.regimes.nearest_of(rows)]
        return np.asarray(rows / self.spread, np.float32)

    def unseen_rows(self, timed: Timed, cycles: Sequence[Periods]) -> Float:
        """`seen_rows` of the rows that it was fitted on, as if it had not seen them; `cycles` are those of `fit_context`."""
        rows = timed.rows
        if self.profile is not None:
            (periods,) = (cycle for cycle in cycles if cycle.period_s == self.profile.period_s)
            rows = rows - Profile.held_out(periods, timed.machine_s)
        if self.regimes is not None:
            rows = rows - self.regimes.held_out(rows)
        return np.asarray(rows / self.spread, np.float32)


class Timed(NamedTuple):
    """Healthy standardised rows (n, F), oldest first, and when (n,), on the machine's clock."""

    rows: Float
    machine_s: Floats


def fit_context(
    newest: Timed,
    cycles: Sequence[Periods] = (),
    spread_out: Timed | None = None,
    *,
    is_vouched: bool = False,
) -> Context | None:
    """Find out whether this machine has a cycle or several regimes that are worth knowing; None, as nearly always: neither.

    Args:
        newest: the rows that a detector is fitted on, one window after the other.
        cycles: candidates for a profile.
        spread_out: some of the rows that are in `cycles`, from all over them; by default the newest.
        is_vouched: as of `fit_regimes`; then regimes need not make anything sharper.
    """
    if len(newest.rows) < FEWEST_WINDOWS:
        return None
    context = _fit_profile(spread_out or newest, cycles)
    rows = newest.rows if context is None else newest.rows - context.profile_rows(newest.machine_s)
    regimes = fit_regimes(rows, is_vouched=is_vouched)
    if regimes is None:
        return context
    left = rows - regimes.held_out(rows)
    spread = _spread(left, rows)
    if not is_vouched and _sharpened(rows, left, spread, np.arange(len(rows)) * FOLDS // len(rows)) <= 0:
        return context
    if context is None:
        return Context(spread=spread, regimes=regimes)
    return replace(context, spread=spread * context.spread, regimes=regimes)


def _fit_profile(timed: Timed, cycles: Sequence[Periods]) -> Context | None:
    """The profile of the cycle that sharpens most, if one does."""
    best, most = None, 0.0
    for periods in cycles:
        profile = Profile.of(periods)
        if profile is None:
            continue
        left = timed.rows - Profile.held_out(periods, timed.machine_s)
        spread = _spread(left, timed.rows)
        gain = _sharpened(timed.rows, left, spread, periods.folds_of(timed.machine_s))
        if gain > most:
            best, most = Context(spread=spread, profile=profile), gain
    return best


def _spread(left: Float, rows: Float) -> Float:
    """What is left (F,) of a sensor's deviation; 1 for one that never moved."""
    before, after = (np.asarray(part, np.float64).std(axis=0) for part in (rows, left))
    return np.where(
        before > _SMALLEST, np.maximum(after, 1e-3 * before) / np.maximum(before, _SMALLEST), 1.0
    ).astype(np.float32)


def _sharpened(before: Float, after: Float, spread: Float, folds: NDArray[np.integer]) -> float:
    """How much sharper rows `after` (n, F) are at least, in logarithms, by the `folds` (n,) ≥ 0; 0 where nobody knows."""
    sensitivity, levels = _sharpness(after / spread, spread, folds)
    sensitivity_before, levels_before = _sharpness(before, np.ones_like(spread), folds)
    k = len(levels)
    if k < 2:
        return 0.0
    gain = sensitivity - sensitivity_before - float(np.log(levels.mean() / levels_before.mean()))
    without = np.log((levels.sum() - levels) / (levels_before.sum() - levels_before))
    error = np.sqrt((k - 1) / k * np.square(without - without.mean()).sum())
    return gain - _STUDENT_95[min(k - 1, len(_STUDENT_95)) - 1] * float(error)


def _sharpness(rows: Float, unit: Float, folds: NDArray[np.integer]) -> tuple[float, Floats]:
    """The first term, and the level of each fold (K,) that holds windows enough."""
    form = fit_form(rows, None, averages=())
    levels = [
        hardly_exceeded(scores)
        for fold in np.unique(folds[folds >= 0])
        if len(scores := form.held_out[folds == fold]) >= FEWEST_WINDOWS
    ]
    sensitivity = float(np.log(np.diag(form.matrix) / np.square(unit)).mean())
    return sensitivity, np.maximum(levels, _SMALLEST)
