"""Lines of a file that are no rows of its table: the header again, a footer, lines of another width, a torn end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from models.errors import RecordingError
from models.recordings.dialect import Dialect
from models.recordings.numerals import is_value
from models.recordings.recording import shown
from models.recordings.stamps import is_stamp
from models.recordings.text import TextFile

__all__ = ["OddLines", "is_torn_number"]

_MOST_RAGGED: Final = 0.05
"""Share of lines of another width beyond which the table was not understood."""


class OddLines:
    """Gathers them while a file is read; what must not be passed over is refused at once."""

    def __init__(self, text: TextFile, dialect: Dialect) -> None:
        self._text, self._dialect = text, dialect
        self._names = frozenset(name for name in dialect.names if name)
        self._odd: list[tuple[int, str]] = []
        self._repeated = 0

    def take(self, row: tuple[str, ...], line: int) -> None:
        """One more; raises RecordingError for another header."""
        if row in self._dialect.header_rows or row[: self._dialect.width] in self._dialect.header_rows:
            self._repeated += 1
            return
        names = self._names
        unsaid = [c for c in row if c and not is_stamp(c)]
        if unsaid and all(
            cell == name for cell, name in zip(row, self._dialect.names, strict=False) if cell in unsaid
        ):
            self._repeated += 1
            return
        if len(row) >= 2 and self._dialect.header_line:
            alike = sum(cell in names for cell in row if cell)
            if alike >= max(2, sum(bool(cell) for cell in row) / 2):
                raise RecordingError(
                    f"{self._text.path}:{line}: another header, {shown(','.join(row))}; cut the file there into two recordings"
                )
        told = [cell for cell in row if cell]
        if (
            len(row) == self._dialect.width
            and len(told) > max(1, len(row) // 2)
            and not any(is_value(c) or is_stamp(c) for c in told)
        ):
            raise RecordingError(
                f"{self._text.path}:{line}: {shown(','.join(row))} holds no value in any column: is it another header? cut the file there, or remove the line"
            )
        self._odd.append((line, ",".join(row)))

    def closed(self, last_line: int, count: int) -> list[str]:
        """What has to be said of all, once the last of `count` rows is known to be in `last_line`; raises RecordingError for too many."""
        notes: list[str] = []
        path = self._text.path
        footer = [odd for odd in self._odd if odd[0] > last_line]
        ragged = [odd for odd in self._odd if odd[0] <= last_line]
        if (
            not self._text.has_end
            and footer
            and footer[-1][0] > self._text.lines - 1
            and _is_torn(footer[-1][1])
        ):
            line, content = footer.pop()
            notes.append(
                f"line {line}, {shown(content)}, ends in its middle, as when power is lost, and was left out"
            )
        if footer:
            notes.append(
                f"line {footer[0][0]} and {len(footer) - 1} after it, {shown(footer[0][1])}, follow the table and were left out"
            )
        if len(ragged) > max(3, _MOST_RAGGED * count):
            line, content = ragged[0]
            raise RecordingError(
                f"{path}:{line}: {shown(content)} has another number of cells than the {self._dialect.width} columns, as have {len(ragged)} lines of "
                f"{count + len(ragged)}; export it again, with quotes around cells that hold the delimiter"
            )
        if ragged:
            at = ", ".join(str(line) for line, _ in ragged[:5])
            notes.append(
                f"{len(ragged)} lines have another number of cells than the {self._dialect.width} columns and were left out: line {at}"
                f"{' and more' if len(ragged) > 5 else ''}"
            )
        if self._repeated:
            notes.append(f"the header comes {self._repeated} more times and was passed over")
        return notes


def _is_torn(content: str) -> bool:
    return any(is_value(cell) or is_stamp(cell) for cell in content.split(","))


def is_torn_number(last: str, others: Sequence[str]) -> bool:
    """Has the last number of a file that does not end its last line fewer decimals than all others have?

    >>> is_torn_number("11", ["1184.6", "1190.2", "1200.0"]), is_torn_number("1184.6", ["1184.6", "1190.2", "1200.0"])
    (True, False)
    """
    told = [_decimals(other) for other in others if other]
    return len(told) > 2 and len(set(told)) == 1 and _decimals(last) < told[0] and is_value(last or "0")


def _decimals(number: str) -> int:
    """Of a number as it is written; 0 of another."""
    found = re.fullmatch(r"[+-]?\d*[.,](\d+)", number.strip('"'))
    return len(found[1]) if found else 0
