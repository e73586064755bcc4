"""The columns of one file as they were read, before anybody says what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.recordings.numerals import FLAG_WORDS, MISSING_WORDS, Style, is_value
from models.recordings.questions import Question
from models.recordings.row_lines import worth
from models.recordings.stamps import is_stamp
from models.recordings.words import is_time_name

__all__ = [
    "RawColumn",
    "Table",
    "as_words",
    "few_values",
    "forget_unused",
    "is_whole",
    "own_names",
    "sort_of",
]

_FEW: Final = 20


@dataclass(kw_only=True, eq=False)
class RawColumn:
    """One column of a file.

    Attributes:
        sort: "number", "stamp" or "word".
        values: (n,) of a number, NaN where it is missing.
        stamps: (n,) seconds by order of day and month; by "" where there is but one.
        codes, vocabulary: (n,) places in the vocabulary of a word; -1 where it is missing.
        words: of a column of numbers or stamps, what it says besides: how often, and in which line first.
        fractions, is_padded: of a stamp, as `models.recordings.stamps.Stamps` says.
        flags: words for flags, how often.
        units: what stands behind numbers, how often.
    """

    name: str
    unit: str
    place: int
    sort: str
    values: NDArray[np.floating] = field(default_factory=lambda: np.empty(0))
    stamps: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    codes: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    vocabulary: dict[str, int] = field(default_factory=dict)
    words: dict[str, tuple[int, int]] = field(default_factory=dict)
    flags: dict[str, int] = field(default_factory=dict)
    units: dict[str, int] = field(default_factory=dict)
    zoned: int = 0
    has_date: bool = True
    has_time: bool = True
    has_seconds: bool = True
    fractions: set[int] = field(default_factory=set)
    is_padded: bool = False
    infinite: int = 0
    style: Style = field(default_factory=Style)
    proof: dict[str, tuple[str, int]] = field(default_factory=dict)


@dataclass(kw_only=True, eq=False)
class Table:
    """The columns of one file, of `count` rows; `lines` (blocks, 2) are (row, line) pairs to find a row's line by."""

    path: Path
    columns: list[RawColumn]
    count: int
    marks: list[tuple[int, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    preamble: tuple[str, ...] = ()
    settled: dict[str, str] = field(default_factory=dict)
    questions: list[Question] = field(default_factory=list)

    def line_of(self, row: int) -> int | None:
        """About where row lies in the file; exact where no line before it in its block was passed over."""
        before = [mark for mark in self.marks if mark[0] <= row]
        return before[-1][1] + row - before[-1][0] if before else None


def sort_of(cells: Sequence[str], name: str) -> str:
    """What most of some cells of a column are: "number", "stamp" or "word"."""
    told = [cell for cell in cells if cell.casefold() not in MISSING_WORDS]
    if not told:
        return "number"
    stamps = sum(is_stamp(cell) and (not cell.isdigit() or _is_compact_date(cell, name)) for cell in told)
    if stamps > len(told) / 2:
        return "stamp"
    if 0 < sum(cell.casefold() in FLAG_WORDS for cell in told) < len(told) and not any(
        is_value(cell) for cell in told
    ):
        return "word"
    numbers = sum(worth(cell) >= 0.9 for cell in told)
    return "number" if numbers > len(told) / 2 else "word"


def _is_compact_date(cell: str, name: str) -> bool:
    return is_time_name(name) and len(cell) in {8, 12, 14} and cell[:2] in {"19", "20"}


def own_names(names: Sequence[str]) -> list[str]:
    """Each column a name of its own: a second "temp" is "temp (2)", a nameless one "column 3"."""
    taken: set[str] = set()
    found = []
    for place, name in enumerate(names, 1):
        own, number = name or f"column {place}", 2
        while own in taken:
            own, number = f"{name or f'column {place}'} ({number})", number + 1
        taken.add(own)
        found.append(own)
    return found


def as_words(column: RawColumn) -> RawColumn:
    """A column of few numbers as one of words."""
    found, codes = np.unique(column.values, return_inverse=True)
    codes = np.where(np.isnan(column.values), -1, codes).astype(np.int32)
    words = {f"{value:.15g}": k for k, value in enumerate(found.tolist())}
    return RawColumn(
        name=column.name, unit=column.unit, place=column.place, sort="word", codes=codes, vocabulary=words
    )


def is_whole(values: NDArray[np.floating]) -> bool:
    """Are all numbers that are there integers?"""
    told = values[~np.isnan(values)]
    return bool(len(told)) and bool((told == np.rint(told)).all())


def few_values(values: NDArray[np.floating]) -> NDArray[np.float64] | None:
    """The values of a column that has few, in their order; None where there are many."""
    some = np.unique(values[:5000])
    if np.count_nonzero(~np.isnan(some)) > _FEW:
        return None
    found = np.unique(values)
    found = found[~np.isnan(found)].astype(np.float64)
    return found if len(found) <= _FEW else None


def forget_unused(columns: Sequence[RawColumn]) -> None:
    """Words that only lines said that are no rows, such as the header where it comes again."""
    for column in columns:
        used = np.unique(column.codes[column.codes >= 0])
        if column.sort == "word" and len(used) < len(column.vocabulary):
            places = np.full(max(len(column.vocabulary), int(used.max(initial=0)) + 1) + 1, -1, np.int32)
            places[used] = np.arange(len(used))
            words = list(column.vocabulary)
            column.vocabulary = {words[code]: k for k, code in enumerate(used.tolist()) if code < len(words)}
            column.codes = places[column.codes]
