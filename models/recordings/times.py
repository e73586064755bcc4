"""Which columns of a file tell the time, and what seconds they tell.

Stamps, a date beside a time of day, year/month/day/… columns, seconds to nanoseconds since 1970, a spreadsheet's days since 1899, or
seconds since the start. An order of day and month that nothing proves, and a unit that nothing names, are asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from models.errors import RecordingError
from models.recordings.counted_times import (
    clock_of_nameless_parts,
    clock_of_numbers,
    clock_of_parts,
    epoch_of,
    is_clock_by_name,
)
from models.recordings.questions import Question, QuestionsOpen
from models.recordings.raw_columns import RawColumn, Table
from models.recordings.recording import shown
from models.recordings.row_times import LAST_S, LONG_AGO_S, Clock, date_of
from models.recordings.stamped_times import clock_of_stamps
from models.recordings.words import is_time_name, words_of

__all__ = ["Clock", "found_clock"]

_MOST_WITHOUT: Final = 0.2
_LOOKED_AT: Final = 5000
_FEWEST: Final = 20
_SAME_S: Final = 1.5
_SINCE: Final = frozenset(["since", "elapsed", "start", "started", "seconds", "sec", "runtime", "dauer"])
_FACTORS: Final = frozenset(
    [
        "factor",
        "factors",
        "faktor",
        "scale",
        "scaling",
        "gain",
        "offset",
        "multiplier",
        "slope",
        "resolution",
        "lsb",
        "divisor",
    ]
)
_MOST_UNREAD: Final = 0.01


def found_clock(table: Table, answers: Mapping[str, str]) -> Clock | None:
    """The clock of a table, None where no column tells the time.

    Raises:
        QuestionsOpen: the time can be read in two ways.
        RecordingError: a cell of the clock is no time; with its line.
    """
    columns = [c for c in table.columns if answers.get(f"column:{c.name}", "time") == "time"]
    every = columns
    columns = [c for c in columns if answers.get(f"column:{c.name}") == "time"] or columns
    stamped = [c for c in columns if c.sort == "stamp"]
    clock = (
        clock_of_stamps(stamped, table, answers)
        or clock_of_parts(columns, table)
        or clock_of_nameless_parts(columns, table)
        or clock_of_numbers(columns, table, answers)
    )
    _check_unread(columns, clock, table, answers)
    if clock is None:
        return None
    clock = _trusted_count(clock, every) or clock
    taken = {*clock.used}
    clock.others = tuple(
        c.place
        for c in every
        if c.place not in taken
        and (c.sort == "stamp" or (c.sort == "number" and (is_clock_by_name(c) or _runs_beside(c, clock))))
    )
    _check(clock, table)
    return clock


def _trusted_count(clock: Clock, columns: list[RawColumn]) -> Clock | None:
    """Stamps of a zone that nobody names, beside a count since 1970, which is in UTC: the count tells the zone."""
    for column in columns:
        if column.sort != "number" or column.place in clock.used or not is_time_name(column.name):
            continue
        counted = epoch_of(column) if len(column.values) and not np.isnan(column.values).any() else None
        if counted is None or not clock.is_dated:
            continue
        apart = clock.seconds - counted.seconds
        hours = float(np.nanmedian(apart)) / 3600
        if abs(hours) >= 0.25 and float(np.nanmax(apart) - np.nanmin(apart)) <= _SAME_S:
            counted.notes = [
                f"{counted.notes[0]}; what is written as date and time is {hours:+.4g} h from it"
            ]
            counted.settled |= clock.settled
            return counted
    return None


def _runs_beside(column: RawColumn, clock: Clock) -> bool:
    """Does a column count the same time from elsewhere, in seconds or thousandths?"""
    told, values = clock.seconds[:_LOOKED_AT], np.asarray(column.values[:_LOOKED_AT], np.float64)
    if (
        not _SINCE & set(words_of(column.name))
        or clock.is_counted
        or len(told) < _FEWEST
        or np.isnan(told).any()
        or np.isnan(values).any()
    ):
        return False
    run, others = told - told[0], values - values[0]
    step = float(np.median(np.abs(np.diff(told))))
    return step > 0 and any(float(np.abs(others * unit - run).max()) < 0.1 * step for unit in (1.0, 1e-3))


def _check_unread(
    columns: list[RawColumn], clock: Clock | None, table: Table, answers: Mapping[str, str]
) -> None:
    """Raises QuestionsOpen where a column has the name of a clock and holds words that are no time, and there is no other."""
    for column in columns if clock is None else ():
        if (
            column.sort == "word"
            and is_time_name(column.name)
            and column.vocabulary
            and f"column:{column.name}" not in answers
        ):
            raise QuestionsOpen(
                Question(
                    key=f"column:{column.name}",
                    text=f"column {shown(column.name)} has the name of a clock, but {shown(next(iter(column.vocabulary)))} is no time in a form that is "
                    f"read; write it as 2026-02-08 13:30:47, or leave it out",
                    allowed=("leave out",),
                    path=table.path,
                    line=table.line_of(0),
                )
            )


def _check(clock: Clock, table: Table) -> None:
    """Raises for cells that are no time, unless they are few."""
    lost = np.isnan(clock.seconds)
    for column in table.columns:
        for word, (_, at) in column.words.items() if column.place in clock.used else ():
            if word.casefold().rstrip(":") in _FACTORS:
                raise RecordingError(
                    f"{table.path}:{at}: a line of factors ({shown(word)}) that the values would have to be multiplied with; apply them, and remove the line"
                )
    words = [
        (line, word) for c in table.columns if c.place in clock.used for word, (_, line) in c.words.items()
    ]
    unread = sum(number for c in table.columns if c.place in clock.used for number, _ in c.words.values())
    if lost.mean() > _MOST_WITHOUT or unread > max(3, _MOST_UNREAD * table.count):
        line, word = min(words, default=(table.line_of(int(np.argmax(lost))), ""))
        raise RecordingError(
            f"{table.path}:{line}: {int(lost.sum())} of {table.count} rows have no time, such as {shown(word)}; "
            f"leave the column out (column:{table.columns[clock.used[0]].name}=leave out) or write all in one form"
        )
    if clock.is_dated and not lost.all():
        first, last = float(np.nanmin(clock.seconds)), float(np.nanmax(clock.seconds))
        if first < LONG_AGO_S or last > LAST_S:
            raise RecordingError(
                f"{table.path}:{table.line_of(int(np.nanargmin(clock.seconds)))}: times from {date_of(first)} to {date_of(last)} are no machine's; "
                f"write them as 2026-02-08 13:30:47"
            )
