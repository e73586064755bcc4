"""Where a value lies on an axis, and which round values an axis names.

What devices say is drawn too, and they may say anything: infinities, and numbers whose difference overflows. Every value is
brought within `MOST` first, and a place is always in [0, 1].

Invariants: pure; ticks are within the axis, and at most some twelve whatever its ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = ["Scale", "Tick", "brief", "time_ticks"]

MOST: Final = 1e18
"""Beyond this a value is drawn at the end of its axis: nothing that a sensor shows is so large."""

HOUR_S, DAY_S = 3600, 86_400

_TIME_STEPS: Final = (
    *(60, 120, 300, 600, 900, 1800),
    *(HOUR_S * hours for hours in (1, 2, 3, 4, 6, 8, 12)),
    *(DAY_S * days for days in (1, 2, 5, 7, 14, 30, 60, 91, 182, 365)),
)


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A named place of an axis: `place` in [0, 1] from its low end."""

    place: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A linear axis from `low` to `high`.

    >>> Scale(low=0.0, high=4.0).place(1.0), Scale(low=0.0, high=4.0).place(float("inf"))
    (0.25, 1.0)
    """

    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float], *, low: float | None = None, high: float | None = None) -> Scale:
        """The axis that shows all finite `values`; `low` and `high` are ends that are given."""
        known = [_bounded(value) for value in values if math.isfinite(value)]
        first = min(known, default=0.0) if low is None else low
        last = max(known, default=first + 1.0) if high is None else high
        if not last > first:
            last = first + (abs(first) or 1.0)
        if high is None:
            last += 0.05 * (last - first)
        if low is None:
            first -= 0.05 * (last - first)
        return cls(low=first, high=last)

    def place(self, value: float) -> float:
        """Where `value` lies, in [0, 1]; beyond an end, and not a number, is at that end."""
        if math.isnan(value):
            return 0.0
        return min(max((_bounded(value) - self.low) / (self.high - self.low), 0.0), 1.0)

    def ticks(self, wanted: int = 3) -> list[Tick]:
        """About as many round values as `wanted`, with the ends where these are round."""
        step = _round_step((self.high - self.low) / max(wanted, 1))
        first = math.ceil(self.low / step - 1e-9)
        found = [number * step for number in range(first, first + 2 * wanted + 3)]
        return [
            Tick(place=self.place(value), text=brief(value))
            for value in found
            if value <= self.high + 1e-9 * step
        ]


def time_ticks(start: float, until: float, wanted: int = 6) -> list[Tick]:
    """Round times of [start, until], Unix seconds, named in UTC: the hour, and at midnight the day.

    >>> [tick.text for tick in time_ticks(0, 86_400, 4)]
    ['1 Jan', '06:00', '12:00', '18:00', '2 Jan']
    """
    scale = Scale(low=start, high=max(until, start + 1))
    step = next((step for step in _TIME_STEPS if (until - start) / step <= wanted), _TIME_STEPS[-1])
    number = math.ceil(start / step)
    found: list[Tick] = []
    while number * step <= until and len(found) <= 2 * wanted:
        at = number * step
        found.append(Tick(place=scale.place(at), text=_time_text(at)))
        number += 1
    return found


def brief(value: float) -> str:
    """A number as an axis names it: three digits at most, thousands and more by a letter.

    >>> brief(0.25), brief(1200), brief(48_000_000), brief(-0.0)
    ('0.25', '1.2k', '48M', '0')
    """
    if not math.isfinite(value):
        return "?"
    for limit, letter in ((1e15, ""), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value:.0e}" if not letter else f"{value / limit:.3g}{letter}"
    return f"{value:.3g}" if value else "0"


def _bounded(value: float) -> float:
    return min(max(value, -MOST), MOST)


def _round_step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1.0, 2.0, 5.0, 10.0) if power * factor >= least * (1 - 1e-9))


def _time_text(at: float) -> str:
    moment = datetime.fromtimestamp(0, UTC) + timedelta(seconds=at)
    if moment.hour == moment.minute == 0:
        return f"{moment.day} {moment:%b}"
    return f"{moment:%H:%M}"
