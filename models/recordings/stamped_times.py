"""The time of rows from dates and times of day; which number is the day is proved by the file, answered, or asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import RecordingError
from models.recordings.questions import Question, QuestionsOpen
from models.recordings.raw_columns import RawColumn, Table, is_whole
from models.recordings.recording import listed, shown
from models.recordings.row_times import Clock, check_others, date_of
from models.recordings.stamps import DAY_S
from models.recordings.words import is_time_name, part_of_time, words_of

__all__ = ["clock_of_stamps"]

_MONTH_S: Final = 20 * DAY_S
_ZONE_IN_NAME: Final = re.compile(r"\b(?:GMT|UTC) ?([+-])(\d\d?):?(\d\d)?\b")
"""A logger that names its zone once, above all times: ``Date Time, GMT+01:00``."""


def clock_of_stamps(stamped: list[RawColumn], table: Table, answers: Mapping[str, str]) -> Clock | None:
    """From one column of dates with times, a date beside a time, a date beside hours, dates alone, or times of day alone."""
    if not stamped:
        return None
    full = [c for c in stamped if c.has_date and c.has_time]
    dates = [c for c in stamped if c.has_date and not c.has_time]
    times = [c for c in stamped if c.has_time and not c.has_date]
    if full:
        # Of two full ones, the one that grows is the time of the row.
        column = min(
            full,
            key=lambda c: (
                _backward(next(iter(c.stamps.values()))),
                not {"utc", "gmt"} & set(words_of(c.name)),
            ),
        )
        check_others(full, column, table, answers)
        candidates: Mapping[str, NDArray[np.float64]] = column.stamps
        used: tuple[int, ...] = (column.place,)
        is_zoned, is_dated = column.zoned, True
        if 0 < column.zoned < table.count - int(np.count_nonzero(np.isnan(next(iter(candidates.values()))))):
            raise RecordingError(
                f"{table.path}: column {shown(column.name)} names a time zone in {column.zoned} of {table.count} rows; write it in all or in none"
            )
    elif dates and times:
        column, clock = dates[0], times[0]
        of_day = next(iter(clock.stamps.values()))
        candidates = {order: days + of_day for order, days in column.stamps.items()}
        used, is_zoned, is_dated = (column.place, clock.place), clock.zoned, True
    elif dates:
        column = dates[0]
        day_s, parts = _hours_beside(table, answers)
        candidates = {order: days + day_s for order, days in column.stamps.items()}
        used, is_zoned, is_dated = (column.place, *parts), 0, True
    elif times:
        column = times[0]
        candidates, used, is_zoned, is_dated = (
            {"": _dateless(column, table, answers)},
            (column.place,),
            0,
            False,
        )
    else:
        column = stamped[0]
        raise RecordingError(
            f"{table.path}: column {shown(column.name)} has a date in some rows only; write date and time in all"
        )
    order, seconds = _ordered(column, candidates, table, answers)
    _check_fractions([c for c in stamped if c.place in used], seconds, table)
    if is_dated and not is_zoned and (zone := _ZONE_IN_NAME.search(column.name)):
        minutes = int(zone[2]) * 60 + int(zone[3] or 0)
        seconds = seconds - (1 if zone[1] == "+" else -1) * minutes * 60.0
        is_zoned = table.count
    found = Clock(seconds=seconds, used=used, is_dated=is_dated)
    if order:
        found.settled["date_order"] = order
    if not (column.has_seconds or is_dated):
        found.settled["time_unit"] = answers["time_unit"]
    if not is_dated:
        found.notes.append(
            f"column {shown(column.name)} has times of day without a date; seconds count from the first midnight"
        )
    elif not is_zoned:
        found.notes.append(f"column {shown(column.name)} names no time zone; its times were taken as UTC")
    return found


def _check_fractions(columns: list[RawColumn], seconds: NDArray[np.float64], table: Table) -> None:
    """Raises RecordingError where .5, .10 and .95 seem to be 5, 10 and 95 thousandths: read as written, the time would jump to and fro."""
    for column in columns:
        if len(column.fractions) > 1 and not column.is_padded and (np.diff(seconds) < 0).any():
            at = int(np.argmax(np.diff(seconds) < 0)) + 1
            raise RecordingError(
                f"{table.path}:{table.line_of(at)}: column {shown(column.name)} writes parts of a second with {listed(sorted(map(str, column.fractions)))} digits and "
                f"steps back there, as when leading zeros are missing (.5 for .005); write them all with as many digits"
            )


def _hours_beside(
    table: Table, answers: Mapping[str, str]
) -> tuple[NDArray[np.float64] | float, tuple[int, ...]]:
    """Seconds of the day from columns for hours, minutes and seconds beside a date."""
    seconds: NDArray[np.float64] | float = 0.0
    places = []
    for part, length, most in (("hour", 3600.0, 24), ("minute", 60.0, 59), ("second", 1.0, 60)):
        for column in table.columns:
            is_free = answers.get(f"column:{column.name}", "time") == "time"
            if (
                column.sort == "number"
                and part_of_time(column.name) == part
                and is_free
                and is_whole(column.values)
                and np.nanmax(column.values) <= most
            ):
                seconds = seconds + np.asarray(column.values, np.float64) * length
                places.append(column.place)
                break
    if not places and (digits := _digits_of_day(table, answers)) is not None:
        values = np.asarray(digits.values, np.float64)
        return values // 100 * 3600 + values % 100 * 60, (digits.place,)
    return seconds, tuple(places)


def _digits_of_day(table: Table, answers: Mapping[str, str]) -> RawColumn | None:
    """A column that says 0000 to 2350 for the time of day."""
    for column in table.columns:
        is_free = answers.get(f"column:{column.name}", "time") == "time"
        if column.sort == "number" and is_free and is_time_name(column.name) and is_whole(column.values):
            told = column.values[~np.isnan(column.values)]
            if 24 < told.max(initial=0) < 2400 and told.min() >= 0 and (told % 100 < 60).all():
                return column
    return None


def _ordered(
    column: RawColumn, candidates: Mapping[str, NDArray[np.float64]], table: Table, answers: Mapping[str, str]
) -> tuple[str, NDArray[np.float64]]:
    """The order of day and month, "" where there is but one way, and the seconds in it."""
    if len(candidates) == 1:
        return next(iter(candidates.items()))
    answer = answers.get("date_order", "")
    if answer in candidates:
        return answer, candidates[answer]
    regular = {order: seconds for order, seconds in candidates.items() if _is_continuous(seconds)}
    if len(regular) == 1 and all(
        _jumps_at_midnight(s) for order, s in candidates.items() if order not in regular
    ):
        return next(iter(regular.items()))
    told = np.flatnonzero(~np.isnan(next(iter(candidates.values()))))
    raise QuestionsOpen(
        Question(
            key="date_order",
            text=f"no date in column {shown(column.name)} tells which number is the day and which the month; in this file the first could be "
            f"{' or '.join(date_of(s[told[0]]) for s in candidates.values())}",
            allowed=tuple(candidates),
            path=table.path,
            line=table.line_of(int(told[0])),
        )
    )


def _is_continuous(seconds: NDArray[np.float64]) -> bool:
    steps = np.diff(seconds[~np.isnan(seconds)])
    return bool(len(steps) and (steps >= 0).all() and steps.max() < DAY_S and np.median(steps) < DAY_S / 2)


def _jumps_at_midnight(seconds: NDArray[np.float64]) -> bool:
    """Regular within a day, and by weeks from one day to the next: no logger does that, but a wrong order of day and month."""
    steps = np.diff(seconds[~np.isnan(seconds)])
    return bool(np.median(np.abs(steps)) < DAY_S / 2 and (np.abs(steps) > _MONTH_S).any())


def _dateless(column: RawColumn, table: Table, answers: Mapping[str, str]) -> NDArray[np.float64]:
    """Seconds since the first midnight; 08:30 alone may also be minutes and seconds."""
    seconds = next(iter(column.stamps.values()))
    if column.has_seconds:
        return _past_midnight(seconds)
    if "time_unit" not in answers:
        raise QuestionsOpen(
            Question(
                key="time_unit",
                text=f"column {shown(column.name)} has two numbers, such as 08:30, and no date: are they hours and minutes (min), or minutes and seconds (s)",
                allowed=("min", "s"),
                path=table.path,
                line=table.line_of(0),
            )
        )
    return seconds / 60 if answers["time_unit"] == "s" else _past_midnight(seconds)


def _past_midnight(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """A time of day that falls by most of a day is on the next one."""
    steps = np.diff(seconds, prepend=seconds[:1])
    return seconds + DAY_S * np.cumsum(np.nan_to_num(steps) < -DAY_S / 2)


def _backward(seconds: NDArray[np.float64]) -> float:
    steps = np.diff(seconds[~np.isnan(seconds)])
    return float(np.count_nonzero(steps < 0)) / max(1, len(steps)) + (0.5 if not np.any(steps) else 0.0)
