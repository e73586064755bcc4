"""One device's rows as its detector sees them: in its own scale, and out of their context (`models.detection.context`).

    healthy rows ─► scale ─► context, where one is worth it ─► rows that a detector is fitted on, which it has not seen itself
    later rows ───► scale ─► the same context, for as long as the guard of its profile lets it ─► what is judged

A device's clock runs on from its first healthy row; where a period of rows is known, that is a day.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detection_tables.devices import Device
from models.detection.context import Context, Timed, fit_context
from models.detection.profile import Periods, ProfileGuard
from models.standardiser import Standardiser

__all__ = ["Seen", "see"]

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]

DAY_S: Final = 86_400.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What a device learns from: `rows` (n, F) without gaps, in multiples of `unit` (F,), and how others are made to compare.

    `row_s` is how far its clock goes in a row.
    """

    scale: Standardiser
    context: Context | None
    rows: Rows
    unit: Floats
    row_s: float

    def show(self, rows: Rows, first: int) -> Rows:
        """Raw rows (m, F), of which the first has that number, as the detector sees them; what is missing counts as the mean."""
        standardised = np.nan_to_num(self.scale.apply(rows))
        if self.context is None:
            return standardised
        return self.context.seen_rows(standardised, (first + np.arange(len(rows))) * self.row_s)

    def profile_ends(self, rows: Rows, first: int) -> int:
        """After how many of these rows the profile's guard switches it off; all of them, where it does not."""
        if self.context is None or self.context.profile is None:
            return len(rows)
        when = (first + np.arange(len(rows))) * self.row_s
        standardised = np.nan_to_num(self.scale.apply(rows))
        guard = ProfileGuard(self.context.profile.period_s)
        for i, (row, expected) in enumerate(zip(standardised, self.context.profile_rows(when), strict=True)):
            if guard.note(row, expected, float(when[i])):
                return i + 1
        return len(rows)


def see(device: Device, scale: Standardiser, *, in_context: bool = True, has_profile: bool = True) -> Seen:
    """The healthy rows of a device in a scale; without a context, or without a profile in it, where that is asked for."""
    row_s = DAY_S / device.period_rows if device.period_rows is not None else 1.0
    standardised = scale.apply(device.healthy)
    is_whole = np.isfinite(standardised).all(axis=1)
    timed = Timed(standardised[is_whole], np.flatnonzero(is_whole) * row_s)
    plain = Seen(scale=scale, context=None, rows=timed.rows, unit=scale.scale, row_s=row_s)
    if not in_context or not len(timed.rows):
        return plain
    cycles = []
    if device.period_rows is not None and has_profile:
        cycles = [Periods(DAY_S, float(timed.machine_s[-1]), timed.rows.shape[1])]
        cycles[0].add(timed.rows, timed.machine_s)
    context = fit_context(timed, cycles)
    if context is None:
        return plain
    return replace(
        plain,
        context=context,
        rows=context.unseen_rows(timed, cycles),
        unit=plain.unit * context.spread,
    )
