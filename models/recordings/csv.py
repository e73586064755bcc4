"""The door for CSV: a header, then lines of numbers, read in pieces straight into float32.

::

    file ─► survey: header, a few lines, how many lines, is the last one whole? ─► layout: which columns
         ─► again, block by block: `blocks.fast_rows`, or `cells.slow_rows` where it is not sure ─► clocks out ─► Recording

The file is read twice so that the table is allocated once: a million rows of four columns take little more than their own 16 MB.
A line without an end is what a power failure leaves; it is told and not believed. Lines may end in LF, CRLF or CR.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import RecordingError
from models.recordings.blocks import fast_rows
from models.recordings.cells import (
    MISSING,
    Layout,
    decoded,
    is_number,
    looks_like_value,
    slow_rows,
    split_line,
)
from models.recordings.clocks import without_clocks
from models.recordings.files import foreign_format, open_recording
from models.recordings.recording import (
    Recording,
    check_names,
    check_size,
    left_out,
    places_of,
    shown,
)
from models.recordings.stamps import is_timestamp

__all__ = ["read_csv"]

_BLOCK_BYTES: Final = 1 << 17
_LONGEST_LINE: Final = 1 << 20
"""64 bytes for each of the most columns that are read."""
_SAMPLE_LINES: Final = 20
_LF: Final = ord("\n")
_BOM: Final = b"\xef\xbb\xbf"
_DELIMITERS: Final = frozenset(",;\t| :!~^&/")


@dataclass(frozen=True, kw_only=True)
class _Survey:
    """What a first look at a file found: its header in line `header_line`, cells of some lines after it, `lines` in all."""

    header_line: int
    header: tuple[str, ...]
    sample: list[list[str]]
    lines: int
    torn: bytes


def read_csv(path: Path, *, columns: Sequence[str] = (), delimiter: str = ",") -> Recording:
    """Read the named columns of a CSV file in this order; by default all of them but clocks and nameless ones.

    Args:
        path: the file, UTF-8 with or without a byte-order mark; its first line names the columns.
        columns: names to read, clocks too where they are named.
        delimiter: what parts the cells.

    Raises:
        RecordingError: no such file, no header, a column that is not there or named twice, or a cell that is no number; with file,
            line and column.
    """
    if delimiter not in _DELIMITERS:
        raise RecordingError(f"delimiter {delimiter!r} parts no cells; use one of {sorted(_DELIMITERS)}")
    with open_recording(path) as (file, size):
        survey = _surveyed(file, size, path, delimiter)
        layout, notes = _laid_out(survey, path, columns, delimiter)
        most_rows = min(survey.lines, size // len(survey.header))
        if not most_rows:
            raise RecordingError(f"{path}: the recording has a header but no rows{_torn(survey)}")
        check_size((most_rows, len(layout.places)), str(path))
        rows, passed_over = _read_rows(file, size, survey, layout, most_rows)
    if not len(rows):
        raise RecordingError(f"{path}: the recording has a header but no rows{_torn(survey)}")
    if passed_over:
        notes.append(f"{passed_over} lines without cells, blank ones and comments (#), were passed over")
    if survey.torn:
        notes.append(f"the last line was left out{_torn(survey)}")
    names = tuple(layout.names[place] for place in layout.places)
    found = Recording(rows=rows, names=names, notes=tuple(notes))
    return (found if columns else without_clocks(found, str(path))).with_remarks()


def _torn(survey: _Survey) -> str:
    if not survey.torn:
        return ""
    text = survey.torn.decode(errors="replace")
    return f": {shown(text)} has no end of line, as if the recorder had lost its power while it wrote"


def _read_rows(
    file: BinaryIO, size: int, survey: _Survey, layout: Layout, most_rows: int
) -> tuple[NDArray[np.float32], int]:
    rows = np.empty((most_rows, len(layout.places)), np.float32)
    used = passed_over = 0
    for first, lines, block in _blocks(file, size, layout.where):
        skipped = min(max(survey.header_line + 1 - first, 0), lines)
        body = block.split(b"\n", skipped)[skipped] if skipped else block
        if not body or not lines:
            continue
        values = fast_rows(body, layout)
        if values is None:
            values, more = slow_rows(body, first + skipped, layout)
            passed_over += more
        if used + len(values) > most_rows:
            raise RecordingError(
                f"{layout.where} changed while it was read; read it when its recorder has closed it"
            )
        rows[used : used + len(values)] = values
        used += len(values)
    return rows[:used], passed_over


def _blocks(file: BinaryIO, size: int, where: str) -> Iterator[tuple[int, int, bytes]]:
    """(number of its first line, how many, whole lines that end in LF); last of all what has no end, as 0 lines.

    Reads `size` bytes and no more, whatever a recorder appends meanwhile.
    """
    file.seek(0)
    left, rest, line = size, b"", 1
    while left and (piece := file.read(min(_BLOCK_BYTES, left))):
        left -= len(piece)
        if left == size - len(piece):
            piece = piece.removeprefix(_BOM)
        if piece.endswith(b"\r") and left:
            following = file.read(1)
            left -= len(following)
            piece += following
        if b"\r" in piece:
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        piece = rest + piece
        cut = piece.rfind(b"\n") + 1
        rest = piece[cut:]
        lines = int(np.count_nonzero(np.frombuffer(piece, np.uint8) == _LF))
        if len(rest) > _LONGEST_LINE:
            raise RecordingError(
                f"{where}:{line + lines}: a line of more than {_LONGEST_LINE:,} bytes; is it a CSV file?"
            )
        if cut:
            yield line, lines, piece[:cut]
            line += lines
    if rest:
        yield line, 0, rest


def _surveyed(file: BinaryIO, size: int, path: Path, delimiter: str) -> _Survey:
    if kind := foreign_format(file.read(16)):
        raise RecordingError(f"{path} is no CSV file, but {kind}; save it as CSV in UTF-8")
    header: tuple[str, ...] = ()
    sample: list[list[str]] = []
    header_line, lines, torn = 0, 0, b""
    for first, more, block in _blocks(file, size, str(path)):
        torn = b"" if more else block
        lines += more
        if len(sample) >= _SAMPLE_LINES:
            continue
        # A header that lost its end is one, too, so that the message tells of missing rows.
        for line, raw in enumerate(block.removesuffix(b"\n").split(b"\n"), first):
            if header and raw is torn:
                break
            text = decoded(raw, f"{path}:{line}")
            if not text.strip() or text.startswith("#"):
                continue
            if not header:
                header, header_line = _header(text, f"{path}:{line}", delimiter), line
            elif len(sample) < _SAMPLE_LINES:
                sample.append(_cells(text, delimiter))
            else:
                break
    if not header:
        raise RecordingError(f"{path}: the recording is empty; the first line must name the columns")
    return _Survey(
        header_line=header_line,
        header=header,
        sample=sample,
        lines=max(lines - header_line, 0),
        torn=torn if lines >= header_line and torn.strip(b" \t\x1a") else b"",
    )


def _cells(text: str, delimiter: str) -> list[str]:
    try:
        return [cell.strip() for cell in split_line(text, delimiter)]
    except ValueError:
        return []  # told with its place when the line is read


def _header(text: str, where: str, delimiter: str) -> tuple[str, ...]:
    names = _cells(text, delimiter)
    filled = [name for name in names if name]
    if not filled:
        raise RecordingError(f"{where}: {shown(text)} names no column; the first line must name the columns")
    numbers = [name for name in filled if is_number(name)]
    is_row = len(numbers) == len(filled) or len(set(numbers)) < len(numbers)
    if is_row or any(looks_like_value(name) for name in filled):
        raise RecordingError(
            f"{where}: {shown(text)} holds values; the first line must name the columns, and a line that begins with # is a comment"
        )
    others = [other for other in ",;\t" if other != delimiter and other in text]
    if len(names) == 1 and others:
        raise RecordingError(
            f"{where}: {shown(text)} is one column if {delimiter!r} parts the cells; is delimiter = {others[0]!r} meant?"
        )
    return check_names(names, where, may_be_nameless=True)


def _laid_out(
    survey: _Survey, path: Path, columns: Sequence[str], delimiter: str
) -> tuple[Layout, list[str]]:
    """Which columns are read, and what is to be said of those that are not."""
    names, notes = survey.header, list[str]()
    if columns:
        places, notes = places_of(columns, names, str(path)), left_out(names, columns)
    else:
        places = []
        for place, name in enumerate(names):
            cells = [row[place] for row in survey.sample if place < len(row)]
            said = [cell for cell in cells if cell.casefold() not in MISSING]
            if not name:
                notes.append(f"column {place + 1} has no name and was left out")
            elif said and all(is_timestamp(cell) for cell in said):
                notes.append(f"column {shown(name)} is a clock ({shown(said[0])}) and was left out")
            else:
                places.append(place)
        if not places:
            raise RecordingError(f"{path} has no sensor: {'; '.join(notes[:20])}")
    return Layout(where=str(path), delimiter=delimiter, names=names, places=tuple(places)), notes
