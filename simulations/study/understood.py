"""What was understood of a folder, in words, before anything is worked out: a person sees at once where it was read wrongly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

import numpy as np

from models.recordings.machines import Machine, Reading
from simulations.study.studying import Prepared
from simulations.study.verdicts import events_of

__all__ = ["columns_of", "length_in_words", "understood"]

SHOWN: Final = 6
MOST_SAID: Final = 12
FIRST_DATE_S: Final = 1e8
"""Clocks below count from their own beginning."""


def understood(prepared: Prepared) -> list[str]:
    """Sentences, in the order in which one would ask."""
    reading = prepared.reading
    rows = sum(len(machine.rows) for machine in reading.machines)
    said = [
        f"{len(reading.machines)} machines, {rows:,} rows, {len(reading.sensors)} sensors: {_listed(reading.sensors)}",
        _rate(reading),
        *_gaps(reading.machines),
        *_labels(reading.machines),
        *prepared.suggestion.why,
        _cut(prepared),
        *(one.said for one in prepared.too_short),
        *_first(reading.notes, "notes"),
        *_first([f"{path}: {why}" for path, why in reading.refused], "refused files"),
    ]
    return [sentence for sentence in said if sentence]


def columns_of(reading: Reading) -> Iterator[tuple[str, str, str]]:
    """(name, kind, what there is to say of it) of every column."""
    for column in reading.columns:
        unit = f"in {column.unit}" if column.unit else ""
        yield column.name, str(column.kind), "; ".join(part for part in (unit, column.note) if part)


def length_in_words(seconds: float) -> str:
    """A length of time as people say it.

    >>> length_in_words(90), length_in_words(5400), length_in_words(200_000)
    ('1.5 minutes', '1.5 hours', '2.3 days')
    """
    for size, name in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * size or (size == 60 and seconds >= 60):
            return f"{seconds / size:.2g} {name}" if seconds < 100 * size else f"{seconds / size:,.0f} {name}"
    return f"{seconds:.3g} seconds" if seconds != 1 else "second"


def _first(sentences: Sequence[str], what: str) -> list[str]:
    """The first few, and how many there are besides."""
    more = [f"and {len(sentences) - MOST_SAID} {what} more"] if len(sentences) > MOST_SAID else []
    return [*sentences[:MOST_SAID], *more]


def _rate(reading: Reading) -> str:
    rate, clocks = reading.sample_rate_hz, [m for m in reading.machines if m.times_s is not None]
    if rate is None:
        return "no clock: rows are counted, and figures are for 1,000 windows"
    how_often = f"{rate:.6g} rows a second" if rate > 1 else f"one row every {length_in_words(1 / rate)}"
    if not clocks:
        return f"{how_often}; no clock in the files"
    first, last = (
        min(float(m.times_s[0]) for m in clocks if m.times_s is not None),
        max(float(m.times_s[-1]) for m in clocks if m.times_s is not None),
    )
    if first < FIRST_DATE_S:
        return f"{how_often}, for up to {length_in_words(last - first)}"
    begin, end = (datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M") for at in (first, last))
    return f"{how_often}, from {begin} to {end} UTC"


def _gaps(machines: Sequence[Machine]) -> list[str]:
    broken = [machine for machine in machines if len(machine.pieces) > 1]
    missing = sum(int(np.isnan(machine.rows).sum()) for machine in machines)
    cells = sum(machine.rows.size for machine in machines)
    said = []
    if broken:
        count = sum(len(machine.pieces) - 1 for machine in broken)
        said.append(f"{count} gaps, in {_listed([machine.name for machine in broken])}: no window spans one")
    if missing:
        said.append(
            f"{missing:,} of {cells:,} values are missing ({missing / cells:.2g} of them): they are filled as an agent does"
        )
    return said


def _labels(machines: Sequence[Machine]) -> list[str]:
    labelled = [machine for machine in machines if machine.labels is not None]
    if not labelled:
        return ["no labels: false alarms cannot be told from true ones"]
    faults = sum(len(events_of(machine.labels == 1)) for machine in labelled if machine.labels is not None)
    return [f"labels for {len(labelled)} machines, with {faults} faults; they judge, and choose nothing"]


def _cut(prepared: Prepared) -> str:
    learnt = sum(subject.learning for subject in prepared.subjects)
    held = sum(subject.held_back for subject in prepared.subjects)
    return f"learnt from: the first {learnt:,} windows of {len(prepared.subjects)} machines; held back: the {held:,} that follow"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
