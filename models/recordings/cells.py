"""What the cells of a CSV say in numbers, one by one: the definition that `blocks` is a fast way to.

A cell is a number with a decimal point; empty, or one of the words for it, it is missing (NaN); ``true`` and ``false`` are 1 and 0.
Everything else is refused with a hint, and so is what Python alone would take (``1_000``) or float32 cannot hold.

`slow_rows` also finds the place of a fault.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import RecordingError
from models.recordings.recording import shown
from models.recordings.stamps import is_timestamp

__all__ = [
    "FLAGS",
    "MISSING",
    "Layout",
    "decoded",
    "is_number",
    "looks_like_value",
    "number",
    "slow_rows",
    "split_line",
]

MISSING: Final = frozenset({"", "nan", "+nan", "-nan", "na", "n/a", "#n/a", "null", "none", "?", "-"})
"""Words for a value that is missing, in any case of their letters."""
FLAGS: Final = {"true": 1, "false": 0}
_NUMBER: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_GROUPED: Final = re.compile(r"[+-]?\d{1,3}(?:[,.' \u00a0\u202f]\d{3})+(?:[.,]\d+)?", re.ASCII)
_WITH_UNIT: Final = re.compile(rf"{_NUMBER.pattern} ?[^\d\s,;_.]{{1,8}}", re.ASCII)
_DECIMAL_COMMA: Final = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?", re.ASCII)
_INFINITE: Final = 2.0**128 - 2.0**103
"""The least number that float32 rounds to infinity."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the lines of one file are cut: `names` of all columns ("" for a nameless one), and the `places` of those that are read."""

    where: str
    delimiter: str
    names: tuple[str, ...]
    places: tuple[int, ...]


def number(cell: str) -> float:
    """What a cell says; NaN where it says that a value is missing.

    >>> number(" 1e3 "), number("true"), number("null")
    (1000.0, 1.0, nan)

    Raises:
        ValueError: it says no finite number; the text tells what it may be and what would be valid.
    """
    cell = cell.strip()
    if _NUMBER.fullmatch(cell):
        if abs(found := float(cell)) < _INFINITE:
            return found
        raise ValueError("which is beyond float32 (3.4e38)")
    word = cell.casefold()
    if word in MISSING:
        return math.nan
    if word in FLAGS:
        return float(FLAGS[word])
    hint = next(hint for fits, hint in _HINTS if fits(cell))
    raise ValueError(f"which is not a finite number; {hint}")


def is_number(cell: str) -> bool:
    """Is `cell`, without spaces around it, a number as we read one?"""
    return _NUMBER.fullmatch(cell) is not None


def looks_like_value(cell: str) -> bool:
    """Is `cell` a value that nobody would name a column by: a time, or a number with more to it than digits?"""
    is_plain = cell.isdigit() or not (is_number(cell) or _DECIMAL_COMMA.fullmatch(cell))
    return not is_plain or is_timestamp(cell)


_HINTS: Final[tuple[tuple[Callable[[str], object], str], ...]] = (
    (_GROUPED.fullmatch, "write it without thousands separators and with a decimal point"),
    (_DECIMAL_COMMA.fullmatch, "write a decimal point instead of the comma"),
    (lambda cell: is_number(cell.replace("_", "")), "write it without underscores"),
    (is_timestamp, "it is a time: leave its column out by naming the others in columns"),
    (
        lambda cell: cell.casefold().lstrip("+-") in {"inf", "infinity", "1.#inf"},
        "leave the cell empty where a value is missing",
    ),
    (
        lambda cell: all(is_number(part) for part in cell.split()),
        "are there several cells in one? set the delimiter that parts them",
    ),
    (_WITH_UNIT.fullmatch, "write the number alone, without a unit"),
    (
        lambda _: True,
        "leave a column of text out by naming the others in columns; a category becomes one 0/1 column for each of its values",
    ),
)
"""For a cell that is no number, the first that fits."""


def split_line(text: str, delimiter: str) -> list[str]:
    """The cells of one line, quotes taken off; raises ValueError for quotes that are never closed or end in mid-cell."""
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise ValueError(str(error)) from None


def slow_rows(block: bytes, first_line: int, layout: Layout) -> tuple[NDArray[np.float32], int]:
    """The values (rows, picked columns) of whole lines, and how many lines have none: blank ones, and comments (#).

    Raises:
        RecordingError: with file, line and column of the first cell, or line, that is none.
    """
    rows, passed_over = [], 0
    for line, raw in enumerate(block.split(b"\n")[:-1], first_line):
        where = f"{layout.where}:{line}"
        text = decoded(raw, where)
        if text.startswith("#") or not (text.strip() or (text and layout.delimiter.isspace())):
            passed_over += 1
        else:
            rows.append(_numbers(text, where, layout))
    return np.array(rows, np.float32).reshape(len(rows), len(layout.places)), passed_over


def decoded(raw: bytes, where: str) -> str:
    """One line as text; raises RecordingError for bytes that are none."""
    if b"\0" in raw:
        raise RecordingError(
            f"{where}: holds NUL bytes; it is no text in UTF-8, or was cut off by a power failure"
        )
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise RecordingError(
            f"{where}: byte {raw[error.start]:#04x} is no text in UTF-8; save the file as UTF-8"
        ) from None


def _numbers(text: str, where: str, layout: Layout) -> list[float]:
    try:
        cells = split_line(text, layout.delimiter)
    except ValueError as error:
        raise RecordingError(f"{where}: {error}; a quoted cell ends in its line") from None
    width = len(layout.names)
    if len(cells) != width:
        raise RecordingError(
            f"{where}: {len(cells)} cells, but the header names {width} columns{_width_hint(cells, width, layout.delimiter)}"
        )
    numbers = []
    for place in layout.places:
        try:
            numbers.append(number(cells[place]))
        except ValueError as error:
            raise RecordingError(
                f"{where}: column {shown(layout.names[place])} holds {shown(cells[place])}, {error}"
            ) from None
    return numbers


def _width_hint(cells: Sequence[str], width: int, delimiter: str) -> str:
    if len(cells) == width + 1 and not cells[-1].strip():
        return "; the line ends with a delimiter and the header does not"
    if delimiter == "," and len(cells) == 2 * width:
        return "; are there commas in the numbers? write decimal points"
    return ""
