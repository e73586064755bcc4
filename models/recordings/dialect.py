"""How one text file is laid out: what parts its cells, where its header, units and first row are.

Decided from the first lines and some of everywhere. Two ways that are as good as each other are asked.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from models.errors import RecordingError
from models.recordings.grid import split
from models.recordings.headers import Header
from models.recordings.numerals import is_value
from models.recordings.questions import Question, QuestionsOpen
from models.recordings.recording import shown
from models.recordings.row_lines import (
    check_above,
    check_commas,
    first_of_rows,
    has_points,
    has_values,
    looks_like_row,
    numbers_as_names,
    worth,
)
from models.recordings.text import TextFile

__all__ = ["Dialect", "found_dialect"]

_DELIMITERS: Final = (",", ";", "\t", "|", " ")
_DELIMITER_NAMES: Final = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|", "space": " ", "none": ""}
_COMMENTS: Final = "#%"
_RULE: Final = re.compile(r"[-+=|:_ \t]{3,}")
_LEAST_REGULAR: Final = 0.6
_LEAST_WORTH: Final = 0.7
_TIE: Final = 0.02
_DECIMAL_PAIR: Final = re.compile(r"[+-]?\d+,\d+", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """`names` and `units` have one entry for each of the columns; "" is a nameless one, `header_line` 0 is no header at all.

    `header_rows` are what a header repeated in mid-file looks like; `first_line` is that of the first row; `body` are sampled rows.
    `has_stamp_pair` tells that a date and a time of day were parted by the delimiter and share one name, at that place.
    """

    delimiter: str
    comment: str
    names: tuple[str, ...]
    units: tuple[str, ...]
    header_line: int
    first_line: int
    header_rows: tuple[tuple[str, ...], ...]
    preamble: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    settled: tuple[tuple[str, str], ...]

    @property
    def width(self) -> int:
        """Cells of a line."""
        return len(self.names)


def found_dialect(text: TextFile, answers: Mapping[str, str]) -> Dialect:
    """The layout of a file.

    Raises:
        RecordingError: no table can be seen; the message shows the line.
        QuestionsOpen: two layouts are as good as each other.
    """
    lines = _logical(text.head)
    forced = answers.get("delimiter")
    if lines and (found := re.fullmatch(r"\ufeff?\"?sep=(.)\"?", lines[0][1].strip(), re.IGNORECASE)):
        forced = forced or next((name for name, d in _DELIMITER_NAMES.items() if d == found[1]), None)
        lines = lines[1:]
    filled = [(n, line) for n, line in lines if line.strip() and not _RULE.fullmatch(line)]
    if not filled:
        raise RecordingError(f"{text.path}: is empty; a recording has a line for each moment")
    comment = next((c for c in _COMMENTS if any(line.startswith(c) for _, line in filled)), "")
    said = [(n, line) for n, line in filled if not (comment and line.startswith(comment))]
    if not said:
        raise RecordingError(
            f"{text.path}: holds nothing but comments; a recording has a line for each moment"
        )
    spread = [line for line in text.spread if line.strip() and not (comment and line.startswith(comment))]
    body = [line for _, line in said[max(len(said) > 1, len(said) // 3) :]] + spread
    delimiter = _DELIMITER_NAMES[forced] if forced in _DELIMITER_NAMES else _found_delimiter(said, body, text)
    return _laid_out(text, delimiter, comment, filled, body, answers)


def _logical(lines: Sequence[str]) -> list[tuple[int, str]]:
    """Lines with their numbers; a quoted name over several lines is one of them."""
    found: list[tuple[int, str]] = []
    number = 0
    while number < len(lines):
        line, first = lines[number], number
        if line.count('"') % 2:
            more = next(
                (k for k in range(1, 9) if number + k < len(lines) and lines[number + k].count('"') % 2), 0
            )
            line = " ".join(lines[number : number + more + 1])
            number += more
        found.append((first + 1, line))
        number += 1
    return found


def _found_delimiter(said: Sequence[tuple[int, str]], body: Sequence[str], text: TextFile) -> str:
    scores: dict[str, tuple[float, int]] = {}
    for delimiter in _DELIMITERS:
        if delimiter == " " and any(score >= _LEAST_WORTH for score, _ in scores.values()):
            break
        rows = [split(line, delimiter) for line in body]
        width, regular = Counter(len(row) for row in rows).most_common(1)[0]
        if width < 2 or regular < _LEAST_REGULAR * len(rows):
            continue
        cells = [cell for row in rows if len(row) == width for cell in row]
        scores[delimiter] = (regular / len(rows) * sum(map(worth, cells)) / len(cells), width)
    single = sum(worth(line.strip().strip('"')) for line in body) / len(body)
    if single > 0.9 and not ("," in scores and scores[","][0] >= _LEAST_WORTH):
        return ""
    if "," in scores and scores[","][1] == 2 and _is_decimal_column(body):
        header = split(said[0][1], ",")
        if any(is_value(cell) for cell in header):
            raise QuestionsOpen(
                Question(
                    key="delimiter",
                    text=f"{shown(body[0])} is two cells, or one number with a decimal comma",
                    allowed=("comma", "none"),
                    path=text.path,
                    line=said[0][0],
                )
            )
        return "," if len(header) == 2 else ""
    if not scores:
        line, example = said[len(said) // 2]
        raise RecordingError(
            f"{text.path}:{line}: {shown(example)} is no line of a table; export it as CSV, each line with as many cells as the header"
        )
    best = max(scores, key=lambda d: scores[d][0])
    others = [d for d in scores if d != best and scores[d][0] >= max(scores[best][0] - _TIE, _LEAST_WORTH)]
    if others and scores[best][0] >= _LEAST_WORTH:
        names = {d: name for name, d in _DELIMITER_NAMES.items()}
        raise QuestionsOpen(
            Question(
                key="delimiter",
                text=f"{shown(body[0])} can be parted in more than one way",
                allowed=tuple(names[d] for d in (best, *others)),
                path=text.path,
                line=said[-1][0],
            )
        )
    return best


def _is_decimal_column(body: Sequence[str]) -> bool:
    return all(_DECIMAL_PAIR.fullmatch(line.strip()) for line in body)


def _laid_out(
    text: TextFile,
    delimiter: str,
    comment: str,
    filled: Sequence[tuple[int, str]],
    body: Sequence[str],
    answers: Mapping[str, str],
) -> Dialect:
    rows = [split(line, delimiter) for line in body]
    width = Counter(map(len, rows)).most_common(1)[0][0]
    if width > 1 and all(row[-1] == "" for row in rows if len(row) == width):
        # Each line ends with a delimiter; so may the header, or not: HOBO names columns that are empty but for events.
        widest = [cells for _, line in filled if len(cells := split(line, delimiter)) >= width]
        width -= not (widest and len(widest[0]) == width and widest[0][-1])
    table = [tuple(row[:width]) for row in rows if len(row) >= width and not any(row[width:])]
    is_valued = [has_values([row[c] for row in table]) for c in range(width)]
    if not any(is_valued):
        raise RecordingError(
            f"{text.path}:{filled[-1][0]}: {shown(filled[-1][1])} holds words and no numbers; a recording has a column for each sensor"
        )
    split_lines = [
        (line, tuple(split(content.lstrip(comment) if comment else content, delimiter)), content)
        for line, content in filled
    ]
    start = _first_row(split_lines, width, is_valued, comment)
    if start is None:
        raise RecordingError(
            f"{text.path}: no row of {width} cells with numbers among its first {len(text.head)} lines; remove what stands before the table"
        )
    start = first_of_rows(split_lines, start, table, width)
    check_above(split_lines[:start], table, is_valued, comment, text.path)
    head = Header(text, split_lines[:start], width, comment)
    notes = list(head.notes)
    settled: list[tuple[str, str]] = [
        ("delimiter", next(n for n, d in _DELIMITER_NAMES.items() if d == delimiter))
    ]
    first = split_lines[start]
    if not head.names and (
        as_header := numbers_as_names(first[1][:width], table, text.path, first[0], answers)
    ):
        settled.append(("header", as_header))
        if as_header == "yes":
            head.names, head.line = list(first[1][:width]), first[0]
            head.rows.append(tuple(head.names))
            first = split_lines[start + 1]
    if head.names and delimiter == "," and not has_points(table):
        for c in range(1, width):
            if not head.names[c] and any(row[c] for row in table):
                raise RecordingError(
                    f"{text.path}:{head.line}: the header has no name for column {c + 1}, which holds {shown(next(row[c] for row in table if row[c]))}: are there "
                    f"commas in the numbers? write decimal points, or part the cells by semicolons"
                )
    if not head.names and delimiter == ",":
        check_commas(table, text.path, first[0], answers)
    if not head.names and width > 10 and len(table) * 3 < width and not is_valued[0]:
        raise RecordingError(
            f"{text.path}:{first[0]}: {len(table)} lines of {width} cells that begin with a word: the table lies on its side; turn it so that each line is a "
            f"moment, and each column a sensor"
        )
    if not head.names:
        notes.append("it has no header; its columns are f0, f1, … in the file's order")
        if said := [raw for raw in head.preamble if not (comment and raw.startswith(comment))]:
            notes.append(
                f"{len(said)} lines before the first row were passed over, such as {shown(said[-1])}"
            )
    names = head.names or [f"f{c}" for c in range(width)]
    return Dialect(
        delimiter=delimiter,
        comment=comment,
        names=tuple(names),
        units=tuple(head.units or [""] * width),
        header_line=head.line,
        first_line=first[0],
        header_rows=tuple(head.rows),
        preamble=tuple(head.preamble),
        body=tuple(table),
        notes=tuple(notes),
        settled=tuple(settled),
    )


def _first_row(
    lines: Sequence[tuple[int, tuple[str, ...], str]], width: int, is_valued: Sequence[bool], comment: str
) -> int | None:
    """The first line that is a row and is followed by rows."""
    told = [at for at, (_, _, raw) in enumerate(lines) if not (comment and raw.startswith(comment))]
    are_rows = [looks_like_row(lines[at][1], width, is_valued) for at in told]
    for place, is_row in enumerate(are_rows):
        following = are_rows[place : place + 6]
        if is_row and sum(following) > len(following) / 2:
            return told[place]
    return None
