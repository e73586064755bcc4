"""Which columns may say what a row is of, a machine or a variable: by how their values, and the times beside them, repeat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.recordings.counters import counts_rows
from models.recordings.numerals import FLAG_WORDS
from models.recordings.raw_columns import RawColumn, Table
from models.recordings.times import Clock
from models.recordings.words import is_state_name

__all__ = ["is_long", "may_be_key", "takes_turns"]

_LOOKED_AT: Final = 20_000
_TAKES_TURNS: Final = 0.3
_MOST_TURNS: Final = 0.9


def is_long(
    table: Table, clock: Clock | None, devices: Sequence[RawColumn], codes: NDArray[np.int64] | None
) -> bool:
    """Is there one column of numbers that could be the values? `codes` (n,) are those of the `devices`."""
    used = (*clock.used, *clock.others) if clock else ()
    numbers = [
        c
        for c in table.columns
        if c.sort == "number" and c.place not in used and all(c is not device for device in devices)
    ]
    # A state of numbers is a code beside others, and the value where it stands alone (Home Assistant).
    numbers = [c for c in numbers if not is_state_name(c.name)] or numbers
    return sum(not counts_rows(c, codes) for c in numbers) == 1


def takes_turns(column: RawColumn, *, most: bool = False) -> bool:
    """Do words change from row to row (from nearly every one with `most`), or stand in a column without a name? Flags may do both."""
    if {word.casefold() for word in column.vocabulary} <= FLAG_WORDS.keys():
        return False
    some = column.codes[:_LOOKED_AT]
    turns = float(np.mean(np.diff(some) != 0)) if len(some) > 1 else 0.0
    return column.name == f"f{column.place}" or turns > (_MOST_TURNS if most else _TAKES_TURNS)


def may_be_key(column: RawColumn, table: Table, clock: Clock | None, codes: NDArray[np.int64] | None) -> bool:
    """Do times repeat, but no time together with a value of this column?"""
    if clock is None:
        return False
    count = min(table.count, _LOOKED_AT)
    some = clock.seconds[:count]
    if codes is not None:
        some = np.column_stack([some, codes[:count]])
    keys = column.codes if column.sort == "word" else column.values
    is_repeating = len(np.unique(some, axis=0)) < 0.7 * count
    return is_repeating and len(np.unique(np.column_stack([some, keys[:count]]), axis=0)) > 0.99 * count
