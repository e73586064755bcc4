"""Looking for the context of a device's windows: when, in which rows, and on which clock.

A profile is looked for with each fit that may have one, and else when twice as many whole periods have been seen as the last time.
Rows speak of a cycle from `cycle_since_s` on: since the machine's clock began anew, or a profile was found to say nothing any more.
Of a time before, nobody knows where in the cycle it was, or the cycle is another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.detection_memory import DetectionMemory
from edge_agent.kept_rows import Cycles, KeptRows
from edge_agent.live_context import Healthy
from edge_agent.sample_buffer import BufferedRows
from edge_agent.unknown_regimes import told_since
from models.detection.context import Context, Timed, fit_context
from models.detection.profile import Periods, fewest_periods

__all__ = ["ContextSearch", "Search"]

log = logging.getLogger(__name__)

NATURAL_CYCLES_S: Final = (86_400.0, 604_800.0)
"""A day, and a week of days that differ: looked for where nobody names a cycle."""

_STEP_BACK: Final = 1 / 24
"""Of the shortest cycle, that a clock may be set back by: a profile knows no smaller part of it."""

_CONFIRMED: Final = 3
"""Windows in a row at another time, after which that is the time."""

_LONGEST_PAUSE: Final = 4
"""Periods between two looks at how many there are."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    """A search for a context, with all that it looks at."""

    kept: BufferedRows
    unit: NDArray[np.floating]
    periods: tuple[Periods, ...]
    spread_out: Timed | None
    is_vouched: bool

    def run(self) -> Healthy:
        """See `ContextSearch.find`."""
        timed = Timed(self.kept.rows, self.kept.machine_s)
        context = fit_context(timed, self.periods, self.spread_out, is_vouched=self.is_vouched)
        if context is None:
            return Healthy(kept=self.kept, seen=self.kept.rows, unit=self.unit)
        return Healthy(
            kept=self.kept,
            seen=context.unseen_rows(timed, self.periods),
            unit=self.unit * context.spread,
            context=context,
        )


class ContextSearch:
    """Of one device. One thread.

    Args:
        memory: what survives a restart.
        rows: the rows that may be learnt.
        period_s: a cycle that somebody has named.
        most_rows: to look at more closely.
        wall: Unix seconds.
    """

    def __init__(
        self,
        memory: DetectionMemory,
        rows: KeptRows,
        period_s: float | None,
        *,
        most_rows: int,
        wall: Callable[[], float],
    ) -> None:
        self._memory, self._rows, self._most_rows, self._wall = memory, rows, most_rows, wall
        self._cycles_s = NATURAL_CYCLES_S if period_s is None else (period_s,)
        self._step_back_s, self._step_ahead_s = min(self._cycles_s) * _STEP_BACK, max(self._cycles_s)
        self._jumped = 0
        self._look_again_s, self._pause_s = float("-inf"), min(self._cycles_s)
        self._latest_s = max(rows.newest(1).machine_s.tolist(), default=float("-inf"))

    def is_new_clock(self, machine_s: float) -> bool:
        """Has the machine's clock begun anew? A window or two at another time are a slip of it; a machine may rest for long."""
        step_s = machine_s - self._latest_s
        if -self._step_back_s <= step_s <= self._step_ahead_s:  # nearly always
            self._latest_s, self._jumped = machine_s, 0
            return False
        self._jumped += 1
        if self._jumped < _CONFIRMED:
            return False
        self._latest_s, self._jumped = machine_s, 0
        return step_s < 0

    def find(self, kept: BufferedRows, unit: NDArray[np.floating]) -> Healthy:
        """Look for a context of the newest rows, given what one step of theirs is (F,); they come as if it had not seen them."""
        search = self.begin(kept, unit)
        healthy = search.run()
        self.note(search, healthy.context)
        return healthy

    def begin(self, kept: BufferedRows, unit: NDArray[np.floating]) -> Search:
        """Gather what `find` looks at; what is left to do may be done in another thread."""
        cycles = self._cycles()
        return Search(
            kept=kept,
            unit=unit,
            periods=cycles.periods if cycles is not None else (),
            spread_out=Timed(cycles.rows.rows, cycles.rows.machine_s) if cycles is not None else None,
            is_vouched=self._memory.remembered.is_vouched,
        )

    def note(self, search: Search, context: Context | None) -> None:
        """Remember what was looked at, and found."""
        if context is not None and context.profile is not None:
            self._memory.remember(periods_tried=0, profile_lost="")
        else:
            tried = max((len(period.whole) for period in search.periods), default=0)
            self._memory.remember(periods_tried=tried)

    def has_more_periods(self) -> bool:
        """Are there twice as many whole periods as when a profile was looked for last?"""
        if self._latest_s < self._look_again_s:
            return False  # nearly always: rows have to be read for it
        self._look_again_s = self._latest_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE * min(self._cycles_s))
        wanted = 2 * self._memory.remembered.periods_tried
        cycles = self._cycles() if self._rows.span_s >= wanted * min(self._cycles_s) else None
        if cycles is None:
            return False
        return max(len(p.whole) for p in cycles.periods) >= wanted

    def lose(self, context: Context | None, why: str) -> bool:
        """Rows so far speak of no cycle any more; returns whether that takes a profile from the `context` in force."""
        is_used = context is not None and context.profile is not None
        now_s = self._wall()
        self._look_again_s, self._pause_s = float("-inf"), min(self._cycles_s)
        log.warning("cycle_lost why=%s was_used=%s", why, is_used)
        said = f"no profile of the machine's cycle since {told_since(now_s)}: {why}" if is_used else ""
        self._memory.remember(cycle_since_s=now_s, periods_tried=0, profile_lost=said)
        return is_used

    def forget(self) -> None:
        """The scale is another, and rows begin with it."""
        self._memory.remember(periods_tried=0, profile_lost="", is_vouched=False)

    def _cycles(self) -> Cycles | None:
        """Those of which enough periods were seen; None: none is."""
        if self._rows.span_s < min(fewest_periods(length) * length for length in self._cycles_s):
            return None
        since_s = self._memory.remembered.cycle_since_s
        cycles = self._rows.cycles(self._cycles_s, since_s, most=self._most_rows)
        known = tuple(p for p in cycles.periods if len(p.whole) >= fewest_periods(p.period_s))
        return Cycles(periods=known, rows=cycles.rows) if known else None
