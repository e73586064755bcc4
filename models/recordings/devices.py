"""Which column of a file tells machines apart: by its name and few values, or by a counter beside it that starts anew with each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.recordings.raw_columns import RawColumn, Table, is_whole
from models.recordings.times import Clock
from models.recordings.units import is_unit
from models.recordings.words import is_device_name, part_of_time, words_of

__all__ = ["Devices", "found_devices"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Devices:
    """`codes` (n,) are places in `names`, -1 where a row names no machine; `columns` are those that tell, a site and a pump perhaps."""

    columns: tuple[RawColumn, ...]
    codes: NDArray[np.int64]
    names: tuple[str, ...]


def found_devices(table: Table, clock: Clock | None, answers: Mapping[str, str]) -> Devices | None:
    """The machines of a table, None where it is one machine's."""
    used = set(clock.used) if clock else set()
    free = [c for c in table.columns if c.place not in used]
    unsaid = [c for c in free if f"column:{c.name}" not in answers and not _holds_units(c)]
    forced = [c for c in free if answers.get(f"column:{c.name}") == "device"]
    named = [c for c in unsaid if is_device_name(c.name) and _repeats(c, table.count)]
    named = [c for c in named if not _is_numbered(c, named) and not _is_mark(c)]
    candidates = forced or named or [c for c in unsaid if _is_numbered_run(c, free, table.count)][:1]
    if not candidates:
        return None
    keys = [_coded(column) for column in candidates]
    # One machine's number says nothing on its own where another column counts within sites.
    several = [key for key in keys if len(key[1]) > 1] or keys[:1]
    codes, names = several[0]
    for other, of_other in several[1:]:
        pairs, joint = np.unique(np.stack([codes, other]), axis=1, return_inverse=True)
        joint = np.where((codes < 0) | (other < 0), -1, joint.reshape(-1))
        if len(pairs[0]) == len(of_other):
            codes, names = other, of_other
        elif len(pairs[0]) > len(names):
            names = tuple(
                "-".join((names[one], of_other[two])) if min(one, two) >= 0 else ""
                for one, two in pairs.T.tolist()
            )
            codes = joint
    return Devices(columns=tuple(candidates), codes=codes, names=names)


def _is_numbered(column: RawColumn, others: list[RawColumn]) -> bool:
    """Pump1 beside Pump2: each tells how that pump is, and none which one a row is of."""
    stem = words_of(column.name)
    return any(
        other is not column and other.name != column.name and words_of(other.name) == stem
        for other in others
        if any(c.isdigit() for c in other.name)
    )


def _is_mark(column: RawColumn) -> bool:
    """One value or none: a mark, where the rows without it would be nobody's."""
    if column.sort == "word":
        return len(column.vocabulary) == 1 and bool((column.codes < 0).any())
    told = column.values[~np.isnan(column.values)]
    return 0 < len(told) < len(column.values) and len(np.unique(told)) == 1


def _coded(column: RawColumn) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if column.sort == "word":
        return column.codes.astype(np.int64), tuple(column.vocabulary)
    found, codes = np.unique(column.values, return_inverse=True)
    codes = np.where(np.isnan(column.values), -1, codes)
    return codes.astype(np.int64), tuple(f"{value:.15g}" for value in found[~np.isnan(found)].tolist())


def _holds_units(column: RawColumn) -> bool:
    """A column called "unit" may hold units of measure."""
    return bool(column.vocabulary) and all(is_unit(word) for word in column.vocabulary)


def _repeats(column: RawColumn, count: int) -> bool:
    """Does a column hold few values, each in several rows?"""
    if column.sort == "word":
        return 0 < len(column.vocabulary) <= max(1, count // 3)
    if column.sort != "number" or not is_whole(column.values):
        return False
    return len(np.unique(column.values)) <= max(1, count // 3)


def _is_numbered_run(column: RawColumn, others: list[RawColumn], count: int) -> bool:
    """Machines 1, 1, 1, 2, 2 beside a counter 1, 2, 3, 1, 2: what no two sensors do."""
    if column.sort != "number" or not is_whole(column.values[:1000]) or not is_whole(column.values):
        return False
    turns = np.flatnonzero(np.diff(column.values) != 0) + 1
    if not 2 <= len(turns) <= count // 5:
        return False
    for other in others:
        if (
            other is column
            or other.sort != "number"
            or part_of_time(other.name)
            or not is_whole(other.values[:1000])
        ):
            continue
        if np.nanmax(other.values) in {23, 59}:  # an hour beside a day, a minute beside an hour
            continue
        steps = np.diff(other.values)
        starts = other.values[np.append(0, turns)]
        if (np.delete(steps, turns - 1) == 1).all() and np.isin(starts, (0, 1)).all():
            return True
    return False
