"""Which columns of a file tell the time, and what seconds they tell.

Stamps, a date beside a time of day, year/month/day/… columns, seconds to nanoseconds since 1970, a spreadsheet's days since 1899, or
seconds since the start. An order of day and month that nothing proves, and a unit that nothing names, are asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import RecordingError
from models.recordings.questions import Question, QuestionsOpen
from models.recordings.raw_columns import RawColumn, Table
from models.recordings.recording import shown
from models.recordings.stamps import DAY_S
from models.recordings.units import TIME_UNITS, unit_of_name
from models.recordings.words import is_time_name, part_of_time, words_of

__all__ = ["Clock", "found_clock"]

_FIRST_S: Final = 631_152_000.0
_LAST_S: Final = 2_208_988_800.0
"""1990 to 2040: when a machine's data was recorded. A clock that says another year counts from elsewhere."""
_EPOCHS: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_SERIAL_DAYS: Final = (32_874.0, 51_136.0)
"""1990 to 2040 in days since 30 December 1899, as spreadsheets count."""
_SERIAL_ZERO_DAYS: Final = 25_569.0
_MOST_BACK: Final = 0.1
_MONTH_S: Final = 20 * DAY_S
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
_MOST_WITHOUT: Final = 0.2
_SPOKEN: Final = {
    "s": "s",
    "sec": "s",
    "seconds": "s",
    "ms": "ms",
    "us": "us",
    "ns": "ns",
    "min": "min",
    "minutes": "min",
    "hours": "h",
    "h": "h",
}
"""Names and units that say a unit of time."""


@dataclass(kw_only=True, eq=False)
class Clock:
    """`seconds` (n,) is NaN where a row has no time; `used` are the columns that made it, `others` tell the time too and are left out.

    `is_dated` tells that seconds count from 1970; `is_counted` that rows are counted (cycles), so that there is no rate.
    """

    seconds: NDArray[np.float64]
    used: tuple[int, ...]
    others: tuple[int, ...] = ()
    is_dated: bool = True
    is_counted: bool = False
    notes: list[str] = field(default_factory=list)
    settled: dict[str, str] = field(default_factory=dict)


def found_clock(table: Table, answers: Mapping[str, str]) -> Clock | None:
    """The clock of a table, None where no column tells the time.

    Raises:
        QuestionsOpen: the time can be read in two ways.
        RecordingError: a cell of the clock is no time; with its line.
    """
    columns = [c for c in table.columns if answers.get(f"column:{c.name}", "time") == "time"]
    stamped = [c for c in columns if c.sort == "stamp"]
    clock = (
        _of_stamps(stamped, table, answers)
        or _of_parts(columns, table)
        or _of_numbers(columns, table, answers)
    )
    if clock is None:
        return None
    taken = {*clock.used}
    clock.others = tuple(
        c.place
        for c in columns
        if c.place not in taken and (c.sort == "stamp" or (c.sort == "number" and _grows_by_name(c)))
    )
    _check(clock, table)
    return clock


