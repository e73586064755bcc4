"""What one file says of each of its machines, its rows in the order of time.

A row that has no time, or steps back in it, is never passed on silently: it is told, parted from the others, or asked about.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import RecordingError
from models.recordings.contents import FileContent, Part
from models.recordings.events import found_events
from models.recordings.long_tables import check_one_unit, pivoted
from models.recordings.machines import SENSOR_KINDS, Column, ColumnKind
from models.recordings.questions import QuestionsOpen
from models.recordings.raw_columns import RawColumn, Table
from models.recordings.recording import check_size, coarse_columns, shown
from models.recordings.roles import Roles, found_roles
from models.recordings.row_order import put_in_order
from models.recordings.times import Clock, found_clock
from models.recordings.units import TIME_UNITS

__all__ = ["content_of"]


def content_of(table: Table, answers: Mapping[str, str]) -> FileContent:
    """Make machines of a table; its columns are emptied on the way, so that nothing is held twice.

    Raises:
        QuestionsOpen: all that is in doubt about its columns.
        RecordingError: nothing was measured.
    """
    if (events := found_events(table)) is not None:
        return FileContent(
            path=table.path, events=events, notes=[f"holds {len(events.starts_s)} events from start to end"]
        )
    try:
        clock = found_clock(table, answers)
    except QuestionsOpen as error:
        # Who answers one question would rather answer all at once.
        raise QuestionsOpen(*error.questions, *found_roles(table, None, answers).questions) from None
    roles = found_roles(table, clock, answers)
    if roles.questions:
        raise QuestionsOpen(*roles.questions)
    check_one_unit(table, roles)
    notes = [*table.notes, *(clock.notes if clock else []), *roles.notes]
    found = FileContent(
        path=table.path,
        columns=roles.columns,
        everywhere=roles.everywhere,
        settled=_said_again(roles, clock) | table.settled | roles.settled | (clock.settled if clock else {}),
        is_counted=clock is not None and clock.is_counted,
        has_clock=clock is not None,
        rate_hz=_rate_of_preamble(table.preamble),
    )
    notes += _renamed(table)
    notes += [f"column {shown(c.name)} {c.note}" for c in roles.columns if c.note]
    if not roles.sensors and roles.labels is None:
        raise RecordingError(
            f"{table.path}: no column is a sensor: {'; '.join(f'{c.name} is {c.kind}' for c in roles.columns[:10])}; "
            f"say column:NAME=sensor where one is"
        )
    if roles.variable is not None:
        long = pivoted(table, clock, roles, answers)
        notes += long.notes
        found.columns += [
            Column(name=n, kind=ColumnKind.SENSOR, unit=u)
            for n, u in zip(long.names, long.units, strict=True)
        ]
        found.parts = [
            Part(machine=machine, names=long.names, rows=rows, times_s=times, labels=None, path=table.path)
            for machine, rows, times in long.machines
        ]
    else:
        found.parts = _parted(table, clock, roles, notes, answers)
    for part in found.parts:
        notes += coarse_columns(part.rows, part.names)
        put_in_order(part, clock, notes, found, answers)
    found.notes = notes
    if found.questions:
        raise QuestionsOpen(*found.questions)
    return found


_RATE: Final = re.compile(
    r"(?:sampl\w*[ _-]*(?:rate|freq\w*)|abtast(?:rate|frequenz)|\bfs|\bfrequency)\W{1,4}(?:\[?(k?)hz\]?)?\W{0,3}(\d+(?:[.,]\d+)?)\s*(k?)(?:hz|s/s|sps)?\b",
    re.IGNORECASE,
)
_INTERVAL: Final = re.compile(
    r"(?:sampl\w*[ _-]*(?:interval|period|time)|interval|delta[ _-]*[xt]|\bdt)\W{1,4}(\d+(?:[.,]\d+)?(?:e-?\d+)?)\s*(s|ms|us|µs|sec\w*|min)\b",
    re.IGNORECASE,
)


def _rate_of_preamble(preamble: tuple[str, ...]) -> float | None:
    """The sample rate that a file's first lines tell."""
    for above, below in pairwise(preamble):
        names, cells = (re.split(r"[,;\t]", line[:300]) for line in (above, below))
        for name, cell in zip(names, cells, strict=False):
            # An oscilloscope's table: CH1, CH2, Start, Increment; Volt, Volt, -6e-2, 1e-4
            if name.strip().lower() == "increment" and re.fullmatch(
                r"[\d.]+e[-+]?\d+", cell.strip(), re.IGNORECASE
            ):
                return 1.0 / (float(cell) or float("inf")) or None
    for line in (line[:300] for line in preamble):
        if found := _RATE.search(line):
            return float(found[2].replace(",", ".")) * (1000.0 if found[1] or found[3] else 1.0) or None
        if found := _INTERVAL.search(line):
            seconds = float(found[1].replace(",", ".")) * TIME_UNITS.get(found[2].lower(), 1.0)
            return 1.0 / seconds if seconds else None
    return None


