"""Which columns of a recording are clocks or row numbers, and no sensors.

They grow for ever: a detector that took one for a sensor would call every later day an anomaly.

A column whose cells are dates or times of day is one. A column of numbers is one where it grows and either its name says so
(`time`, `timestamp`, `index` …) or all its values are seconds, milli-, micro- or nanoseconds since 1970 between the years 2001 and
2286. A column that somebody names in `columns` is read whatever it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import RecordingError
from models.recordings.recording import Recording, listed, shown
from models.recordings.words import CLOCK_NAMES, COUNTER_NAMES, SHORT_CLOCK_NAMES, words_of

__all__ = ["is_clock", "without_clocks"]

_EPOCHS: Final = tuple((1e9 * unit, 1e10 * unit) for unit in (1.0, 1e3, 1e6, 1e9))
_MOST_RESTARTS: Final = 0.1
"""Share of rows at which a clock may go back: a logger that was started anew, recordings put together, an hour in autumn."""
_FEWEST_GROWING: Final = 20
"""Rows that must all grow before that is worth a word."""


def is_clock(name: str, values: NDArray[np.float32]) -> bool:
    """Does a column of numbers (n,) only tell the time, or count the rows? Missing values (NaN) are passed over."""
    words = words_of(name)
    is_named = _is_clock_name(words)
    may_count = bool(words) and words[0] in COUNTER_NAMES | SHORT_CLOCK_NAMES
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


def _is_clock_name(words: list[str]) -> bool:
    return any(word in CLOCK_NAMES for word in words)


def _doubt(name: str, values: NDArray[np.float32]) -> str | None:
    """What makes one think that a column which is read as a sensor may be a clock after all."""
    if _is_clock_name(words_of(name)):
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
