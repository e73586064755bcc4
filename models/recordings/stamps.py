"""Dates and times of day, thousands at once: cells of one shape (digits as 0) are cut at the same places.

Which of two numbers is the day is not decided here: a date such as 01/02/2026 gives seconds for every order that all of its column
allows (`Stamps.seconds`), and whoever has seen the whole file chooses or asks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["ORDERS", "Stamps", "is_stamp", "is_timestamp", "read_stamps"]

ORDERS: Final = ("day-month-year", "month-day-year", "year-month-day")
DAY_S: Final = 86_400
_MONTHS: Final = (
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    ["jan", "feb", "mär", "apr", "mai", "jun", "jul", "aug", "sep", "okt", "nov", "dez"],
    ["gen", "feb", "mar", "apr", "mag", "giu", "lug", "ago", "set", "ott", "nov", "dic"],
    ["ene", "feb", "mar", "abr", "may", "jun", "jul", "ago", "sep", "oct", "nov", "dic"],
)
_MONTH_NUMBER: Final = {name.encode(): at for names in _MONTHS for at, name in enumerate(names, 1)} | {
    b"mrz": 3,
    b"m\xc3\xa4": 3,
}
_WEEKDAYS: Final = frozenset(
    b"mon tue wed thu fri sat sun mo di mi do fr sa so mit don die sam son lun mar mer jeu ven dim mie jue vie dom gio".split()
)
_SEP: Final = r"[-/. ]"
_DATES: Final = (
    r"(?P<y>0000)(?P<sep>[-/.])(?P<m>00?)(?P=sep)(?P<d>00?)",
    r"(?P<y>0000)(?P<m>00)(?P<d>00)",
    r"(?P<p>00?)(?P<sep>[-/.])(?P<q>00?)(?P=sep)(?P<r>0000|00)\.?",
    r"(?P<p>00) (?P<q>00) (?P<r>0000)",
    rf"(?P<d>00?)\.?{_SEP}?(?P<b>aaa+)\.?,?{_SEP}?(?P<z>0000|00)",
    r"(?P<b>aaa+)\.? (?P<d>00?),? (?P<y>0000)",
    r"(?P<y>0000)[-/ ](?P<b>aaa+)[-/ ](?P<d>00?)",
)
_CLOCK: Final = r"(?P<H>00?)(?::|h)(?P<M>00|0(?=:))(?:(?::|m)(?P<S>00|0(?!0))s?(?:(?:[.,]|:(?=000(?:000)?(?!0)))(?P<f>0{1,9}))?)?"
_BOUND_CLOCK: Final = r"(?P<H>00)(?P<c>[.\-_h])(?P<M>00)(?:(?P=c)(?P<S>00)(?:[.,](?P<f>0{1,9}))?)?"
_COMPACT_CLOCK: Final = r"(?P<H>00)(?P<M>00)(?P<S>00)?(?:[.,](?P<f>0{1,9}))?"
_HALF: Final = r"(?: ?(?P<half>aa(?!a)|a\.a\.))?"
_ZONE: Final = r"(?: ?(?P<zone>a|aaaa?(?![+-])|(?:aaa)?[+-]00:?(?:00)?))?"
_WEEKDAY: Final = r"(?:(?P<w>aa+)[,.]* )?"
_SHAPES: Final = tuple(
    re.compile(pattern)
    for pattern in (
        *(
            pattern
            for date in _DATES
            for pattern in (
                _WEEKDAY + date,
                rf"{_WEEKDAY}{date}(?:[ a_]| ?[,;-] ?|:){_CLOCK}{_HALF}{_ZONE}",
                rf"{date}(?:[ a_-]){_BOUND_CLOCK}{_ZONE}",
            )
        ),
        rf"{_DATES[1]}[ a_:-]?{_COMPACT_CLOCK}{_ZONE}",
        rf"{_DATES[0]}[ a_]{_COMPACT_CLOCK}{_ZONE}",
        *(rf"{_CLOCK}{_HALF} {date}" for date in _DATES[:3:2]),
        rf"{_DATES[0]}a{_CLOCK}{_ZONE}/0000-00-00a[0:.a]+",
        rf"{_CLOCK}{_HALF}{_ZONE}",
    )
)
_ZERO_SHAPE: Final = np.arange(256, dtype=np.uint8)
_ZERO_SHAPE[ord("0") : ord("9") + 1] = ord("0")
for _letter in (*range(ord("a"), ord("z") + 1), *range(ord("A"), ord("Z") + 1), *range(0xC3, 0xC4), 0xA4):
    _ZERO_SHAPE[_letter] = ord("a")
_ZERO_SHAPE[ord("h")] = ord("h")
_ZERO_TABLE: Final = _ZERO_SHAPE.tobytes()
_LONGEST: Final = 56
_DATE_FIELDS: Final = frozenset("pdy")
_CENTURY: Final = 70
"""Two digits of a year below are of this century, from it on of the last."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stamps:
    """What (n,) cells say.

    Attributes:
        seconds: float64 (n,) since 1970, for each order of day and month that is possible; NaN where a cell is no stamp in that order.
        is_known: (n,), which are stamps in one order at least.
        is_zoned: (n,), which name a zone.
        has_date, has_time, has_seconds: do they all?
        is_ordered: was an order needed, so that `seconds` differ?
        fractions: of how many digits parts of a second are; `is_padded`: does one of several digits begin with 0?
    """

    seconds: dict[str, NDArray[np.float64]]
    is_known: NDArray[np.bool_]
    is_zoned: NDArray[np.bool_]
    has_date: bool
    has_time: bool
    has_seconds: bool
    is_ordered: bool
    fractions: frozenset[int] = frozenset()
    is_padded: bool = False


