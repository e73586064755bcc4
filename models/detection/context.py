"""What a row is to be compared with at this moment: the hour of the machine's clock, and the regime that it runs in.

    row (F,) ─► − profile(clock) ─► − centre of the nearest regime ─► ÷ what of its deviation is left ─► row (F,), judged

With neither, which is the rule, there is no context, and a row is judged as it is. The rows that a detector is fitted on, those
that drift is compared with, those that a fleet's sums are made of and those that are judged are all taken out of their
context in the same way.

**The gate.** That a profile or a regime explains variance is no reason to use it: where an event is a little early one day, or an hour
is as wild as it is regular, what is left has the same extremes in smaller units, and opens as many alarms. So each is asked what a
person would ask: at the level that held-out windows hardly exceed, how small a deviation of one sensor is seen?

    sharpness of fold k = mean over sensors of ln(Mᵢᵢ / sᵢ²) − ln(level that the windows of fold k hardly exceed)

M is the score's matrix and sᵢ the unit of sensor i. It must rise over the folds, the lower 95 % end of their mean change by Student's
t: over whole periods for a profile, over fifths for regimes. Three periods must agree very well; seven need not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.detection.experts import FEWEST_WINDOWS, FOLDS, fit_form
from models.detection.profile import Periods, Profile
from models.detection.regimes import FEWEST_VISITS, Regimes, fit_regimes

__all__ = ["Context", "Fitted", "fit_context"]

Float = NDArray[np.float32]
Floats = NDArray[np.float64]

_STUDENT_95: Final = (6.31, 2.92, 2.35, 2.13, 2.02, 1.94, 1.89, 1.86, 1.83, 1.81, 1.80, 1.78, 1.77, 1.76, 1.75)
"""One-sided, of 1 to 15 degrees of freedom."""
_SMALLEST: Final = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class Context:
    """A profile, regimes, or both; `spread` (F,) is what is left of a sensor's deviation without them."""

    spread: Float
    profile: Profile | None = None
    regimes: Regimes | None = None

    def seen(self, row: Float, machine_s: float) -> Float:
        """A standardised row (F,) without what was to be expected at that time of the machine's clock, in units of the rest."""
        if self.profile is not None:
            row = row - self.profile.expected(machine_s)
        if self.regimes is not None:
            row = row - self.regimes.centres[self.regimes.nearest(row)]
        return row / self.spread

    def seen_rows(self, rows: Float, machine_s: Floats) -> Float:
        """`seen` of rows (n, F) at times (n,)."""
        if self.profile is not None:
            rows = rows - self.profile.expected_rows(machine_s)
        if self.regimes is not None:
            rows = rows - self.regimes.centres[self.regimes.nearest_of(rows)]
        return np.asarray(rows / self.spread, np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A context, and the `rows` (n, F) that it was fitted on as it shows them without having seen them; None: as they are."""

    context: Context | None
    rows: Float


def fit_context(
    rows: NDArray[np.floating],
    machine_s: Floats,
    periods: Periods | None,
    *,
    fewest_visits: int = FEWEST_VISITS,
) -> Fitted:
    """Find out whether this machine has a cycle or several regimes that are worth knowing.

    Args:
        rows: healthy standardised rows (n, F), oldest first.
        machine_s: when (n,), on the machine's clock.
        periods: of these rows and others; None where no period is known.
        fewest_visits: as of `fit_regimes`.
    """
    x = np.asarray(rows, np.float32)
    plain = Fitted(context=None, rows=x)
    if len(x) < FEWEST_WINDOWS:
        return plain
    fitted = plain
    profile = Profile.of(periods) if periods is not None else None
    if profile is not None and periods is not None:
        left = x - Profile.held_out(periods, machine_s)
        folds = periods.folds_of(machine_s)
        candidate = Context(spread=_spread(left, x), profile=profile)
        if _is_sharper(x, left, candidate.spread, folds):
            fitted = Fitted(context=candidate, rows=left)
    regimes = fit_regimes(fitted.rows, fewest_visits=fewest_visits)
    if regimes is not None:
        left = fitted.rows - regimes.held_out(fitted.rows)
        folds = np.arange(len(x)) * FOLDS // len(x)
        if _is_sharper(fitted.rows, left, _spread(left, fitted.rows), folds):
            known = fitted.context.profile if fitted.context is not None else None
            fitted = Fitted(
                context=Context(spread=_spread(left, x), profile=known, regimes=regimes), rows=left
            )
    if fitted.context is None:
        return plain
    return Fitted(context=fitted.context, rows=fitted.rows / fitted.context.spread)


def _spread(left: Float, rows: Float) -> Float:
    """What is left (F,) of a sensor's deviation; 1 for one that never moved."""
    before, after = (np.asarray(part, np.float64).std(axis=0) for part in (rows, left))
    return np.where(before > _SMALLEST, np.maximum(after, 1e-3 * before) / np.maximum(before, _SMALLEST), 1.0).astype(
        np.float32
    )


def _is_sharper(before: Float, after: Float, spread: Float, folds: NDArray[np.integer]) -> bool:
    """Is a smaller deviation seen in rows `after` (n, F) than `before`, over the `folds` (n,) ≥ 0?"""
    gains = _sharpness(after / spread, spread, folds) - _sharpness(before, np.ones_like(spread), folds)
    if len(gains) < 2:
        return False
    student = _STUDENT_95[min(len(gains) - 1, len(_STUDENT_95)) - 1]
    return bool(gains.mean() > student * gains.std(ddof=1) / np.sqrt(len(gains)))


def _sharpness(rows: Float, unit: Float, folds: NDArray[np.integer]) -> Floats:
    """As the module says, (K,) for the folds that hold windows enough."""
    form = fit_form(rows, None, averages=())
    sensitivity = float(np.log(np.diag(form.matrix) / np.square(unit)).mean())
    levels = [
        np.sort(scores)[-max(len(scores) // 1000, 1)]
        for fold in np.unique(folds[folds >= 0])
        if len(scores := form.held_out[folds == fold]) >= FEWEST_WINDOWS
    ]
    return sensitivity - np.log(np.maximum(levels, _SMALLEST))
