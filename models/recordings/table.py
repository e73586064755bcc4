"""One text file as columns: numbers, stamps and words, read in blocks into arrays that are allocated once.

::

    text ─► dialect ─► kinds and styles from a sample ─► block by block: grid ─► numerals, stamps, words ─► Table
                              ▲                                                        │
                              └── once more where the whole file proves another style ─┘

What a column means is not decided here (`models.recordings.roles`); what is no row (a header again, a footer, a line of another
width) is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import RecordingError
from models.recordings.dialect import Dialect, found_dialect
from models.recordings.grid import Grid, as_bytes, cell, chars_at, cut, split
from models.recordings.numerals import FLAG_WORDS, MISSING_WORDS, Style, is_value, parsed, said
from models.recordings.odd_lines import OddLines, is_torn_number
from models.recordings.raw_columns import RawColumn, Table, forget_unused, own_names, sort_of
from models.recordings.recording import MAXIMUM_COLUMNS, shown
from models.recordings.spacing import hides_in_float32
from models.recordings.stamps import ORDERS, read_stamps
from models.recordings.styles import StyleEvidence, bits, chosen_styles, lost_marks
from models.recordings.text import TextFile, opened_text
from models.recordings.units import unit_of_name
from models.recordings.words import is_time_name

__all__ = ["read_table"]

_MOST_WORDS: Final = 100_000
_MOST_PASSES: Final = 4
_WEIGHED_ROWS: Final = 12
_LARGEST, _LARGE = 3.4028e38, 1e6
"""Beyond, float32 tells neighbours apart no more; epochs and counters are kept in float64."""
_SUMMARY: Final = frozenset(
    [
        "total",
        "totals",
        "sum",
        "summe",
        "mean",
        "average",
        "avg",
        "mittelwert",
        "min",
        "max",
        "std",
        "stdev",
        "count",
        "minimum",
        "maximum",
        "median",
        "gesamt",
        "ende",
        "end",
        "eof",
    ]
)


def read_table(
    path: Path, answers: Mapping[str, str], progress: Callable[[float], None] | None = None
) -> Table:
    """Read one text file.

    Raises:
        QuestionsOpen: its layout or its numbers can be read in two ways.
        RecordingError: it is no table.
    """
    text = opened_text(path, answers)
    dialect = found_dialect(text, answers)
    if dialect.width > MAXIMUM_COLUMNS:
        raise RecordingError(f"{path}: {dialect.width} columns; at most {MAXIMUM_COLUMNS} are read")
    sorts = [sort_of([row[c] for row in dialect.body], dialect.names[c]) for c in range(dialect.width)]
    evidence = StyleEvidence(dialect.width)
    for row in dialect.body:
        for c, content in enumerate(row):
            if sorts[c] == "number":
                evidence.add(c, content, dialect.first_line)
    styles = chosen_styles(evidence, dialect, sorts, path, answers, is_final=False)
    for _ in range(_MOST_PASSES):
        table = _Reader(text, dialect, sorts, styles, evidence).read(progress)
        again = chosen_styles(evidence, dialect, sorts, path, answers, is_final=True)
        words = [
            c.place
            for c in table.columns
            if c.words
            and c.sort == "number"
            and sum(c.flags.values()) == np.count_nonzero(~np.isnan(c.values))
        ]
        if again == styles and not words:
            table.questions += lost_marks(evidence, styles, dialect, path, answers)
            table.questions += bits(dialect, sorts, path, answers)
            table.notes[:0] = [*text.notes, *dialect.notes]
            table.settled = dict(dialect.settled) | table.settled
            return table
        for place in words:
            sorts[place] = "word"
        styles = again
        table.columns.clear()  # two readings at once would be twice the memory
    raise RecordingError(
        f"{path}: its numbers are written in more than one way; write all with decimal points"
    )


class _Reader:
    def __init__(
        self,
        text: TextFile,
        dialect: Dialect,
        sorts: Sequence[str],
        styles: Sequence[Style],
        evidence: StyleEvidence,
    ) -> None:
        self._text, self._dialect, self._sorts, self._evidence = text, dialect, sorts, evidence
        most = text.lines + 1
        names = own_names(dialect.names)
        self._columns = [
            RawColumn(
                name=names[c],
                unit=dialect.units[c] or unit_of_name(dialect.names[c]),
                place=c,
                sort=sorts[c],
                style=styles[c],
            )
            for c in range(dialect.width)
        ]
        numbers = [c for c in range(dialect.width) if sorts[c] == "number"]
        wide = {c for c in numbers if self._is_wide(c)}
        narrow = [c for c in numbers if c not in wide]
        matrix = np.empty((len(narrow), most), np.float32)
        for k, c in enumerate(narrow):
            self._columns[c].values = matrix[k]
        for c in wide:
            self._columns[c].values = np.empty(most)
        for c, sort in enumerate(sorts):
            if sort == "word":
                self._columns[c].codes = np.empty(most, np.int32)
            elif sort == "stamp":
                self._columns[c].stamps = {"": np.empty(most)}
        styled: dict[Style, list[RawColumn]] = {}
        for column in self._columns:
            if column.sort == "number":
                styled.setdefault(column.style, []).append(column)
        self._groups = [*styled.values(), *([c] for c in self._columns if c.sort != "number")]
        self._table = Table(path=text.path, columns=self._columns, count=0, preamble=dialect.preamble)
        self._names = frozenset(name for name in dialect.names if name)
        self._odd = OddLines(text, dialect)
        self._bad_rows: dict[int, str] = {}
        self._last_line, self._last_cell, self._has_dropped = 0, "", False

    def _is_wide(self, c: int) -> bool:
        """Would float32 lose what this column says?"""
        if is_time_name(self._dialect.names[c]):
            return True
        cells = [row[c] for row in self._dialect.body[:200]]
        numbers = [v for v in (said(cell, self._columns[c].style)[0] for cell in cells) if v is not None]
        return any(abs(v) >= _LARGE for v in numbers) or hides_in_float32(numbers)

    def read(self, progress: Callable[[float], None] | None) -> Table:
        dialect, table = self._dialect, self._table
        for first, block in self._text.blocks():
            body, number = block, first
            if first < dialect.first_line:
                skipped = min(dialect.first_line - first, block.count(b"\n"))
                body, number = block.split(b"\n", skipped)[skipped], first + skipped
            if not body:
                continue
            grid = cut(body, number, dialect.delimiter, dialect.width, dialect.comment)
            for line, content in grid.odd:
                self._odd.take(tuple(split(content, dialect.delimiter)), line)
            if len(grid.lines):
                self._take(grid)
            if progress is not None:
                progress(min(1.0, (number + len(grid.lines)) / max(1, self._text.lines)))
        self._close()
        return table

    def _take(self, grid: Grid) -> None:
        table, start = self._table, self._table.count
        count = len(grid.lines)
        told, bad = np.zeros(count, np.int32), np.zeros(count, np.int32)
        pending: list[tuple[RawColumn, NDArray[np.intp], list[str]]] = []
        for columns in self._groups:
            chars = chars_at(grid, [column.place for column in columns])
            if columns[0].sort == "number":
                unknown_of = self._take_numbers(columns, chars, grid, start)
            else:
                cells = as_bytes(chars)
                if columns[0].sort == "word":
                    self._take_words(columns[0], cells, start)
                    continue
                unknown_of = [self._take_stamps(columns[0], cells, start, grid.lines)]
            filled = (chars[0] != 0).reshape(len(columns), count)
            for column, unknown, is_filled in zip(columns, unknown_of, filled, strict=True):
                told += is_filled
                bad[unknown] += 1
                if len(unknown):
                    pending.append(
                        (column, unknown, [cell(grid, at, column.place) for at in unknown.tolist()])
                    )
        named = np.zeros(count, np.int32)
        for _, unknown, texts in pending:
            named[unknown] += [text in self._names for text in texts]
        # A header again, be it behind a time that was put before each line.
        is_row = ~((bad > 0) & ((bad >= told) | ((named == bad) & (bad > 1))))
        for column, unknown, texts in pending:
            self._note_words(
                column,
                [(at, w) for at, w in zip(unknown.tolist(), texts, strict=True) if is_row[at]],
                grid,
                start,
            )
        self._weigh(grid)
        if not is_row.all():
            for at in np.flatnonzero(~is_row).tolist():
                row = tuple(cell(grid, at, place) for place in range(self._dialect.width))
                self._odd.take(row, int(grid.lines[at]))
            self._keep(is_row, start)
            self._has_dropped = True
        kept = np.flatnonzero(is_row)
        if len(kept):
            table.marks.append((start, int(grid.lines[kept[0]])))
            self._last_line = int(grid.lines[kept[-1]])
            if not self._text.has_end:
                self._last_cell = cell(grid, int(kept[-1]), self._dialect.width - 1)
        table.count = start + len(kept)

    def _note_words(
        self, column: RawColumn, found: Sequence[tuple[int, str]], grid: Grid, start: int
    ) -> None:
        for at, word in found:
            number, line = column.words.get(word, (0, int(grid.lines[at])))
            if number or len(column.words) < _MOST_WORDS:
                column.words[word] = (number + 1, line)
            ends_table = column.sort == "stamp" or word.casefold().rstrip(":") in _SUMMARY
            if ends_table and len(self._bad_rows) < _MOST_WORDS:
                self._bad_rows[start + at] = word

    def _keep(self, is_row: NDArray[np.bool_], start: int) -> None:
        stop, kept = start + len(is_row), int(np.count_nonzero(is_row))
        moved = {
            old: start + int(np.count_nonzero(is_row[: old - start]))
            for old in self._bad_rows
            if old >= start
        }
        for old, new in sorted(moved.items()):
            self._bad_rows[new] = self._bad_rows.pop(old)
        for column in self._columns:
            for array in (column.values, column.codes, *column.stamps.values()):
                if len(array):
                    array[start : start + kept] = array[start:stop][is_row]

    def _take_numbers(
        self, columns: Sequence[RawColumn], chars: NDArray[np.uint8], grid: Grid, start: int
    ) -> list[NDArray[np.intp]]:
        """Columns of one style; gives for each which cells say something else."""
        values, others = parsed(chars, columns[0].style)
        count = len(grid.lines)
        unknown: list[list[int]] = [[] for _ in columns]
        for index in others.tolist():
            k, at = divmod(index, count)
            content = cell(grid, at, columns[k].place)
            value = self._said(columns[k], content)
            if value is None:
                unknown[k].append(at)
                if is_value(content):
                    self._evidence.add(columns[k].place, content, int(grid.lines[at]))
            else:
                values[index] = value
        if (is_beyond := np.abs(values) > _LARGEST).any():
            for index in np.flatnonzero(is_beyond).tolist():
                columns[index // count].infinite += 1
            values[is_beyond] = np.nan
        for k, column in enumerate(columns):
            column.values[start : start + count] = values[k * count : (k + 1) * count]
        return [np.array(places, np.intp) for places in unknown]

    def _said(self, column: RawColumn, content: str) -> float | None:
        value, unit = said(content, column.style)
        word = content.casefold()
        if value is None and word in FLAG_WORDS:
            column.flags[word] = column.flags.get(word, 0) + 1
            return FLAG_WORDS[word]
        if unit:
            column.units[unit] = column.units.get(unit, 0) + 1
        elif value is not None and word.strip("+-").startswith(("inf", "1.#inf")):
            column.infinite += 1
        return value

    def _take_stamps(
        self, column: RawColumn, cells: NDArray[np.bytes_], start: int, lines: NDArray[np.int64]
    ) -> NDArray[np.intp]:
        found = read_stamps(cells)
        stop = start + len(cells)
        unknown = np.flatnonzero(~found.is_known & (cells != b""))
        unknown = np.array(
            [
                at
                for at in unknown.tolist()
                if cells[at].decode("utf-8", "replace").casefold() not in MISSING_WORDS
            ],
            np.intp,
        )
        column.zoned += int(np.count_nonzero(found.is_zoned))
        column.fractions |= found.fractions
        column.is_padded |= found.is_padded
        if found.is_known.any():
            column.has_date &= found.has_date
            column.has_time &= found.has_time
            column.has_seconds &= found.has_seconds
        if found.is_ordered and "" in column.stamps:
            only = column.stamps.pop("")
            # The orders share what was read so far.
            column.stamps = {order: only if k == 0 else only.copy() for k, order in enumerate(ORDERS)}
        for order in list(column.stamps):
            seconds = found.seconds[order or ORDERS[0]]
            if order and (lost := np.isnan(seconds) & found.is_known).any():
                at = int(np.argmax(lost))
                column.proof[order] = (cells[at].decode("utf-8", "replace"), int(lines[at]))
                del column.stamps[order]
            else:
                column.stamps[order][start:stop] = seconds
        if not column.stamps:
            proofs = " but ".join(
                f"{cell!r} (line {line}) is not {order}" for order, (cell, line) in column.proof.items()
            )
            raise RecordingError(
                f"{self._text.path}:{max(line for _, line in column.proof.values())}: column {shown(column.name)} writes dates in two orders: {proofs}; "
                f"write all in one"
            )
        return unknown

    def _take_words(self, column: RawColumn, cells: NDArray[np.bytes_], start: int) -> None:
        found, first, inverse = np.unique(cells, return_index=True, return_inverse=True)
        codes = np.empty(len(found), np.int32)
        words = found.tolist()
        for k in np.argsort(first).tolist():
            raw = words[k]
            word = raw.decode("utf-8", "replace")
            if word.casefold() in MISSING_WORDS:
                codes[k] = -1
            elif word in column.vocabulary or len(column.vocabulary) < _MOST_WORDS:
                codes[k] = column.vocabulary.setdefault(word, len(column.vocabulary))
            else:
                codes[k] = _MOST_WORDS
        column.codes[start : start + len(cells)] = codes[inverse]

    def _weigh(self, grid: Grid) -> None:
        """A few rows of each block tell how its numbers are written."""
        for at in range(0, len(grid.lines), max(1, len(grid.lines) // _WEIGHED_ROWS)):
            for column in self._columns:
                if column.sort == "number":
                    self._evidence.add(column.place, cell(grid, at, column.place), int(grid.lines[at]))

    def _close(self) -> None:
        self._drop_summaries()
        table = self._table
        if not self._text.has_end and is_torn_number(
            self._last_cell, [row[-1] for row in self._dialect.body if row[-1] != self._last_cell]
        ):
            table.count -= 1
            table.notes.append(
                f"line {self._last_line} ends in its middle, {shown(self._last_cell)} where all others have more decimals, and was left out"
            )
        for column in self._columns:
            column.values = column.values[: table.count]
            column.codes = column.codes[: table.count]
            column.stamps = {order: seconds[: table.count] for order, seconds in column.stamps.items()}
        if self._has_dropped:
            forget_unused(self._columns)
        table.notes += self._odd.closed(self._last_line, table.count)
        if not table.count:
            raise RecordingError(
                f"{table.path}: has a header but no rows; a recording has a line for each moment"
            )

    def _drop_summaries(self) -> None:
        """Rows at the very end that begin with "Average" or the like are no moments."""
        dropped, first_word = 0, ""
        while (word := self._bad_rows.get(self._table.count - 1)) is not None and dropped < 20:
            self._table.count -= 1
            dropped, first_word = dropped + 1, word
            for column in self._columns:
                if word in column.words:
                    number, line = column.words.pop(word)
                    if number > 1:
                        column.words[word] = (number - 1, line)
        if dropped:
            self._table.notes.append(
                f"the last {dropped} lines, beginning with {shown(first_word)}, sum the table up and were left out"
            )
