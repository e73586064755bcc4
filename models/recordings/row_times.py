"""The time of each row: what every way of telling it gives, and when two of them disagree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.recordings.questions import Question, QuestionsOpen
from models.recordings.raw_columns import RawColumn, Table
from models.recordings.recording import shown

__all__ = ["FIRST_S", "LAST_S", "LONG_AGO_S", "Clock", "check_others", "date_of"]

FIRST_S: Final = 1e9
LAST_S: Final = 2_208_988_800.0
"""2001 to 2040: when a machine's data was recorded. A count that says another year counts from elsewhere, such as 2001."""
LONG_AGO_S: Final = -1_262_304_000.0
"""1930: a date in writing may be older than a count; a clock that was never set says 1899, 1900 or 1904."""


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


def check_others(full: list[RawColumn], column: RawColumn, table: Table, answers: Mapping[str, str]) -> None:
    """Raises QuestionsOpen where a second clock runs otherwise than the first, as when each sensor has a time of its own."""
    own = (
        next(iter(column.stamps.values()))
        if column.sort == "stamp"
        else np.asarray(column.values, np.float64)
    )
    steps = np.abs(np.diff(own[~np.isnan(own)]))
    step = float(np.median(steps)) if len(steps) else 0.0
    for other in full:
        if other is column or f"column:{other.name}" in answers or len(own) < 2:
            continue
        theirs = (
            next(iter(other.stamps.values()))
            if other.sort == "stamp"
            else np.asarray(other.values, np.float64)
        )
        apart = (theirs - own)[~np.isnan(theirs - own)]
        if len(apart) and np.ptp(theirs[~np.isnan(theirs)]) == 0:
            continue  # when it all began
        if len(apart) and float(apart.max() - apart.min()) > step:
            raise QuestionsOpen(
                Question(
                    key=f"column:{other.name}",
                    text=f"columns {shown(column.name)} and {shown(other.name)} both tell the time and drift apart by {apart.max() - apart.min():.6g} s: has "
                    f"each sensor its own clock (then cut the file), or is {shown(column.name)} the time of all",
                    allowed=("leave out", "time"),
                    path=table.path,
                    line=table.line_of(0),
                )
            )


def date_of(seconds: float) -> str:
    """For a message."""
    return str(np.datetime64(int(seconds), "s")).replace("T00:00:00", "").replace("T", " ")