@lru_cache(maxsize=65_536)
def is_stamp(cell: str) -> bool:
    """Is `cell` a date, a time of day or both, in any order of day and month?

    >>> is_stamp("2020-02-08 13:30:47"), is_stamp("8. Feb 2020"), is_stamp("13.5")
    (True, True, False)
    """
    if (
        not 4 <= len(cell) <= _LONGEST
        or _template(cell.encode().translate(_ZERO_TABLE).decode("latin-1")) is None
    ):
        return False
    return bool(read_stamps(np.array([cell.encode()])).is_known[0])


def is_timestamp(cell: str) -> bool:
    """The same where no header says what a cell is: digits alone are a number.

    >>> is_timestamp("20200208"), is_timestamp("08.02.2020")
    (False, True)
    """
    return not cell.isdigit() and is_stamp(cell)


def read_stamps(cells: NDArray[np.bytes_]) -> Stamps:
    """Read (n,) cells."""
    count, length = len(cells), cells.dtype.itemsize
    table = np.ascontiguousarray(cells).view(np.uint8).reshape(count, length)
    shapes = np.ascontiguousarray(_ZERO_SHAPE[table]).view(f"S{length}")[:, 0]
    seconds = {order: np.full(count, np.nan) for order in ORDERS}
    is_zoned = np.zeros(count, bool)
    dates, times, parts, is_ordered = [], [], [], False
    fractions, is_padded = set(), False
    found, inverse = np.unique(shapes, return_inverse=True)
    for number, raw in enumerate(found.tolist()):
        template = _template(raw.decode("latin-1"))
        at = np.flatnonzero(inverse == number)
        if template is None:
            continue
        fields = dict(template)
        some = table[at]
        if "w" in fields:
            at = at[_are_weekdays(some, fields["w"])]
            some = table[at]
        day_s, is_zoned[at] = _seconds_of_day(some, fields)
        dates.append("d" in fields or "p" in fields)
        times.append("H" in fields)
        parts.append("S" in fields)
        if "f" in fields:
            first, last = fields["f"]
            fractions.add(last - first)
            is_padded |= last - first > 1 and bool((some[:, first] == ord("0")).any())
        if "p" in fields:
            is_ordered = True
            p, q, r = (_number(some, fields[name]) for name in "pqr")
            is_long = fields["r"][1] - fields["r"][0] == 4
            years = r if is_long else _of_century(r)
            seconds[ORDERS[0]][at] = _days(years, q, p) * DAY_S + day_s
            seconds[ORDERS[1]][at] = _days(years, p, q) * DAY_S + day_s
            if not is_long:
                seconds[ORDERS[2]][at] = _days(_of_century(p), q, r) * DAY_S + day_s
            continue
        days = np.zeros(len(at))
        if "d" in fields:
            months = _months(some, fields["b"]) if "b" in fields else _number(some, fields["m"])
            years = _number(some, fields["y"]) if "y" in fields else _number(some, fields["z"])
            if "z" in fields and fields["z"][1] - fields["z"][0] == 2:
                years = _of_century(years)
            days = _days(years, months, _number(some, fields["d"]))
        for values in seconds.values():
            values[at] = days * DAY_S + day_s
    is_known = ~np.logical_and.reduce([np.isnan(values) for values in seconds.values()])
    return Stamps(
        seconds=seconds,
        is_known=is_known,
        is_zoned=is_zoned,
        has_date=bool(dates) and all(dates),
        has_time=bool(times) and all(times),
        has_seconds=bool(parts) and any(parts),
        is_ordered=is_ordered,
        fractions=frozenset(fractions),
        is_padded=is_padded,
    )


@lru_cache(maxsize=4096)
def _template(shape: str) -> tuple[tuple[str, tuple[int, int]], ...] | None:
    if len(shape) > _LONGEST or "0" not in shape:
        return None
    for pattern in _SHAPES:
        if found := pattern.fullmatch(shape):
            return tuple((name, found.span(name)) for name in pattern.groupindex if found[name])
    return None


