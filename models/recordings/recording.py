"""What every door hands out: a table of float32 with a name for each column, and what has to be said about it.

A value that is missing is NaN; nothing in a table is infinite. What a missing value means is the caller's business: a device judges
the sensors that are left, a trainer leaves the row out.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import RecordingError

__all__ = [
    "MAXIMUM_BYTES",
    "MAXIMUM_COLUMNS",
    "Recording",
    "check_names",
    "check_size",
    "coarse_columns",
    "left_out",
    "listed",
    "one_line",
    "places_of",
    "shown",
]

MAXIMUM_BYTES: Final = 1 << 30
"""Of float32 that one file may become: 23 hours of four channels at 800 Hz; a device that holds more has no room to judge."""
MAXIMUM_COLUMNS: Final = 16_384
_LONGEST_NAME: Final = 200
"""A manifest takes no longer one."""
_FEWEST_STEPS: Final = 500
"""A column whose whole travel is fewer of float32's steps has lost its shape; a 12-bit converter has 4096."""
_EXACT_INTEGERS: Final = float(1 << 24)
_FOLD: Final = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """`rows` is float32 (rows, columns), or (windows, samples, channels): the last axis has one of the `names` each.

    `is_named` tells whether the file names its columns; otherwise they are f0, f1, … in the file's order. `notes` are sentences for a
    person: what was left out, what is missing, what float32 cannot hold.
    """

    rows: NDArray[np.float32]
    names: tuple[str, ...]
    is_named: bool = True
    notes: tuple[str, ...] = ()

    def picked(self, columns: Sequence[str], where: str) -> Recording:
        """The same recording with these columns in this order; raises RecordingError for one that is not there."""
        found = self.at(places_of(columns, self.names, where))
        return replace(found, notes=(*self.notes, *left_out(self.names, columns)))

    def at(self, places: Sequence[int]) -> Recording:
        """The same recording with the columns at these places, in this order."""
        if list(places) == list(range(len(self.names))):
            return self
        names = tuple(self.names[place] for place in places)
        return replace(self, rows=np.ascontiguousarray(self.rows[..., list(places)]), names=names)

    def with_remarks(self) -> Recording:
        """The same with what its values ask to be told: missing ones, and columns that float32 is too coarse for."""
        return replace(self, notes=(*self.notes, *_remarks(self.rows, self.names)))


def places_of(columns: Sequence[str], names: Sequence[str], where: str) -> list[int]:
    """Where each of `columns` lies in `names`.

    Raises:
        RecordingError: one is not there, or is asked for twice.
    """
    check_names(columns, f"{where}: columns")
    places = {name: place for place, name in enumerate(names)}
    for name in columns:
        if name not in places:
            raise RecordingError(
                f"{where}: no column {shown(name)}; there are {listed([n for n in names if n])}"
            )
    return [places[name] for name in columns]


def left_out(names: Sequence[str], columns: Sequence[str]) -> list[str]:
    """What is to be said of named columns that nobody asks for, if there are any."""
    asked = set(columns)
    others = [name for name in names if name and name not in asked]
    return [f"columns that are not asked for were left out: {listed(others)}"] if others else []


def check_names(names: Sequence[str], where: str, *, may_be_nameless: bool = False) -> tuple[str, ...]:
    """`names`, once each is a name of its own; where it `may_be_nameless`, a column may have "".

    Raises:
        RecordingError: too many, an empty or endless one, or one given twice; the message names the places, counted from 1.
    """
    if len(names) > MAXIMUM_COLUMNS:
        raise RecordingError(f"{where}: {len(names)} columns; at most {MAXIMUM_COLUMNS} are read")
    first: dict[str, int] = {}
    for place, name in enumerate(names, 1):
        if may_be_nameless and not name:
            continue
        if not name or len(name) > _LONGEST_NAME or not name.isprintable():
            raise RecordingError(
                f"{where}: column {place} is named {shown(name)}; a name has 1 to {_LONGEST_NAME} printable characters"
            )
        if name in first:
            raise RecordingError(
                f"{where}: columns {first[name]} and {place} are both named {shown(name)}; give each a name of its own"
            )
        first[name] = place
    return tuple(names)


def check_size(shape: tuple[int, ...], where: str) -> None:
    """Raises RecordingError for a table without a value, or beyond `MAXIMUM_BYTES`; call it before anything is allocated."""
    values = 1
    for length in shape:
        values *= length
    if not values:
        raise RecordingError(f"{where} is empty: its shape is {shape}, a recording has rows and columns")
    if 4 * values > MAXIMUM_BYTES:
        raise RecordingError(
            f"{where} has shape {shape}: {4 * values:,} bytes as float32, and at most {MAXIMUM_BYTES:,} are read; cut it into several"
        )
    if shape[-1] > MAXIMUM_COLUMNS:
        raise RecordingError(f"{where} has {shape[-1]} columns; at most {MAXIMUM_COLUMNS} are read")


def shown(text: str, longest: int = 40) -> str:
    """`text` in quotes for a message of one line, cut where it is long."""
    return repr(text if len(text) <= longest else text[: longest - 1] + "…")


def one_line(text: str) -> str:
    r"""`text` with what would begin a new line, or move a terminal's cursor, written out.

    >>> one_line("x\ny: all is well")
    'x\\ny: all is well'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def listed(names: Collection[str]) -> str:
    """The first twenty of `names` for a message."""
    first = [shown(name)[1:-1] for name in list(names)[:20]]
    return (", ".join(first) or "none") + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _remarks(rows: NDArray[np.float32], names: Sequence[str]) -> list[str]:
    table = rows.reshape(-1, rows.shape[-1])
    remarks = []
    if np.isnan(table.min()):
        for c, name in enumerate(names):
            if (missing := int(np.count_nonzero(np.isnan(table[:, c])))) == len(table):
                remarks.append(f"column {shown(name)} has no value in any row")
            elif missing:
                remarks.append(f"column {shown(name)} misses {missing} of {len(table)} values")
    return [*remarks, *coarse_columns(rows, names)]


def coarse_columns(rows: NDArray[np.float32], names: Sequence[str]) -> list[str]:
    """What is to be said of columns whose values float32 hardly tells apart."""
    if not rows.size:
        return []
    table = rows.reshape(-1, rows.shape[-1])
    lowest, highest = _reduced(np.fmin, table), _reduced(np.fmax, table)
    largest = np.fmax(np.abs(lowest), np.abs(highest))
    steps = (highest.astype(np.float64) - lowest) / np.spacing(largest)
    is_coarse = (steps < _FEWEST_STEPS) & ((steps > 0) | (largest > _EXACT_INTEGERS))
    return [
        f"column {shown(names[int(c)])} lies between {lowest[c]:.9g} and {highest[c]:.9g}, where float32 tells values apart only by "
        f"{np.spacing(largest[c]):.2g}; subtract an offset before you record it, or leave it out"
        for c in np.flatnonzero(is_coarse)
    ]


def _reduced(extreme: np.ufunc, table: NDArray[np.float32]) -> NDArray[np.float32]:
    """The `extreme` of each column (columns,); `_FOLD` rows side by side go twenty times as fast as rows of four."""
    columns, whole = table.shape[1], len(table) // _FOLD * _FOLD
    if not whole:
        return np.asarray(extreme.reduce(table, axis=0))
    folded = extreme.reduce(table[:whole].reshape(-1, _FOLD * columns), axis=0).reshape(_FOLD, columns)
    return np.asarray(extreme.reduce(np.concatenate([folded, table[whole:]]), axis=0))