def _of_stamps(stamped: list[RawColumn], table: Table, answers: Mapping[str, str]) -> Clock | None:
    if not stamped:
        return None
    full = [c for c in stamped if c.has_date and c.has_time]
    dates = [c for c in stamped if c.has_date and not c.has_time]
    times = [c for c in stamped if c.has_time and not c.has_date]
    if full:
        # Of two full ones, the one that grows is the time of the row.
        column = min(full, key=lambda c: _backward(next(iter(c.stamps.values()))))
        candidates: Mapping[str, NDArray[np.float64]] = column.stamps
        used: tuple[int, ...] = (column.place,)
        is_zoned, is_dated = column.zoned, True
        if 0 < column.zoned < table.count - int(np.count_nonzero(np.isnan(next(iter(candidates.values()))))):
            raise RecordingError(
                f"{table.path}: column {shown(column.name)} names a time zone in {column.zoned} of {table.count} rows; write it in all or in none"
            )
    elif dates and times:
        column, clock = dates[0], times[0]
        day_s = next(iter(clock.stamps.values()))
        candidates = {order: days + day_s for order, days in column.stamps.items()}
        used, is_zoned, is_dated = (column.place, clock.place), clock.zoned, True
    elif dates:
        column = dates[0]
        candidates, used, is_zoned, is_dated = column.stamps, (column.place,), 0, True
    elif times:
        column = times[0]
        unrolled = _past_midnight(next(iter(column.stamps.values())))
        candidates, used, is_zoned, is_dated = {"": unrolled}, (column.place,), 0, False
    else:
        column = stamped[0]
        raise RecordingError(
            f"{table.path}: column {shown(column.name)} has a date in some rows only; write date and time in all"
        )
    order, seconds = _ordered(column, candidates, table, answers)
    found = Clock(seconds=seconds, used=used, is_dated=is_dated)
    if order:
        found.settled["date_order"] = order
    if not is_dated:
        found.notes.append(
            f"column {shown(column.name)} has times of day without a date; seconds count from the first midnight"
        )
    elif not is_zoned:
        found.notes.append(f"column {shown(column.name)} names no time zone; its times were taken as UTC")
    return found


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
        [
            Question(
                key="date_order",
                text=f"no date in column {shown(column.name)} tells which number is the day and which the month; in this file the first could be "
                f"{' or '.join(_date(s[told[0]]) for s in candidates.values())}",
                allowed=tuple(candidates),
                path=table.path,
                line=table.line_of(int(told[0])),
            )
        ]
    )


def _is_continuous(seconds: NDArray[np.float64]) -> bool:
    steps = np.diff(seconds[~np.isnan(seconds)])
    return bool(len(steps) and (steps >= 0).all() and steps.max() < DAY_S and np.median(steps) < DAY_S / 2)


def _jumps_at_midnight(seconds: NDArray[np.float64]) -> bool:
    """Regular within a day, and by weeks from one day to the next: no logger does that, but a wrong order of day and month."""
    steps = np.diff(seconds[~np.isnan(seconds)])
    return bool(np.median(np.abs(steps)) < DAY_S / 2 and (np.abs(steps) > _MONTH_S).any())


def _of_parts(columns: list[RawColumn], table: Table) -> Clock | None:
    """A column for the year, one for the month, and so on."""
    parts: dict[str, RawColumn] = {}
    for column in columns:
        if column.sort == "number" and (part := part_of_time(column.name)) is not None:
            parts.setdefault(part, column)
    if not {"year", "month", "day"} <= set(parts):
        return None
    years, months, days = (np.asarray(parts[p].values, np.float64) for p in ("year", "month", "day"))
    if not (
        np.nanmin(years) >= 1990
        and np.nanmax(years) <= 2040
        and np.nanmax(months) <= 12
        and np.nanmax(days) <= 31
    ):
        return None
    start = np.array(years - 1970, "datetime64[Y]").astype("datetime64[M]") + (
        np.nan_to_num(months) - 1
    ).astype(np.int64)
    seconds = start.astype("datetime64[s]").astype(np.float64) + (days - 1) * DAY_S
    used = [parts[p].place for p in ("year", "month", "day")]
    for part, length in (("hour", 3600.0), ("minute", 60.0), ("second", 1.0)):
        if part in parts:
            seconds = seconds + np.asarray(parts[part].values, np.float64) * length
            used.append(parts[part].place)
    names = ", ".join(c.name for c in table.columns if c.place in used)
    return Clock(
        seconds=seconds,
        used=tuple(used),
        notes=[f"the time was put together from the columns {names}, as UTC"],
    )


def _of_numbers(columns: list[RawColumn], table: Table, answers: Mapping[str, str]) -> Clock | None:
    numbers = [c for c in columns if c.sort == "number" and len(c.values)]
    forced = [c for c in numbers if answers.get(f"column:{c.name}") == "time"]
    named = [c for c in numbers if is_time_name(c.name) and _grows(c)]
    for column in forced or named:
        if (clock := _epoch(column)) or (clock := _serial(column)):
            return clock
    for column in forced or named:
        return _relative(column, table, answers)
    for column in numbers:
        if (
            float(np.nanmin(column.values, initial=np.inf)) > 1e8
            and _grows(column)
            and (clock := _epoch(column))
        ):
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


