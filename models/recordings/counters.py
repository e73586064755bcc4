"""Columns that count: a row number, or a meter that never falls."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.recordings.raw_columns import RawColumn, is_whole
from models.recordings.words import COUNTER_NAMES, words_of

__all__ = ["counts_rows", "may_be_time", "only_grows"]

_FEWEST_ROWS: Final = 50
"""Rows from which on a column that always grows is worth a question."""
_FEWEST_MOMENTS: Final = 20
_LOOKED_AT: Final = 20_000
_MOST_RISING: Final = 0.9
_LEAST_EVEN: Final = 0.7


def counts_rows(column: RawColumn, devices: NDArray[np.int64] | None) -> bool:
    """Is it a row number: grows at every row, by its name, or by ones where a row number stands? `devices` (n,) counts each by itself."""
    values = column.values
    if len(values) < 3 or np.isnan(values).any():
        return False
    steps = np.diff(values)
    if devices is not None:
        order = np.argsort(devices, kind="stable")
        inner = np.diff(devices[order]) == 0
        steps = np.diff(values[order])[inner]
        if not len(steps):
            return False
    words = words_of(column.name)
    is_named = bool(words) and (words[0] in COUNTER_NAMES or words[-1] in COUNTER_NAMES)
    if is_named and (steps != 0).any() and _starts_again(values):
        return True
    if not ((steps > 0).all() or (steps == -1).all()):
        return False
    # By ones alone only where no sensor stands: in front, without a name, or once for each machine.
    is_placed = column.place == 0 or column.name.startswith("column ") or devices is not None
    return is_named or (is_placed and is_whole(values) and bool((np.abs(steps) == 1).all()))


def only_grows(values: NDArray[np.floating]) -> bool:
    """Does a column (n,) never fall, and rise often, as a meter does?"""
    if len(values) < _FEWEST_ROWS:
        return False
    if not (values[1:_FEWEST_ROWS] >= values[: _FEWEST_ROWS - 1]).all():
        return False
    told = values[~np.isnan(values)]
    steps = np.diff(told)
    grown = np.count_nonzero(steps > 0)
    return bool((steps >= 0).all() and grown >= max(_FEWEST_ROWS // 2, len(steps) // 20))


def may_be_time(values: NDArray[np.floating]) -> bool:
    """Does a column (n,) rise by the same step nearly everywhere, as far as is looked, but where it begins anew?"""
    some = values[:_LOOKED_AT].astype(np.float64)
    if len(some) < _FEWEST_MOMENTS or np.isnan(some).any():
        return False
    steps = np.diff(some)
    rising = steps[steps > 0]
    if len(rising) < _MOST_RISING * len(steps):
        return False
    usual = float(np.median(rising))
    return bool(np.mean(np.abs(rising - usual) <= 0.1 * usual) >= _LEAST_EVEN)


def _starts_again(values: NDArray[np.floating]) -> bool:
    """1, 2, 3, 1, 2, 3: by ones, and back to the first."""
    steps = np.diff(values)
    return bool(
        (steps[steps > 0] == 1).all() and (steps != 0).all() and (values[1:][steps < 0] == values.min()).all()
    )
