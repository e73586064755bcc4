"""How much time has passed on this device for its limits: a clock that cannot be set, carried over restarts.

Within one start of the kernel, seconds since it (sleep included): the date may be set back or ahead, nothing changes. Across starts only the
date tells how long the device was off, and it may be wrong: so a restart counts for a day at most, and for no less than the new
start has lasted. Time never runs backwards, and always goes on while the device does: a date in the year 2099 or 1970 gives nothing
and blocks nothing. Who sets the date ahead AND restarts the device gains a day each time; who can do that stands before it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edge_agent.trusted_clock import boot_clock_s, kernel_boot

__all__ = ["DAY_S", "Clock", "Moment", "passed_s", "system_moment"]

DAY_S: Final = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Now, by both clocks: `uptime_s` since the kernel's start `boot`, which nobody sets, and Unix seconds `wall_s`, which anybody may."""

    boot: str
    uptime_s: float
    wall_s: float

    def __post_init__(self) -> None:
        """What is no number is no time."""
        for name in ("uptime_s", "wall_s"):
            if not math.isfinite(getattr(self, name)):
                object.__setattr__(self, name, 0.0)


Clock = Callable[[], Moment]


def system_moment() -> Moment:
    """Now, by this device's kernel."""
    return Moment(boot=kernel_boot(), uptime_s=boot_clock_s(), wall_s=time.time())


def passed_s(before: Moment, now: Moment) -> float:
    """Seconds from `before` to `now` that certainly passed, or that a restart is believed for; never negative."""
    up_s = now.uptime_s - before.uptime_s
    if now.boot == before.boot and (up_s >= 0 or now.boot):
        return max(up_s, 0.0)  # a kernel's clock does not go back: one that did is no clock
    return min(max(now.uptime_s, now.wall_s - before.wall_s, 0.0), DAY_S)