def _grows_by_name(column: RawColumn) -> bool:
    return is_time_name(column.name) and _grows(column)


def _epoch(column: RawColumn) -> Clock | None:
    smallest, largest = float(np.nanmin(column.values)), float(np.nanmax(column.values))
    for unit, seconds in _EPOCHS.items():
        if smallest * seconds >= _FIRST_S and largest * seconds <= _LAST_S:
            return Clock(
                seconds=np.asarray(column.values, np.float64) * seconds,
                used=(column.place,),
                notes=[f"column {shown(column.name)} counts {unit} since 1970 ({_date(smallest * seconds)})"],
            )
    return None


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
            f"column {shown(column.name)} counts days since 1899, as spreadsheets do ({_date((told[0] - _SERIAL_ZERO_DAYS) * DAY_S)})"
        ],
    )


def _relative(column: RawColumn, table: Table, answers: Mapping[str, str]) -> Clock:
    values = np.asarray(column.values, np.float64)
    told = values[~np.isnan(values)]
    name = shown(column.name)
    unit = answers.get("time_unit", "") or column.unit or unit_of_name(column.name)
    unit = _SPOKEN.get(unit.casefold(), unit) or _SPOKEN.get("".join(words_of(column.name)), "")
    settled = {"time_unit": unit} if answers.get("time_unit") else {}
    notes = []
    if unit not in TIME_UNITS and unit != "rows":
        is_whole = bool((told % 1 == 0).all())
        large = float(told.max(initial=0.0))
        if is_whole or large > 1e8:
            raise QuestionsOpen(
                [
                    Question(
                        key="time_unit",
                        text=f"column {name} goes from {told[0]:.10g} to {told[-1]:.10g} and names no unit",
                        allowed=(*TIME_UNITS, "rows") if large <= 1e8 else (*TIME_UNITS,),
                        path=table.path,
                        line=table.line_of(0),
                    )
                ]
            )
        unit = "s"
        notes.append(f"column {name} names no unit and has fractions; it was taken as seconds")
    if unit == "rows":
        return Clock(seconds=values, used=(column.place,), is_dated=False, is_counted=True, settled=settled)
    return Clock(
        seconds=values * TIME_UNITS[unit], used=(column.place,), is_dated=False, notes=notes, settled=settled
    )


def _past_midnight(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """A time of day that falls by most of a day is on the next one."""
    steps = np.diff(seconds, prepend=seconds[:1])
    return seconds + DAY_S * np.cumsum(np.nan_to_num(steps) < -DAY_S / 2)


def _backward(seconds: NDArray[np.float64]) -> float:
    steps = np.diff(seconds[~np.isnan(seconds)])
    return float(np.count_nonzero(steps < 0)) / max(1, len(steps)) + (0.5 if not np.any(steps) else 0.0)


def _check(clock: Clock, table: Table) -> None:
    """Raises for cells that are no time, unless they are few."""
    lost = np.isnan(clock.seconds)
    words = [
        (line, word) for c in table.columns if c.place in clock.used for word, (_, line) in c.words.items()
    ]
    if lost.mean() > _MOST_WITHOUT:
        line, word = min(words, default=(table.line_of(int(np.argmax(lost))), ""))
        raise RecordingError(
            f"{table.path}:{line}: {int(lost.sum())} of {table.count} rows have no time, such as {shown(word)}; "
            f"leave the column out (column:{table.columns[clock.used[0]].name}=leave out) or write all in one form"
        )
    if clock.is_dated and not lost.all():
        first, last = float(np.nanmin(clock.seconds)), float(np.nanmax(clock.seconds))
        if first < 0 or last > _LAST_S:
            raise RecordingError(
                f"{table.path}:{table.line_of(int(np.nanargmin(clock.seconds)))}: times from {_date(first)} to {_date(last)} are no machine's; "
                f"write them as 2026-02-08 13:30:47"
            )


def _date(seconds: float) -> str:
    return str(np.datetime64(int(seconds), "s")).replace("T00:00:00", "").replace("T", " ")
