"""A threshold that keeps a false-alarm budget, and what is promised with it.

The operator says how many alarms a healthy machine may raise, in a thousand windows; the curve says at which level it
would. Time in alarm has a budget as well, of `windows_in_alarm` for each opening. What the data cannot support is said before:
of N windows without an opening nobody knows a rate below 3/N (the upper end of its 95 % interval), so a smaller promise is
provisional. And it holds for as far ahead as was looked when counting: a fifth of what was learnt from.
"""

from __future__ import annotations

from typing import Annotated, Final

import numpy as np
from msgspec import Meta, Struct

from models.detection.experts import FOLDS
from models.detection.openings import LEVELS, Curve

__all__ = ["AlarmBudget", "Promise", "make_promise"]

_RULE_OF_THREE: Final = 3.0


class AlarmBudget(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many false alarms a healthy machine may raise, and the shortest event that must not be missed."""

    alarms_per_1000_windows: Annotated[float, Meta(gt=0, le=100)] = 1.0
    """Openings; an alarm that goes on counts once more for each 60 windows."""
    windows_in_alarm: Annotated[float, Meta(ge=1, le=1000)] = 5.0
    """Time that a false alarm may last on average; with it, the share of time in alarm."""
    shortest_event_windows: Annotated[int, Meta(ge=1, le=2)] = 2
    """1: a single window counts, and nothing is averaged. 2: one window alone is a spike; what lasts longer is seen as well."""

    @property
    def rate(self) -> float:
        """Openings per window."""
        return self.alarms_per_1000_windows / 1000.0


class Promise(Struct, frozen=True, kw_only=True):
    """A `threshold` of the statistic, and what can be said of it.

    `rate` is the budget's openings per window, `supported` the smallest rate that the windows counted on can show;
    `horizon_windows` how many windows it holds for after it was made; `fitted_on` the device's own windows behind it.
    """

    threshold: float
    rate: float
    supported: float
    horizon_windows: int
    fitted_on: int

    @property
    def is_provisional(self) -> bool:
        """Does the budget ask for more than the data can support?"""
        return self.rate < self.supported

    @property
    def text(self) -> str:
        """One sentence for a person."""
        kept = f"at most 1 false alarm in {1 / self.rate:,.0f} windows, for {self.horizon_windows:,} windows"
        if not self.is_provisional:
            return kept
        return f"{kept}; provisional: {self.fitted_on:,} own windows and the fleet's support 1 in {1 / self.supported:,.0f}"


def make_promise(curve: Curve, budget: AlarmBudget, *, fitted_on: int) -> Promise:
    """The lowest level at which the budget of openings and of time in alarm is kept; the highest of all where none keeps it."""
    is_kept = (curve.rate <= budget.rate) & (curve.share <= budget.windows_in_alarm * budget.rate)
    kept = np.flatnonzero(is_kept)
    return Promise(
        threshold=float(LEVELS[kept[0] if len(kept) else -1]),
        rate=budget.rate,
        supported=max(
            _RULE_OF_THREE / max(curve.supported(budget.rate), 1.0),
            float(curve.rate[-1]),
            float(curve.share[-1]) / budget.windows_in_alarm,
        ),
        horizon_windows=max(fitted_on // FOLDS, 1),
        fitted_on=fitted_on,
    )
