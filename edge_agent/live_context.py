"""Windows of a running machine in their context: what was to be expected is taken out, for as long as it is still to be expected.

    standardised row ─► − profile(clock) − centre of the nearest regime ─► the row that is judged, and watched for drift
                            └─► guard: a profile that says nothing any more is `lost`, and whoever owns this learns without it

Pure, one thread. What a context is, and when one is used at all: `models.detection.context`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.sample_buffer import BufferedRows
from models.detection.context import Context
from models.detection.profile import ProfileGuard

__all__ = ["Healthy", "LiveContext", "as_seen"]

Float = NDArray[np.float32]


class LiveContext:
    """A context with the guard of its profile.

    Attributes:
        context: None: rows stay as they are.
        is_lost: the profile does not fit any more.
    """

    def __init__(self, context: Context | None) -> None:
        self.context = context
        self.is_lost = False
        self._guard = (
            ProfileGuard(context.profile.period_s) if context is not None and context.profile else None
        )

    def see(self, row: Float, machine_s: float) -> Float:
        """A standardised row (F,) at a time of the machine's clock, without what was to be expected."""
        context = self.context
        if context is None:
            return row
        expected = None
        if context.profile is not None and self._guard is not None:
            expected = context.profile.expected(machine_s)
            if self._guard.note(row, expected, machine_s):
                self.is_lost = True
        return context.seen(row, expected)


@dataclass(frozen=True, kw_only=True, eq=False)
class Healthy:
    """Rows that may be learnt (n, F), oldest first: as they were kept, and as they are `seen` in their `context`, in `unit` (F,)."""

    kept: BufferedRows
    seen: Float
    unit: NDArray[np.floating]
    context: Context | None = None


def as_seen(kept: BufferedRows, unit: NDArray[np.floating], context: Context | None) -> Healthy:
    """Rows in a context that is in force, and what one step of theirs is in the source's own units, given what `unit` (F,) one was."""
    if context is None:
        return Healthy(kept=kept, seen=kept.rows, unit=unit)
    return Healthy(
        kept=kept,
        seen=context.seen_rows(kept.rows, kept.machine_s),
        unit=unit * context.spread,
        context=context,
    )