def _number(table: NDArray[np.uint8], span: tuple[int, int]) -> NDArray[np.float64]:
    digits = table[:, span[0] : span[1]].astype(np.float64) - ord("0")
    return np.asarray(digits @ 10.0 ** np.arange(span[1] - span[0])[::-1])


def _of_century(years: NDArray[np.float64]) -> NDArray[np.float64]:
    return years + np.where(years < _CENTURY, 2000, 1900)


def _are_weekdays(table: NDArray[np.uint8], span: tuple[int, int]) -> NDArray[np.bool_]:
    words = np.ascontiguousarray(table[:, span[0] : min(span[1], span[0] + 3)])
    found, inverse = np.unique(words, axis=0, return_inverse=True)
    return np.array([row.tobytes().lower() in _WEEKDAYS for row in found])[inverse.reshape(-1)]


def _months(table: NDArray[np.uint8], span: tuple[int, int]) -> NDArray[np.float64]:
    words = np.ascontiguousarray(table[:, span[0] : min(span[1], span[0] + 3)])
    found, inverse = np.unique(words, axis=0, return_inverse=True)
    numbers = [float(_MONTH_NUMBER.get(row.tobytes().lower(), 0)) for row in found]
    return np.array(numbers)[inverse.reshape(-1)]


def _seconds_of_day(
    table: NDArray[np.uint8], fields: dict[str, tuple[int, int]]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Seconds since midnight in UTC, NaN where there is no such time, and which name a zone."""
    count = len(table)
    zero = np.zeros(count)
    if "H" not in fields:
        return zero, np.zeros(count, bool)
    hours = _number(table, fields["H"])
    minutes = _number(table, fields["M"])
    seconds = _number(table, fields["S"]) if "S" in fields else zero
    # Without a date it may be a duration; 24:00 and leap seconds are said, too.
    is_good = (
        (hours <= (24 if _DATE_FIELDS & set(fields) or "S" not in fields else 99))
        & (minutes < 60)
        & (seconds <= 60)
    )
    if "half" in fields:
        letter = table[:, fields["half"][0]] | 32
        is_good &= np.isin(letter, (ord("a"), ord("p"))) & (hours >= 1) & (hours <= 12)
        hours = hours % 12 + 12 * (letter == ord("p"))
    if "f" in fields:
        digits = fields["f"][1] - fields["f"][0]
        seconds = seconds + _number(table, fields["f"]) / 10.0**digits
    result = hours * 3600 + minutes * 60 + seconds
    if "zone" not in fields:
        return np.where(is_good, result, np.nan), np.zeros(count, bool)
    start, stop = fields["zone"]
    words = np.ascontiguousarray(table[:, start:stop])
    found, inverse = np.unique(words, axis=0, return_inverse=True)
    offsets = np.array([_offset_s(row.tobytes().decode("latin-1")) for row in found])[inverse.reshape(-1)]
    return np.where(is_good, result - offsets, np.nan), np.ones(count, bool)


_ZONES_H: Final = {
    "Z": 0.0,
    "UTC": 0.0,
    "GMT": 0.0,
    "WET": 0.0,
    "WEST": 1.0,
    "CET": 1.0,
    "MEZ": 1.0,
    "CEST": 2.0,
    "MESZ": 2.0,
    "EET": 2.0,
    "EEST": 3.0,
    "EDT": -4.0,
    "CDT": -5.0,
    "MDT": -6.0,
    "PDT": -7.0,
    "PST": -8.0,
    "JST": 9.0,
}
"""Short names of zones that mean one thing; EST, CST, IST and BST mean several."""


def _offset_s(zone: str) -> float:
    name = zone.upper().strip()
    if name in _ZONES_H:
        return _ZONES_H[name] * 3600.0
    found = re.fullmatch(r"(?:UTC|GMT)?([+-])(\d\d):?(\d\d)?", name)
    if found is None:
        return float("nan")
    return (1 if found[1] == "+" else -1) * (int(found[2]) * 3600.0 + int(found[3] or 0) * 60.0)


def _days(
    years: NDArray[np.float64], months: NDArray[np.float64], days: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Days since 1970 of the Gregorian calendar, NaN where there is no such day.

    Howard Hinnant, "chrono-compatible low-level date algorithms", 2013: days_from_civil.
    """
    is_leap = ((years % 4 == 0) & (years % 100 != 0)) | (years % 400 == 0)
    at = np.clip(months, 0, 13).astype(np.intp)
    lengths = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 0])[at] + ((months == 2) & is_leap)
    is_good = (months >= 1) & (months <= 12) & (days >= 1) & (days <= lengths) & (years >= 1)
    y = years - (months <= 2)
    era = np.floor(y / 400)
    of_era = y - era * 400
    of_year = np.floor((153 * (months + np.where(months > 2, -3, 9)) + 2) / 5) + days - 1
    of_era_days = of_era * 365 + np.floor(of_era / 4) - np.floor(of_era / 100) + of_year
    return np.where(is_good, era * 146_097 + of_era_days - 719_468, np.nan)
