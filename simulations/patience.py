"""How long to wait on this machine: seconds of a quiet machine, not of the wall.

A machine may be five times slower than the one the story was written on, all the time or while others share it. So a
wait counts down slower where everything else is slower too: at `slowness` 5, five seconds count as one. Needs nothing
but the standard library: the tests wait by the same measure.

>>> now = 0.0
>>> patience = Patience(10.0, clock=lambda: now, slowness=lambda: 5.0)
>>> now = 49.0; patience.is_used_up()
False
>>> now = 51.0; patience.is_used_up()
True
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["Patience", "measure_pace", "slowness"]

LOOK_EVERY_S: Final = 1.0
LOOKS: Final = 5
SLOWEST: Final = 10.0
"""A machine that seems slower is busy with something that will pass."""
PROBE_S: Final = 0.004
"""What `_probe_s` takes on a quiet x86 core of 2023."""


def slowness() -> float:
    """How many times slower than a quiet machine this one is at the moment, ≥ 1: its processor and whoever shares it."""
    return max(1.0, _probe_s() / PROBE_S, _runnable() / (os.cpu_count() or 1))


def measure_pace(sleep: Callable[[float], None] = time.sleep) -> float:
    """What `slowness` typically is just now, at most `SLOWEST`: the median of `LOOKS` looks, half a second in all."""
    looks = []
    for _ in range(LOOKS):
        looks.append(slowness())
        sleep(0.1)
    return min(statistics.median(looks), SLOWEST)


class Patience:
    """One wait. Ask `is_used_up` at least every few seconds: slowness is looked at about once a second.

    Args:
        limit_s: seconds of a quiet machine.
        clock: monotonic seconds.
        slowness: how many times slower the machine is just now.
    """

    def __init__(
        self,
        limit_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        slowness: Callable[[], float] = slowness,
    ) -> None:
        self._left_s = limit_s
        self._clock, self._slowness = clock, slowness
        self._looked_at, self._factor = clock(), slowness()

    def is_used_up(self) -> bool:
        """Whether the machine has had its time."""
        passed_s = self._clock() - self._looked_at
        if passed_s >= LOOK_EVERY_S:
            self._factor = (self._factor + self._slowness()) / 2
            self._looked_at += passed_s
            self._left_s -= passed_s / self._factor
        return self._left_s <= 0


def _probe_s() -> float:
    started = time.perf_counter()
    sum(i * i for i in range(100_000))
    return time.perf_counter() - started


def _runnable() -> float:
    """Tasks that run or want to."""
    try:
        return float(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].partition("/")[0])
    except OSError:  # not Linux
        return os.getloadavg()[0]
