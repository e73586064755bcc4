"""What stands before the first row of a table: units, names, groups of names, a preamble; read from the bottom up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from models.errors import RecordingError
from models.recordings.grid import split
from models.recordings.numerals import is_value
from models.recordings.stamps import is_stamp
from models.recordings.text import TextFile
from models.recordings.units import is_unit
from models.recordings.words import is_time_name

__all__ = ["Header"]

_LONGEST_NAME: Final = 200
_DELIMITERS: Final = (",", ";", "\t", "|", " ")
_TYPE_WORDS: Final = frozenset(
    [
        "float",
        "double",
        "real",
        "int",
        "integer",
        "int32",
        "int64",
        "float32",
        "float64",
        "bool",
        "boolean",
        "string",
        "text",
        "datetime",
        "timestamp",
        "lreal",
        "dint",
        "word",
    ]
)


class Header:
    """What stands before the first row, read from the bottom up: units, names, groups of names, a preamble."""

    def __init__(
        self,
        text: TextFile,
        lines: Sequence[tuple[int, tuple[str, ...], str]],
        width: int,
        comment: str,
    ) -> None:
        self.names: list[str] = []
        self.units: list[str] = []
        self.notes: list[str] = []
        self.rows: list[tuple[str, ...]] = []
        self.line = 0
        self._width, self._text = width, text
        if _is_campbell(lines, width):
            self._take_campbell(lines)
        else:
            self._read_up(list(lines), comment)

    def _take_campbell(self, lines: Sequence[tuple[int, tuple[str, ...], str]]) -> None:
        (_, _, about), (self.line, names, _), (_, units, _), _ = lines
        self.names, self.units, self.preamble = list(names), list(units), [about]
        self.rows = [tuple(cells) for _, cells, _ in lines]
        self.notes.append("it is a table of a Campbell logger: names, units and kinds of means in four lines")

    def _read_up(self, left: list[tuple[int, tuple[str, ...], str]], comment: str) -> None:
        width, text = self._width, self._text
        index: Sequence[str] = [""] * width
        while left and (
            self._is_candidate(left[-1], comment)
            or (
                not self.names
                and len(left[-1][1]) == width
                and not any(map(is_stamp, left[-1][1]))
                and self._stands_on_names(left[:-1], comment)
            )
        ):
            line, cells, _ = left[-1]
            if self.names and not self._is_group(cells):
                break
            left.pop()
            self.rows.append(tuple(cells))
            cells = tuple(self._fitted(cells, line))
            if not self.names and not self.units and self._is_units(cells, left, comment):
                self.units = [cell.strip("[]()") for cell in cells]
            elif (
                not self.names and sum(map(bool, cells)) * 2 < width and self._stands_on_names(left, comment)
            ):
                index = cells
            elif not self.names and all(c.casefold() in _TYPE_WORDS for c in cells if c) and left:
                self.notes.append(f"line {line} holds types and was passed over")
            elif not self.names:
                self.names, self.line = list(cells), line
            else:
                self.names = _grouped(cells, self.names)
        self.names = (
            [name or of_index for name, of_index in zip(self.names, index, strict=True)] if self.names else []
        )
        if not self.names and left and comment and left[-1][2].startswith(comment):
            line, cells, raw = left[-1]
            if len(cells) != width:
                ways = (tuple(split(raw.lstrip(comment), other)) for other in (*_DELIMITERS[:4], " "))
                cells = next((way for way in ways if len(way) == width), cells)
            if len(cells) == width and not any(is_value(c) or is_stamp(c) for c in cells):
                self.names, self.line = [cell.rstrip(",;") for cell in cells], line
                self.notes.append(f"the comment in line {line} names the columns")
                left.pop()
        self._check_left(left, comment)
        for place, name in enumerate(self.names, 1):
            if len(name) > _LONGEST_NAME:
                raise RecordingError(
                    f"{text.path}:{self.line}: the name of column {place} has {len(name)} characters; is it a header?"
                )
        self.preamble = [raw for _, _, raw in left]

    def _check_left(self, left: Sequence[tuple[int, tuple[str, ...], str]], comment: str) -> None:
        """Raises for words right above the rows that are as many as no row has cells: a header of another width is no preamble."""
        if self.names or not left or self._width == 1:
            return
        line, cells, raw = left[-1]
        told = [cell for cell in cells if cell]
        for other in _DELIMITERS[:4]:
            names = split(raw, other)
            if len(names) == self._width and not any(is_value(c) or is_stamp(c) for c in names):
                raise RecordingError(
                    f"{self._text.path}:{line}: the header is parted by {other!r}, the lines after it otherwise; part both in the same way"
                )
        if (
            len(told) > 1
            and not (comment and raw.startswith(comment))
            and not any(is_value(c) or is_stamp(c) for c in told)
        ):
            raise RecordingError(self._other_width(line, len(told)))

    def _is_candidate(self, line: tuple[int, tuple[str, ...], str], comment: str) -> bool:
        _, cells, raw = line
        if comment and raw.startswith(comment):
            return False
        filled = [cell for cell in cells if cell]
        if any(is_stamp(cell) or (is_value(cell) and not cell.isdigit()) for cell in filled):
            return False
        missing = self._width - len(cells)
        is_wide_enough = missing <= 1 or (missing > 0 and len(filled) > self._width // 2)
        if self._width == 1:
            is_wide_enough = not self.names
        return bool(filled) and is_wide_enough and len(filled) * 2 >= self._width * (not self.names)

    def _stands_on_names(self, above: Sequence[tuple[int, tuple[str, ...], str]], comment: str) -> bool:
        """A line that names the index alone, under a line of full width."""
        return bool(above) and len(above[-1][1]) == self._width > 2 and self._is_candidate(above[-1], comment)

    def _is_group(self, cells: Sequence[str]) -> bool:
        """A second line of names is one where the first says some names twice, or leaves some out."""
        filled = [name for name in self.names if name]
        is_poor = len(set(filled)) < len(filled) or len(filled) < len(self.names) - 1
        return is_poor and len(cells) >= self._width - 1 and self._width > 2

    def _fitted(self, cells: Sequence[str], line: int) -> list[str]:
        """Names for each column, where a line has one too few or delimiters too many."""
        found = list(cells)
        while len(found) > self._width and not found[-1]:
            found.pop()
        if len(found) == self._width + 1 and found[-1].casefold() == "comment":
            found.pop()  # LabVIEW names a column that its rows have no cell for
        if len(found) == self._width - 1:
            first = self._first_cells()
            if len(first) > 1 and is_stamp(first[0]) and is_stamp(first[1]) and ":" in first[1]:
                return [*found[:1], f"{found[0]} (time of day)", *found[1:]]
            # With commas, a number with a decimal comma would make one cell more, too.
            has_points = any("." in cell and is_value(cell) for cell in first[1:])
            is_index = first[0].isdigit() or is_stamp(first[0])
            if has_points and is_index and not any(is_time_name(name) for name in found):
                self.notes.append("the header has no name for the first column")
                return ["", *found]
        if len(found) != self._width:
            raise RecordingError(self._other_width(line, len(found)))
        return found

    def _other_width(self, line: int, names: int) -> str:
        hint = "; are there commas in the numbers? write decimal points, or part the cells by semicolons"
        return (
            f"{self._text.path}:{line}: the header has {names} names, the lines after it {self._width} cells"
            f"{hint if self._width > names else ''}"
        )

    def _first_cells(self) -> list[str]:
        rows = [split(line, d) for line in self._text.head[-3:] for d in _DELIMITERS]
        return next((row for row in rows if len(row) == self._width), [""])

    def _is_units(
        self, cells: Sequence[str], above: Sequence[tuple[int, tuple[str, ...], str]], comment: str
    ) -> bool:
        filled = [cell for cell in cells if cell]
        is_above = (
            bool(above) and self._is_candidate(above[-1], comment) and len(above[-1][1]) >= self._width - 1
        )
        return is_above and bool(filled) and sum(is_unit(cell) for cell in filled) >= 0.6 * len(filled)


def _is_campbell(lines: Sequence[tuple[int, tuple[str, ...], str]], width: int) -> bool:
    """TOA5: a line about the logger, names, units, and how each was averaged."""
    return (
        len(lines) == 4
        and lines[0][1][0].strip('"') == "TOA5"
        and all(len(c) == width for _, c, _ in lines[1:])
    )


def _grouped(upper: Sequence[str], lower: Sequence[str]) -> list[str]:
    """Names of two lines in one; a group's name stands over its first column only, or over each."""
    names, group = [], ""
    for above, below in zip(upper, lower, strict=True):
        group = above or group
        names.append(f"{group} {below}".strip() if group != below else below)
    return names
