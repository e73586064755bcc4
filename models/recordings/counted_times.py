"""The time of rows from numbers: since 1970, since 1899, since the start; or a column each for year, month, day."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.recordings.questions import Question, QuestionsOpen
from models.recordings.raw_columns import RawColumn, Table, is_whole
from models.recordings.recording import listed, shown
from models.recordings.row_times import FIRST_S, LAST_S, Clock, check_others, date_of
from models.recordings.stamps import DAY_S
from models.recordings.units import TIME_UNITS, unit_of_name, unit_of_time
from models.recordings.words import is_time_name, part_of_time, words_of

__all__ = [
    "clock_of_nameless_parts",
    "clock_of_numbers",
    "clock_of_parts",
    "epoch_of",
    "is_clock_by_name",
]

_EPOCHS: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_TICKS_1970: Final = 621_355_968_000_000_000.0
"""What .NET counts until 1970."""
_SERIAL_DAYS: Final = (32_874.0, 51_136.0)
"""1990 to 2040 in days since 30 December 1899, as spreadsheets count."""
_SERIAL_ZERO_DAYS: Final = 25_569.0
_MOST_BACK: Final = 0.1
_FEWEST_MOMENTS: Final = 10
_PROVES: Final = 0.9
_DATE_DIGITS: Final = ((14, 1), (12, 100), (10, 100))
"""YYYYMMDDHHMMSS, YYYYMMDDHHMM, YYMMDDHHMM: how many digits, and by what such a number is multiplied to count seconds, too."""
_NICE_STEPS_S: Final = (
    0.001,
    0.01,
    0.1,
    0.5,
    1,
    2,
    5,
    10,
    15,
    20,
    30,
    60,
    120,
    300,
    600,
    900,
    1200,
    1800,
    3600,
    7200,
    14_400,
    21_600,
    43_200,
    DAY_S,
)
_UNITS: Final = ("ns", "us", "ms", "s", "min", "h", "d")


def clock_of_parts(columns: list[RawColumn], table: Table) -> Clock | None:
    """A column for the year, one for the month, and so on."""
    parts: dict[str, RawColumn] = {}
    for column in columns:
        if column.sort == "number" and (part := part_of_time(column.name)) is not None:
            parts.setdefault(part, column)
    if not {"year", "month", "day"} <= set(parts):
        return None
    seconds = _seconds_of(parts)
    if seconds is None:
        return None
    used = [parts[p].place for p in ("year", "month", "day", "hour", "minute", "second") if p in parts]
    names = ", ".join(c.name for c in table.columns if c.place in used)
    return Clock(
        seconds=seconds,
        used=tuple(used),
        notes=[f"the time was put together from the columns {names}, as UTC"],
    )


def clock_of_nameless_parts(columns: list[RawColumn], table: Table) -> Clock | None:
    """Year, month, day, hour and minute beside each other in a table without names; that rows then follow evenly proves it."""
    if not all(re.fullmatch(r"f\d+", column.name) for column in table.columns):
        return None
    free = [
        c for c in columns if c.sort == "number" and len(c.values) > _FEWEST_MOMENTS and is_whole(c.values)
    ]
    for year in free:
        if not (np.nanmin(year.values) >= 1990 and np.nanmax(year.values) <= 2040):
            continue
        for skipped in (0, 1):  # a day of the year may stand between
            places = range(year.place + 1 + skipped, year.place + 6 + skipped)
            parts = [c for place in places for c in free if c.place == place]
            for count in range(len(parts), 1, -1):
                named = dict(zip(("month", "day", "hour", "minute", "second"), parts[:count], strict=False))
                seconds = _seconds_of({"year": year} | named)
                if seconds is None or np.isnan(seconds).any():
                    continue
                steps = np.diff(seconds)
                if (steps > 0).all() and np.mean(steps == np.median(steps)) >= _PROVES:
                    used = (year.place, *range(year.place + 1, parts[count - 1].place + 1))
                    note = f"the time was put together from {listed([f'f{k}' for k in used])} (year to {[*named][-1]}), as UTC"
                    return Clock(seconds=seconds, used=used, notes=[note])
    return None


def _seconds_of(parts: Mapping[str, RawColumn]) -> NDArray[np.float64] | None:
    """Since 1970, of a year, month, day and so on; None where one of them is none."""
    if any(np.isnan(column.values).all() for column in parts.values()):
        return None
    years, months, days = (np.asarray(parts[p].values, np.float64) for p in ("year", "month", "day"))
    is_date = (
        np.nanmin(years) >= 1990
        and np.nanmax(years) <= 2040
        and np.nanmin(months) >= 1
        and np.nanmax(months) <= 12
        and np.nanmin(days) >= 1
        and np.nanmax(days) <= 31
    )
    if not is_date:
        return None
    start = np.array(years - 1970, "datetime64[Y]").astype("datetime64[M]") + (
        np.nan_to_num(months) - 1
    ).astype(np.int64)
    lengths = (start + 1).astype("datetime64[D]") - start.astype("datetime64[D]")
    if (days > lengths / np.timedelta64(1, "D")).any():
        return None  # the 30th of February
    seconds = start.astype("datetime64[s]").astype(np.float64) + (days - 1) * DAY_S
    seconds[np.isnan(years) | np.isnan(months)] = (
        np.nan
    )  # which neither of the two kinds of numbers above has kept
    for part, length, most in (("hour", 3600.0, 24), ("minute", 60.0, 60), ("second", 1.0, 60)):
        if part in parts:
            values = np.asarray(parts[part].values, np.float64)
            if np.nanmin(values) < 0 or np.nanmax(values) > most:
                return None
            seconds = seconds + values * length
    return np.asarray(seconds)


def clock_of_numbers(columns: list[RawColumn], table: Table, answers: Mapping[str, str]) -> Clock | None:
    """Seconds to nanoseconds since 1970, days since 1899, or a time since the start in a unit that is named or asked."""
    numbers = [c for c in columns if c.sort == "number" and len(c.values)]
    forced = [c for c in numbers if answers.get(f"column:{c.name}") == "time"]
    named = [c for c in numbers if is_time_name(c.name) and _grows(c) and not _is_data(c)]
    for column in forced or named:
        if (clock := epoch_of(column)) or (clock := _serial(column)):
            _check_digits(column, table)
            return clock
    for column in forced or named:
        if len(named) > 1 and not forced and all(c.values[0] == named[0].values[0] for c in named):
            check_others(named, column, table, answers)
        return _relative(column, table, answers)
    for column in numbers:
        if (
            float(np.nanmin(column.values, initial=np.inf)) > 1e8
            and _grows(column)
            and (clock := epoch_of(column))
        ):
            _check_digits(column, table)
            return clock
    return None


def _grows(column: RawColumn) -> bool:
    steps = np.diff(column.values[~np.isnan(column.values)])
    if not len(steps):
        return False
    back = float(np.count_nonzero(steps < 0)) / len(steps)
    is_short = "".join(words_of(column.name)) in {"t", "s", "ts", "ms", "us", "ns", "min", "dt"}
    if is_short:
        return bool((steps > 0).all())
    # Newest first is a clock, too.
    return bool((steps != 0).any()) and (
        back <= _MOST_BACK or back == 1.0 or float(np.count_nonzero(steps > 0)) == 0
    )


def is_clock_by_name(column: RawColumn) -> bool:
    """Does a column tell the time by its name, and grow or hold dates?"""
    if not is_time_name(column.name) or not len(column.values) or np.isnan(column.values).all():
        return False
    # A flag or a setting with such a name falls but seldom, too.
    is_told = len(np.unique(column.values[:5000])) > min(_FEWEST_MOMENTS, len(column.values) // 2)
    return (_grows(column) and is_told and not _is_data(column)) or epoch_of(column) is not None


def _is_data(column: RawColumn) -> bool:
    """A date in Italian, in writing; numbers under that name are data."""
    return words_of(column.name) == ["data"]


def epoch_of(column: RawColumn) -> Clock | None:
    """Seconds to nanoseconds since 1970, where all numbers of a column are such."""
    smallest, largest = float(np.nanmin(column.values)), float(np.nanmax(column.values))
    first, last = ((smallest - _TICKS_1970) / 1e7, (largest - _TICKS_1970) / 1e7)
    if first >= FIRST_S and last <= LAST_S:
        note = (
            f"column {shown(column.name)} counts tenths of a microsecond since the year 1 ({date_of(first)})"
        )
        counted = (np.asarray(column.values, np.float64) - _TICKS_1970) / 1e7
        return Clock(seconds=counted, used=(column.place,), notes=[note])
    for unit, seconds in _EPOCHS.items():
        if smallest * seconds >= FIRST_S and largest * seconds <= LAST_S:
            return Clock(
                seconds=np.asarray(column.values, np.float64) * seconds,
                used=(column.place,),
                notes=[
                    f"column {shown(column.name)} counts {unit} since 1970 ({date_of(smallest * seconds)})"
                ],
            )
    return None


def _check_digits(column: RawColumn, table: Table) -> None:
    """Raises QuestionsOpen for 202607061403 and 1202607061403: every number reads as a date and a time of day, which no count does."""
    values = np.asarray(column.values, np.float64)
    told = np.unique(values[~np.isnan(values)])
    if len(told) < 3 or (told % 1 != 0).any():
        return
    for digits, factor in _DATE_DIGITS:
        whole = told * factor
        parts = [whole // 10.0**k % 100 for k in (0, 2, 4, 6, 8)]
        is_one = (parts[0] < 60) & (parts[1] < 60) & (parts[2] < 24)  # seconds, minutes, hours
        is_one &= (parts[3] >= 1) & (parts[3] <= 31) & (parts[4] >= 1) & (parts[4] <= 12)
        years = whole // 10.0**10 % (10000 if digits > 10 else 100)
        first, last = (1990, 2040) if digits > 10 else (10, 40)
        if (is_one & (years >= first) & (years <= last)).all():
            raise QuestionsOpen(
                Question(
                    key=f"column:{column.name}",
                    text=f"column {shown(column.name)} holds {told[0]:.0f} and the like, whose digits read as a date: write it as 2026-02-08 13:30:47, "
                    f"or is it no time",
                    allowed=("leave out", "sensor"),
                    path=table.path,
                    line=table.line_of(0),
                )
            )


def _serial(column: RawColumn) -> Clock | None:
    values = np.asarray(column.values, np.float64)
    told = values[~np.isnan(values)]
    if not (len(told) > 2 and _SERIAL_DAYS[0] <= told.min() and told.max() <= _SERIAL_DAYS[1]):
        return None
    step_s = float(np.median(np.abs(np.diff(told)))) * DAY_S
    if (told % 1 == 0).all() or not any(abs(step_s / nice - 1) < 0.02 for nice in _NICE_STEPS_S):
        return None
    return Clock(
        seconds=np.round((values - _SERIAL_ZERO_DAYS) * DAY_S, 3),
        used=(column.place,),
        notes=[
            f"column {shown(column.name)} counts days since 1899, as spreadsheets do ({date_of((told[0] - _SERIAL_ZERO_DAYS) * DAY_S)})"
        ],
    )


def _relative(column: RawColumn, table: Table, answers: Mapping[str, str]) -> Clock:
    values = np.asarray(column.values, np.float64)
    told = values[~np.isnan(values)]
    name = shown(column.name)
    unit = answers.get("time_unit") or next(
        filter(
            None, map(unit_of_time, (column.unit, unit_of_name(column.name), "".join(words_of(column.name))))
        ),
        "",
    )
    settled = {"time_unit": unit} if answers.get("time_unit") else {}
    if unit not in TIME_UNITS and unit != "rows":
        is_whole = bool((told % 1 == 0).all())
        large = float(told.max(initial=0.0))
        raise QuestionsOpen(
            Question(
                key="time_unit",
                text=f"column {name} goes from {told[0]:.10g} to {told[-1]:.10g} and names no unit",
                allowed=(*_UNITS, "rows") if is_whole and large <= 1e8 else _UNITS,
                path=table.path,
                line=table.line_of(0),
            )
        )
    if unit == "rows":
        return Clock(seconds=values, used=(column.place,), is_dated=False, is_counted=True, settled=settled)
    return Clock(seconds=values * TIME_UNITS[unit], used=(column.place,), is_dated=False, settled=settled)
