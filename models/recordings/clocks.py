"""Which columns of a recording are clocks or row numbers, and no sensors.

They grow for ever: a detector that took one for a sensor would call every later day an anomaly.

A column whose cells are dates or times of day is one. A column of numbers is one where it grows and either its name says so
(`time`, `timestamp`, `index` …) or all its values are seconds, milli-, micro- or nanoseconds since 1970 between the years 2001 and
2286. A column that somebody names in `columns` is read whatever it is.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import RecordingError
from models.recordings.recording import Recording, listed, shown

__all__ = ["is_clock", "is_timestamp", "without_clocks"]

_DATE: Final = (
    r"(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}|\d{1,2}[- ][A-Za-z]{3,9}[- ]\d{2,4})"
)
_TIME: Final = (
    r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?(?: ?[AaPp][Mm])?(?: ?(?:Z|UTC|GMT|[+-]\d{2}:?\d{2}))?"
)
_STAMP: Final = re.compile(
    rf"{_DATE}(?:[T ] ?{_TIME})?|{_TIME}|\d{{8}}T\d{{4,6}}(?:\.\d{{1,9}})?Z?", re.ASCII
)
_CLOCK_WORDS: Final = frozenset(
    [
        "time",
        "timestamp",
        "datetime",
        "date",
        "clock",
        "epoch",
        "elapsed",
        "uptime",
        "unixtime",
        "zeit",
        "zeitstempel",
        "datum",
        "uhrzeit",
    ]
)
_COUNTER_NAMES: Final = frozenset(
    [
        "t",
        "ts",
        "utc",
        "seconds",
        "sec",
        "secs",
        "index",
        "idx",
        "id",
        "unnamed",
        "seq",
        "frame",
        "tick",
        "ticks",
        "ms",
        "millis",
        "no",
        "nr",
        "row",
        "rows",
        "line",
        "sample",
        "cycle",
        "cycles",
        "step",
        "record",
        "n",
        "#",
        "i",
    ]
)
"""These may also be sensors (t is a temperature, no is nitric oxide), so they must grow at every single row."""
_EPOCHS: Final = tuple((1e9 * unit, 1e10 * unit) for unit in (1.0, 1e3, 1e6, 1e9))
_MOST_RESTARTS: Final = 0.1
"""Share of rows at which a clock may go back: a logger that was started anew, recordings put together, an hour in autumn."""
_FEWEST_GROWING: Final = 20
"""Rows that must all grow before that is worth a word."""


def is_timestamp(cell: str) -> bool:
    """Is `cell`, without spaces around it, a date, a time of day, or both?

    >>> is_timestamp("2020-02-08 13:30:47"), is_timestamp("08.02.2020"), is_timestamp("13.5")
    (True, True, False)
    """
    return len(cell) <= 64 and _STAMP.fullmatch(cell) is not None


def is_clock(name: str, values: NDArray[np.float32]) -> bool:
    """Does a column of numbers (n,) only tell the time, or count the rows? Missing values (NaN) are passed over."""
    words = _words(name)
    is_named = _is_clock_name(words)
    may_count = bool(words) and words[0] in _COUNTER_NAMES
    smallest, largest = float(np.fmin.reduce(values)), float(np.fmax.reduce(values))
    is_epoch = any(first <= smallest and largest < last for first, last in _EPOCHS)
    if not (is_named or may_count or is_epoch):
        return False
    steps = np.diff(values[~np.isnan(values)])
    goes_back = float(np.count_nonzero(steps < 0)) / max(len(steps), 1)
    if is_epoch:
        # float32 tells seconds of today only 128 apart, so a short recording seems to stand still.
        return is_named or may_count or goes_back <= _MOST_RESTARTS
    if is_named:
        return bool(smallest < largest and goes_back <= _MOST_RESTARTS)
    return bool(len(steps) and np.all(steps > 0))


def _words(name: str) -> list[str]:
    """The words of a column's name, however they are parted: time_s, sampleTime, TIME (s)."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|#", name)]


def _is_clock_name(words: list[str]) -> bool:
    return any(word in _CLOCK_WORDS for word in words)


def _doubt(name: str, values: NDArray[np.float32]) -> str | None:
    """What makes one think that a column which is read as a sensor may be a clock after all."""
    if _is_clock_name(_words(name)):
        return "has the name of a clock, but does not grow as one"
    # A look at the first rows spares the others.
    is_long = len(values) >= _FEWEST_GROWING
    if is_long and all(np.all(np.diff(some) > 0) for some in (values[:_FEWEST_GROWING], values)):
        return "grows at every row, as a clock or a counter does"
    return None


def without_clocks(recording: Recording, where: str) -> Recording:
    """The recording (rows, columns) without its clocks, each told with how it would be kept.

    Raises:
        RecordingError: nothing else is there.
    """
    clocks = [c for c, name in enumerate(recording.names) if is_clock(name, recording.rows[:, c])]
    kept = [c for c in range(len(recording.names)) if c not in clocks]
    if not kept:
        raise RecordingError(
            f"{where} has no sensor: {listed(recording.names)} only count time or rows; name what measures in columns"
        )
    notes = [
        f"column {shown(recording.names[c])} is a clock or a row number ({recording.rows[0, c]:.9g} to {recording.rows[-1, c]:.9g}) and was left out; "
        f"name it in columns if it measures"
        for c in clocks
    ]
    notes += [
        f"column {shown(recording.names[c])} {doubt}; it was read as a sensor: name the others in columns if it is none"
        for c in kept
        if (doubt := _doubt(recording.names[c], recording.rows[:, c]))
    ]
    return replace(
        recording.at(kept),
        notes=(*recording.notes, *notes),
    )
