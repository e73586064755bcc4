"""What one file says of each of its machines, its rows in the order of time.

A row that has no time, or steps back in it, is never passed on silently: it is told, parted from the others, or asked about.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import RecordingError
from models.recordings.events import Events, found_events
from models.recordings.long_tables import pivoted
from models.recordings.machines import Column, ColumnKind
from models.recordings.questions import Question, QuestionsOpen
from models.recordings.raw_columns import RawColumn, Table
from models.recordings.recording import check_size, shown
from models.recordings.roles import Roles, found_roles
from models.recordings.times import Clock, found_clock
from models.recordings.units import TIME_UNITS

__all__ = ["FileContent", "Part", "content_of", "pieces_of"]

_MOST_BACK: Final = 0.001
_MOST_REPEATED: Final = 0.2
_LEAST_REGULAR: Final = 0.8
_FEWEST_STEPS: Final = 20
_GAP: Final = 3.0
"""Steps of the usual length from which on a step is a gap."""


@dataclass(kw_only=True, eq=False)
class Part:
    """Rows of one machine from one file; `names` are its sensors. A machine has a name of its own only where the file gives one."""

    machine: str | None
    names: tuple[str, ...]
    rows: NDArray[np.float32]
    times_s: NDArray[np.float64] | None
    labels: NDArray[np.int8] | None
    path: Path
    pieces: tuple[slice, ...] | None = None
    rate_hz: float | None = None


@dataclass(kw_only=True, eq=False)
class FileContent:
    """All of one file. `is_counted` tells that its rows are counted and have no rate."""

    path: Path
    parts: list[Part] = field(default_factory=list)
    columns: list[Column] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    settled: dict[str, str] = field(default_factory=dict)
    questions: list[Question] = field(default_factory=list)
    growing: dict[str, Question] = field(default_factory=dict)
    is_counted: bool = False
    has_clock: bool = False
    rate_hz: float | None = None
    events: Events | None = None


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
    clock = found_clock(table, answers)
    roles = found_roles(table, clock, answers)
    if roles.questions:
        raise QuestionsOpen(roles.questions)
    notes = [*table.notes, *(clock.notes if clock else []), *roles.notes]
    found = FileContent(
        path=table.path,
        columns=roles.columns,
        growing=roles.growing,
        settled=table.settled | roles.settled | (clock.settled if clock else {}),
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
        long = pivoted(table, clock, roles)
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
        _in_order(part, clock, notes, found, answers)
    found.notes = notes
    if found.questions:
        raise QuestionsOpen(found.questions)
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
    for line in (line[:300] for line in preamble):
        if found := _RATE.search(line):
            return float(found[2].replace(",", ".")) * (1000.0 if found[1] or found[3] else 1.0) or None
        if found := _INTERVAL.search(line):
            seconds = float(found[1].replace(",", ".")) * TIME_UNITS.get(found[2].lower(), 1.0)
            return 1.0 / seconds if seconds else None
    return None


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
            column.values = column.values[:0]
    return Part(
        machine=name,
        names=tuple(column.name for column in sensors),
        rows=rows,
        times_s=None if seconds is None else seconds if is_all else seconds[keep],
        labels=None if roles.labels is None else roles.labels if is_all else roles.labels[keep],
        path=table.path,
    )


def _in_order(
    part: Part, clock: Clock | None, notes: list[str], found: FileContent, answers: Mapping[str, str]
) -> None:
    """Put newest-first rows the other way round, ask about others that step back, find the rate and the gaps."""
    if part.times_s is None or len(part.times_s) < 2:
        return
    of = f" of {part.machine}" if part.machine else ""
    steps = np.diff(part.times_s)
    back = int(np.count_nonzero(steps < 0))
    if back and not (steps > 0).any():
        _reorder(part, np.arange(len(part.rows))[::-1])
        notes.append(f"the rows{of} come newest first and were turned round")
    elif back > max(3, _MOST_BACK * len(steps)) and not (
        clock and not clock.is_dated and _restarts(part.times_s)
    ):
        answer = answers.get("order")
        if answer is None:
            at = int(np.argmax(steps < 0)) + 1
            found.questions.append(
                Question(
                    key="order",
                    text=f"{back} of {len(steps)} steps in time{of} go back, first at {part.times_s[at]:.3f} s after {part.times_s[at - 1]:.3f} s: "
                    f"are the rows out of order, or is it more than one machine (column:NAME=device)",
                    allowed=("sort", "as written"),
                    path=part.path,
                    line=None,
                )
            )
            return
        found.settled["order"] = answer
        if answer == "sort":
            _reorder(part, np.argsort(part.times_s, kind="stable"))
            notes.append(f"the rows{of} were sorted by time")
    elif back:
        notes.append(f"the time{of} steps back {back} times; what follows is a piece of its own")
    _measure_steps(part, of, notes, found, answers)


def _restarts(times_s: NDArray[np.float64]) -> bool:
    """Do all steps back lead to where the time began, as recordings that were put together do?"""
    starts = times_s[1:][np.diff(times_s) < 0]
    return bool((np.abs(starts - times_s[0]) <= 0.01 * (np.max(times_s) - np.min(times_s)) + 1e-9).all())


def _reorder(part: Part, order: NDArray[np.intp]) -> None:
    part.rows = part.rows[order]
    if part.times_s is not None:
        part.times_s = part.times_s[order]
    if part.labels is not None:
        part.labels = part.labels[order]


def _measure_steps(
    part: Part, of: str, notes: list[str], found: FileContent, answers: Mapping[str, str]
) -> None:
    if part.times_s is None:
        return
    steps = np.diff(part.times_s)
    forward = steps[steps > 0]
    if not len(forward):
        found.questions.append(
            Question(
                key="sample_rate",
                text=f"all {len(part.times_s)} rows{of} have the same time",
                allowed=("<rows a second>", "none"),
                path=part.path,
            )
        )
        return
    usual = float(np.median(forward))
    repeated = int(np.count_nonzero(steps == 0))
    if repeated > _MOST_REPEATED * len(steps):
        usual = _spread(part, of, notes, found, answers)
    elif repeated:
        notes.append(f"{repeated} rows{of} repeat the time of the row before")
    regular = float(np.mean(np.abs(forward - usual) <= usual / 2)) if usual else 0.0
    if repeated <= _MOST_REPEATED * len(steps) and regular < _LEAST_REGULAR and len(steps) >= _FEWEST_STEPS:
        if "steps" not in answers:
            found.questions.append(
                Question(
                    key="steps",
                    text=f"the steps in time{of} vary from {forward.min():.6g} to {forward.max():.6g} s, and only {regular:.0%} are near the usual "
                    f"{usual:.6g} s: a detector takes rows as evenly spaced",
                    allowed=("as written",),
                    path=part.path,
                )
            )
        else:
            found.settled["steps"] = answers["steps"]
    near = forward[np.abs(forward - usual) <= usual / 2]
    if repeated <= _MOST_REPEATED * len(steps) and len(near):
        # Stamps may be rounded: the mean of the usual steps is nearer to the clock than any of them.
        usual = float(near.mean())
    part.rate_hz = 1.0 / usual if usual else None
    part.pieces = pieces_of(part.times_s)
    if len(part.pieces) > 1:
        gaps = int(np.count_nonzero(steps > _GAP * usual))
        if gaps:
            notes.append(f"{gaps} gaps{of}, the longest of {steps.max():.6g} s")


def _spread(part: Part, of: str, notes: list[str], found: FileContent, answers: Mapping[str, str]) -> float:
    """Stamps that are coarser than the rows: as many rows to each are spread over it."""
    assert part.times_s is not None  # noqa: S101 - the caller looked
    is_repeated = np.diff(part.times_s, prepend=-np.inf) == 0
    if _are_copies(part.rows, is_repeated) and "repeats" not in answers:
        found.questions.append(
            Question(
                key="repeats",
                text=f"{int(is_repeated.sum())} of {len(part.times_s)} rows{of} repeat the row before, its time and its values: was each written twice",
                allowed=("drop", "coarse clock"),
                path=part.path,
            )
        )
    if answers.get("repeats") == "drop":
        found.settled["repeats"] = "drop"
        _reorder(part, np.flatnonzero(~is_repeated))
        notes.append(f"{int(is_repeated.sum())} rows{of} that repeat a time were dropped")
        forward = np.diff(part.times_s)
        return float(np.median(forward[forward > 0]))
    starts = np.flatnonzero(~is_repeated)
    lengths = np.diff(np.append(starts, len(part.times_s)))
    length = float(np.median(lengths[1:-1])) if len(lengths) > 2 else float(lengths.max())
    step = float(np.median(np.diff(part.times_s[starts])))
    even = (
        float(np.mean(np.abs(lengths[1:-1] - length) <= max(1.0, 0.1 * length))) if len(lengths) > 2 else 0.0
    )
    if even < 0.9 and "repeats" not in answers:
        found.questions.append(
            Question(
                key="repeats",
                text=f"{len(part.times_s) - len(starts)} of {len(part.times_s)} rows{of} repeat the time of the row before, unevenly: "
                f"is it more than one machine (column:NAME=device), or a coarse clock",
                allowed=("coarse clock",),
                path=part.path,
            )
        )
    if "repeats" in answers:
        found.settled["repeats"] = answers["repeats"]
    within = np.arange(len(part.times_s)) - np.repeat(starts, lengths)
    part.times_s = part.times_s + within * step / np.repeat(np.maximum(lengths, length), lengths)
    notes.append(
        f"the time{of} is written only every {step:g} s, for {length:g} rows each; they were spread over it"
    )
    return step / length


def _are_copies(rows: NDArray[np.float32], is_repeated: NDArray[np.bool_]) -> bool:
    """Do most of these rows say what the row before says?"""
    at = np.flatnonzero(is_repeated)[:10_000]
    if not len(at) or not rows.shape[1]:
        return False
    same = (rows[at] == rows[at - 1]) | (np.isnan(rows[at]) & np.isnan(rows[at - 1]))
    return float(same.all(axis=1).mean()) > 0.9


def pieces_of(times_s: NDArray[np.float64]) -> tuple[slice, ...]:
    """Stretches whose steps are neither gaps (more than three of the usual length) nor back."""
    steps = np.diff(times_s)
    forward = steps[steps > 0]
    usual = float(np.median(forward)) if len(forward) else 0.0
    breaks = np.flatnonzero((steps < 0) | (steps > _GAP * usual if usual else steps < 0)) + 1
    edges = [0, *breaks.tolist(), len(times_s)]
    return tuple(slice(a, b) for a, b in pairwise(edges))