def _said_again(roles: Roles, clock: Clock | None) -> dict[str, str]:
    """What each column was taken for, so that a shorter file of the same logger is read in the same way."""
    found = {}
    for place, column in enumerate(roles.columns):
        if clock is not None and place in clock.used:
            found[column.name] = "time"
        elif roles.variable is not None and roles.variable.name == column.name:
            found[column.name] = "variable"
        elif column.kind in SENSOR_KINDS:
            found[column.name] = "sensor"
        elif column.kind in {ColumnKind.DEVICE, ColumnKind.LABEL} and not column.note.endswith("left out"):
            found[column.name] = str(column.kind)
        elif column.kind is not ColumnKind.DEAD:
            found[column.name] = "leave out"
    return {f"column:{name}": kind for name, kind in found.items()}


def _renamed(table: Table) -> list[str]:
    return [
        f"a second column {shown(c.name.rsplit(' (', 1)[0])} is called {shown(c.name)}"
        for c in table.columns
        if c.name.endswith(")") and c.name.rsplit(" (", 1)[-1].rstrip(")").isdigit()
    ]


def _parted(
    table: Table, clock: Clock | None, roles: Roles, notes: list[str], answers: Mapping[str, str]
) -> list[Part]:
    """A part for each machine of the device column, or one."""
    del answers
    keep = np.ones(table.count, bool)
    if clock is not None and not clock.is_counted and (lost := np.isnan(clock.seconds)).any():
        keep &= ~lost
        notes.append(
            f"{int(lost.sum())} rows have no time and were left out: line {table.line_of(int(np.argmax(lost)))}"
        )
    sensors = [table.columns[place] for place in roles.sensors]
    check_size((table.count, max(1, len(sensors))), str(table.path))
    seconds = None if clock is None or clock.is_counted else clock.seconds
    if roles.devices is None:
        return [_part(table, None, keep, sensors, seconds, roles)]
    if (nobody := (roles.devices < 0) & keep).any():
        notes.append(
            f"{int(nobody.sum())} rows name no machine and were left out: line {table.line_of(int(np.argmax(nobody)))}"
        )
    parts = []
    for number, name in enumerate(roles.device_names):
        is_its = keep & (roles.devices == number)
        if is_its.any():
            parts.append(_part(table, name, is_its, sensors, seconds, roles))
    return parts


def _part(
    table: Table,
    name: str | None,
    keep: NDArray[np.bool_],
    sensors: list[RawColumn],
    seconds: NDArray[np.float64] | None,
    roles: Roles,
) -> Part:
    count = int(np.count_nonzero(keep))
    is_all = count == len(keep)
    rows = np.empty((count, len(sensors)), np.float32)
    for place, column in enumerate(sensors):
        rows[:, place] = column.values if is_all else column.values[keep]
        if name is None:
            column.values = np.empty(0)  # a view, however short, would hold the whole table
    return Part(
        machine=name,
        names=tuple(column.name for column in sensors),
        rows=rows,
        times_s=None if seconds is None else seconds if is_all else seconds[keep],
        labels=None if roles.labels is None else roles.labels if is_all else roles.labels[keep],
        path=table.path,
    )
