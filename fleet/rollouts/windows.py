"""Maintenance windows: times of five fields as cron knows them, in the local time of a device.

A window begins at a local time and lasts so many seconds. Of a clock that is set forward and back:

* a beginning in the hour that is left out comes that much later, as if the clock had not been changed (02:30 is 03:30);
* one in the hour that comes twice is the first of the two, and no second window begins.

Fields: minute, hour, day of month, month, day of week (0 and 7 are Sunday; ``jan``, ``mon`` as well); each ``*``, ``a``,
``a-b``, ``*/n``, ``a-b/n``, or several with commas. Where both days are given, either suffices (IEEE 1003.1, crontab).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from fleet.errors import UnacceptableError

__all__ = ["TIME_ZONE", "Cron", "check_time_zone", "check_zone_label", "opens_at"]

TIME_ZONE: Final = "time_zone"
"""The label, assigned by a person, whose value is a device's time zone."""

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: Final = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 7, _DAYS),
)

_LONGEST_PAUSE_DAYS: Final = 8 * 366
"""29 February is eight years apart around 2100; whatever comes at all comes within that, but for a weekday with it."""


@dataclass(frozen=True, kw_only=True)
class Cron:
    """The minutes, hours and days that an expression of five fields names."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  # 0 is Sunday
    is_either_day: bool

    @staticmethod
    @lru_cache(maxsize=256)
    def parse(text: str) -> Cron:
        """What `text` says.

        Raises:
            ValueError: it is not five fields of the kinds above, or names a day that never comes.
        """
        fields = text.split()
        if len(fields) != len(_FIELDS):
            raise ValueError(
                f"cron {text!r} has {len(fields)} fields; it needs 5: minute hour day-of-month month day-of-week,"
                ' e.g. "0 2 * * sat,sun"'
            )
        minutes, hours, days, months, weekdays = (
            _parse_field(text, field, *names) for field, names in zip(fields, _FIELDS, strict=True)
        )
        cron = Cron(
            minutes=tuple(sorted(minutes)),
            hours=tuple(sorted(hours)),
            days=days,
            months=months,
            weekdays=frozenset(day % 7 for day in weekdays),
            is_either_day=not fields[2].startswith("*") and not fields[4].startswith("*"),
        )
        start = date(2096, 3, 1)  # the longest way to a 29 February begins here
        if not any(cron.is_on(start + timedelta(days=ahead)) for ahead in range(_LONGEST_PAUSE_DAYS)):
            raise ValueError(f"cron {text!r} names a day that never comes")
        return cron

    def is_on(self, day: date) -> bool:
        """Whether there is a beginning on `day`."""
        if day.month not in self.months:
            return False
        in_month, in_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return (in_month or in_week) if self.is_either_day else (in_month and in_week)

    def beginnings(self, day: date, zone: ZoneInfo) -> list[float]:
        """The Unix seconds of the beginnings on local `day`, in their order."""
        if not self.is_on(day):
            return []
        # of a time that comes twice fold=0 is the first; of one that is left out, what it was by the clock before
        return sorted(
            {
                datetime.combine(day, time(hour, minute), zone).timestamp()
                for hour in self.hours
                for minute in self.minutes
            }
        )


def _parse_field(
    text: str, field: str, name: str, low: int, high: int, names: tuple[str, ...]
) -> frozenset[int]:
    numbers = {word: low + at for at, word in enumerate(names)}

    def fault(part: str) -> ValueError:
        words = f", or {names[0]} to {names[-1]}" if names else ""
        return ValueError(
            f"cron {text!r}: {name} {part!r} is not understood; valid are {low} to {high}{words}, as"
            " a, a-b, */n, a-b/n, several with commas"
        )

    def number(word: str, part: str) -> int:
        value = numbers.get(word.lower())
        if value is None:
            if not (word.isascii() and word.isdigit() and len(word) <= 2):
                raise fault(part)
            value = int(word)
        if not low <= value <= high:
            raise fault(part)
        return value

    found: set[int] = set()
    for part in field.split(","):
        span, slash, step_text = part.partition("/")
        step = number(step_text, part) if slash and step_text not in names else 1
        if span == "*":
            first, last = low, high
        else:
            begin, dash, end = span.partition("-")
            first = number(begin, part)
            last = number(end, part) if dash else (high if slash else first)
        if step < 1 or last < first:
            raise fault(part)
        found.update(range(first, last + 1, step))
    return frozenset(found)


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def check_time_zone(name: str) -> None:
    """Raise ValueError, with the names nearest to it, where `name` is no time zone that is known here."""
    if name in _zones():
        return
    by_case = {zone.lower(): zone for zone in _zones()}
    near = [by_case[found] for found in difflib.get_close_matches(name.lower(), by_case, n=3, cutoff=0.5)]
    meant = f"; did you mean {' or '.join(near)}?" if near else "; e.g. Europe/Berlin"
    raise ValueError(f"there is no time zone {name[:64]!r}{meant}")


def check_zone_label(labels: Mapping[str, str]) -> None:
    """Raise UnacceptableError where the label `TIME_ZONE` that a person gives a device is no time zone."""
    if (name := labels.get(TIME_ZONE)) is not None:
        try:
            check_time_zone(name)
        except ValueError as error:
            raise UnacceptableError(f"label {TIME_ZONE}: {error}") from None


def opens_at(crons: list[tuple[Cron, float]], zone: ZoneInfo, now: float) -> float:
    """When one of the windows (its cron, and how long it lasts in seconds) is open: `now`, or the next beginning.

    Args:
        crons: at least one.
        zone: whose local time the crons mean.
        now: Unix seconds.

    Examples:
        >>> nights = [(Cron.parse("0 2 * * *"), 7200.0)]
        >>> berlin = ZoneInfo("Europe/Berlin")
        >>> opens_at(nights, berlin, 1767229200.0)  # 2026-01-01 02:00 in Berlin: it begins
        1767229200.0
        >>> opens_at(nights, berlin, 1767236400.0) - 1767236400.0  # 04:00: it is over, 22 hours until the next
        79200.0
    """
    if any(_is_open(cron, duration_s, zone, now) for cron, duration_s in crons):
        return now
    return min(next(_beginnings_after(cron, zone, now)) for cron, _ in crons)


def _is_open(cron: Cron, duration_s: float, zone: ZoneInfo, now: float) -> bool:
    today = datetime.fromtimestamp(now, zone).date()
    # the latest beginning decides: those before it end before it does; tomorrow's may have come where clocks differ
    for back in range(-1, int(duration_s // 86400) + 3):
        begun = [at for at in cron.beginnings(today - timedelta(days=back), zone) if at <= now]
        if begun and now < begun[-1] + duration_s:
            return True
    return False


def _beginnings_after(cron: Cron, zone: ZoneInfo, now: float) -> Iterator[float]:
    today = datetime.fromtimestamp(now, zone).date()
    for ahead in range(-1, 2 * _LONGEST_PAUSE_DAYS):
        yield from (at for at in cron.beginnings(today + timedelta(days=ahead), zone) if at > now)
