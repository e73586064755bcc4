"""Many lines at once as a grid of cells: where each begins and stops, without a Python object for any of them.

Quotes are followed by counting them. A block whose quotes do not enclose whole cells is taken line by line, and a quote in mid-cell is
a character. Lines with another number of cells than the table are handed out as text: what they are is not decided here.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Grid", "as_bytes", "cell", "chars_at", "cut", "split"]

_LF: Final = ord("\n")
_QUOTE: Final = ord('"')
_SPACE: Final = ord(" ")
_LONGEST_CELL: Final = 64
"""Bytes of a cell that are looked at; a longer one is no number, time or category."""
_SEPARATOR: Final = "\x1f"
"""Parts cells where they were cut one line at a time."""
_RULE: Final = re.compile(r"[-+=|: \t]{3,}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """`starts` and `stops` (rows, width) index `content`; `lines` (rows,) is where each row lies in the file; `odd` are other lines."""

    content: NDArray[np.uint8]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    lines: NDArray[np.int64]
    odd: tuple[tuple[int, str], ...]


def split(text: str, delimiter: str) -> list[str]:
    """The cells of one line, without quotes and spaces around them; a delimiter of " " is any run of spaces, "" is none.

    >>> split('a; "b;c" ;', ";"), split("  1   2", " ")
    (['a', 'b;c', ''], ['1', '2'])
    """
    if not delimiter:
        return [text.strip().strip('"')]
    if delimiter == " ":
        text, delimiter = re.sub(r"[ \t]+", "\t", text.strip()), "\t"
    skips = delimiter != "\t"
    cells = text.split(
        delimiter
    )  # where quotes are no quotes: a single one, or one around more than csv reads
    # Spaces behind a quote are forgiven.
    for is_strict in (True, False) if text.count('"') % 2 == 0 else ():
        with suppress(csv.Error):
            cells = next(
                csv.reader([text], delimiter=delimiter, skipinitialspace=skips, strict=is_strict), []
            )
            break
    return [cell.strip().strip('"').strip() for cell in cells]


def cut(
    block: bytes, first_line: int, delimiter: str, width: int, comment: str, *, is_strict: bool = False
) -> Grid:
    """Cut whole lines into cells; `width` is how many each has, `comment` what a line begins with that has none ("" for nothing).

    If `is_strict`, each space parts two cells, quotes that enclose no whole cell make no rows, and a delimiter at a line's end is a cell.
    """
    if delimiter == " " and not is_strict:
        block = re.sub(rb"(?m)^[ \t]+|[ \t]+$", b"", block)
        block = re.sub(rb"[ \t]+", b"\t", block)
        delimiter = "\t"
    content = np.frombuffer(block, np.uint8)
    mark = ord(delimiter or _SEPARATOR)
    is_end = (content == _LF) | (content == mark)
    if b'"' in block:
        inside = (np.cumsum(content == _QUOTE) & 1).astype(bool)
        if _encloses_whole_cells(content, is_end, inside, may_have_spaces=not is_strict):
            is_end &= ~inside
        elif is_strict:
            nowhere = np.empty((0, width), np.int64)
            return Grid(content=content, starts=nowhere, stops=nowhere, lines=nowhere[:, 0], odd=())
        else:
            lines = block.decode("utf-8", "replace").split("\n")[:-1]
            block = "".join(_SEPARATOR.join(split(line, delimiter)) + "\n" for line in lines).encode()
            content, mark = np.frombuffer(block, np.uint8), ord(_SEPARATOR)
            is_end = (content == _LF) | (content == mark)
    ends = np.flatnonzero(is_end)
    breaks = np.flatnonzero(content[ends] == _LF)
    widths = np.diff(breaks, prepend=-1)
    firsts = breaks - widths + 1
    begins = np.append(0, ends[:-1] + 1)
    line_starts, line_stops = begins[firsts], ends[breaks]
    numbers = first_line + np.arange(len(breaks))
    if b'"' in block:
        # A line of the table may go over several of the file.
        numbers = first_line + np.append(0, np.cumsum(np.add.reduceat(content == _LF, line_starts))[:-1])
    is_row = widths == width
    # A delimiter at a line's end is no cell where the table has none there.
    is_trailing = (widths == width + 1) & (ends[breaks] == begins[breaks])
    is_row |= is_trailing & (not is_strict)
    is_blank = line_starts == line_stops
    if width == 1:
        is_row &= ~is_blank
    if comment:
        is_row &= content[np.minimum(line_starts, len(content) - 1)] != ord(comment)
    odd = tuple(
        (int(numbers[k]), text)
        for k in np.flatnonzero(~is_row & ~is_blank)
        if _says_something(
            text := _text(block, int(line_starts[k]), int(line_stops[k]), mark, delimiter), comment
        )
    )
    cells = firsts[is_row][:, None] + np.arange(width)
    starts, stops = _trimmed(content, begins[cells], ends[cells])
    return Grid(content=content, starts=starts, stops=stops, lines=numbers[is_row], odd=odd)


def chars_at(grid: Grid, places: Sequence[int]) -> NDArray[np.uint8]:
    """The cells of some columns, one column behind the other, as characters (longest, rows * places), padded with NUL.

    Of a cell that is too long there are the first ones and a ``~``.
    """
    starts = grid.starts[:, places].T.reshape(-1).astype(np.int32)
    lengths = grid.stops[:, places].T.reshape(-1).astype(np.int32) - starts
    longest = int(min(max(1, lengths.max(initial=1)), _LONGEST_CELL))
    padded = np.append(grid.content, np.zeros(longest, np.uint8))
    found = np.empty((longest, len(starts)), np.uint8)
    for offset in range(longest):
        found[offset] = padded[starts + offset]
        found[offset][lengths <= offset] = 0
    found[-1, lengths > _LONGEST_CELL] = ord("~")
    return found


def as_bytes(chars: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """Characters (longest, n) as n byte strings."""
    return np.ascontiguousarray(chars.T).view(f"S{len(chars)}")[:, 0]


def cell(grid: Grid, row: int, place: int) -> str:
    """One cell as text."""
    return grid.content[grid.starts[row, place] : grid.stops[row, place]].tobytes().decode("utf-8", "replace")


def _says_something(text: str, comment: str) -> bool:
    return bool(text.strip()) and not (comment and text.startswith(comment)) and not _RULE.fullmatch(text)


def _text(block: bytes, start: int, stop: int, mark: int, delimiter: str) -> str:
    text = block[start:stop].decode("utf-8", "replace")
    return text.replace(_SEPARATOR, delimiter) if mark == ord(_SEPARATOR) else text


def _encloses_whole_cells(
    content: NDArray[np.uint8], is_end: NDArray[np.bool_], inside: NDArray[np.bool_], *, may_have_spaces: bool
) -> bool:
    quotes = np.flatnonzero(content == _QUOTE)
    if len(quotes) % 2:
        return False
    opening, closing = quotes[::2], quotes[1::2]
    is_edge = is_end | (content == _SPACE) | (content == _QUOTE) if may_have_spaces else is_end
    return bool(
        (is_edge[np.maximum(opening - 1, 0)] | (opening == 0)).all()
        and is_edge[np.minimum(closing + 1, len(content) - 1)].all()
        and not inside[-1]
        # A cell over many lines is a quote that was never closed.
        and not (np.count_nonzero(inside & (content == _LF)) > len(opening))
    )


def _trimmed(
    content: NDArray[np.uint8], starts: NDArray[np.int64], stops: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Without spaces around the cells, then without quotes around them, then again without spaces."""
    starts, stops = _without_spaces(content, starts, stops)
    if (content == _QUOTE).any():
        last = np.maximum(stops - 1, 0)
        at = np.minimum(starts, max(0, len(content) - 1))
        is_quoted = (stops - starts >= 2) & (content[at] == _QUOTE) & (content[last] == _QUOTE)
        starts, stops = _without_spaces(content, starts + is_quoted, stops - is_quoted)
    return starts, stops


def _without_spaces(
    content: NDArray[np.uint8], starts: NDArray[np.int64], stops: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    starts, stops = starts.copy(), stops.copy()
    last = max(0, len(content) - 1)
    while (blank := (starts < stops) & _is_space(content[np.minimum(starts, last)])).any():
        starts += blank
    while (blank := (starts < stops) & _is_space(content[np.maximum(stops - 1, 0)])).any():
        stops -= blank
    return starts, stops


def _is_space(found: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray((found == _SPACE) | (found == ord("\t")))
