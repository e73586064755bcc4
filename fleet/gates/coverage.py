"""Which devices showed enough of the span to be compared with the others.

Controls that fell silent show another part of the day than the canaries that go on: where a shift begins meanwhile, a harmless release
is stopped for it. So a device that covers less than half of what the longer arm typically does is not compared, of either
arm alike. What it stands for, silence, is judged by `restarts`, which looks at all devices.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from fleet.gates.arms import Arms

__all__ = ["COVERED_SHARE", "without_short_spans"]

COVERED_SHARE: Final = 0.5
"""Of the longer arm's middle device; what comes late has come by the next look, which is twice as far."""


def without_short_spans(arms: Arms) -> Arms:
    """The same, with nothing shown `after` by devices whose health covers too little of it."""
    hours = arms.after.hours
    is_heard = hours > 0
    reference = max(
        (
            float(np.median(hours[arm]))
            for arm in (is_heard & arms.is_canary, is_heard & ~arms.is_canary)
            if arm.any()
        ),
        default=0.0,
    )
    is_short = hours < COVERED_SHARE * reference
    if not is_short.any():
        return arms
    after = arms.after
    counted = {name: np.where(is_short, 0.0, getattr(after, name)) for name in ("windows", "judged", "over")}
    told = {
        name: np.where(is_short, np.nan, getattr(after, name))
        for name in ("log_latency", "log_drift", "memory_slope", "sight")
    }
    return replace(arms, after=replace(after, **counted, **told))
