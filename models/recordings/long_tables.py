"""Long tables, a line for each value (time, machine, variable, value), turned into rows with a column for each variable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import RecordingError
from models.recordings.machines import ColumnKind
from models.recordings.questions import Question, QuestionsOpen
from models.recordings.raw_columns import RawColumn, Table
from models.recordings.recording import check_size, listed, shown
from models.recordings.roles import Roles
from models.recordings.times import Clock
from models.recordings.units import is_unit

__all__ = ["LongTable", "check_one_unit", "pivoted"]

_LEAST_FILLED: Final = 0.5
_MOST_TWICE: Final = 0.01


@dataclass(frozen=True, kw_only=True, eq=False)
class LongTable:
    """`machines` are (name or None, rows (n, variables), times (n,))."""

    names: tuple[str, ...]
    units: tuple[str | None, ...]
    machines: tuple[tuple[str | None, NDArray[np.float32], NDArray[np.float64]], ...]
    notes: tuple[str, ...]


def check_one_unit(table: Table, roles: Roles) -> None:
    """Raises RecordingError where one column of values has a unit of its own in each row: sensors under each other, and nothing parts them."""
    if roles.variable is not None or len(roles.sensors) != 1:
        return
    for column in table.columns:
        units = [word for word in column.vocabulary if is_unit(word)]
        if len(units) > 1 and len(units) > len(column.vocabulary) / 2:
            raise RecordingError(
                f"{table.path}:{table.line_of(0)}: column {shown(column.name)} holds several units ({listed(units[:5])}) for one column of values: say which "
                f"column names what a row measures (column:NAME=variable), or write a column for each"
            )


def pivoted(table: Table, clock: Clock | None, roles: Roles, answers: Mapping[str, str]) -> LongTable:
    """Turn `table` round.

    Raises:
        RecordingError: there is no time, no one column of values, or variables were taken at different moments.
        QuestionsOpen: many times come more than once with a variable.
    """
    variable = roles.variable
    values = [
        table.columns[place]
        for place in roles.sensors
        if roles.columns[place].kind is not ColumnKind.CONSTANT or len(roles.sensors) == 1
    ]
    if variable is None or clock is None or clock.is_counted or len(values) != 1:
        raise RecordingError(
            f"{table.path}: is a long table (column {shown(variable.name if variable else '')} names what a row measures), "
            f"which needs a time and one column of values, but has {'a' if clock else 'no'} time and {len(values)}: "
            f"say column:NAME=leave out, or export a column for each variable"
        )
    names = tuple(variable.vocabulary)
    keep = ~np.isnan(clock.seconds) & (variable.codes >= 0)
    devices = np.zeros(table.count, np.int64) if roles.devices is None else roles.devices
    keep &= devices >= 0
    found, notes = [], []
    if not keep.all():
        notes.append(f"{int((~keep).sum())} lines without a time, a variable or a machine were left out")
    seconds, twice = clock.seconds, 0
    if answers.get("repeats") == "coarse clock":
        seconds = _spread(seconds, devices, variable.codes, keep)
    for number, name in enumerate(roles.device_names or (None,)):
        at = np.flatnonzero(keep & (devices == number))
        if not len(at):
            continue
        times, row_of = np.unique(seconds[at], return_inverse=True)
        check_size((len(times), len(names)), str(table.path))
        rows = np.full((len(times), len(names)), np.nan, np.float32)
        rows[row_of, variable.codes[at]] = values[0].values[at]
        cells = len(np.unique(row_of.astype(np.int64) * len(names) + variable.codes[at]))
        twice += len(at) - cells
        if cells <= _LEAST_FILLED * rows[:, ~np.isnan(rows).all(axis=0)].size:
            raise RecordingError(
                f"{table.path}: its variables were taken at different moments: only {cells / rows.size:.0%} of the {len(times)} rows by {len(names)} "
                f"columns are filled; resample them to common times"
            )
        found.append((name, rows, times))
    if twice > _MOST_TWICE * table.count and "repeats" not in answers:
        raise QuestionsOpen(
            Question(
                key="repeats",
                text=f"{twice} of {table.count} lines repeat a time and a variable: is the last of each to be taken, or is the clock coarser than the rows",
                allowed=("drop", "coarse clock"),
                path=table.path,
                line=table.line_of(0),
            )
        )
    if twice:
        notes.append(f"{twice} lines repeat a time and variable; the last of each was taken")
    notes.append(f"the long table has {len(names)} variables, which became columns")
    return LongTable(
        names=names, units=_units(table, variable, len(names)), machines=tuple(found), notes=tuple(notes)
    )


def _spread(
    seconds: NDArray[np.float64],
    devices: NDArray[np.int64],
    variables: NDArray[np.int32],
    keep: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """The first, second, … line of a time and a variable share what is left until the next time."""
    at = np.flatnonzero(keep)
    order = at[np.lexsort((at, variables[at], devices[at], seconds[at]))]
    is_new = np.ones(len(order), bool)
    for key in (seconds, devices, variables):
        is_new[1:] &= np.diff(key[order]) == 0
    is_new = np.append(True, ~is_new[1:])
    starts = np.flatnonzero(is_new)
    lengths = np.diff(np.append(starts, len(order)))
    within = np.arange(len(order)) - np.repeat(starts, lengths)
    step = float(np.median(np.diff(np.unique(seconds[at])))) if len(at) > 1 else 0.0
    found = seconds.copy()
    found[order] += within * (step / max(1, int(lengths.max())))
    return found


def _units(table: Table, variable: RawColumn, count: int) -> tuple[str | None, ...]:
    """From a column of words that are units, one for each variable."""
    for column in table.columns:
        if column is variable or column.sort != "word" or not column.vocabulary:
            continue
        words = list(column.vocabulary)
        if sum(is_unit(word) for word in words) < len(words) / 2:
            continue
        units: list[str | None] = [None] * count
        for code in range(count):
            own = np.unique(column.codes[(variable.codes == code) & (column.codes >= 0)])
            units[code] = words[int(own[0])] if len(own) == 1 else None
        return tuple(units)
    return (None,) * count
