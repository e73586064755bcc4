"""What lines are rows, and what the lines around the first row must not be: a table of their own, decimal commas, names that are numbers.

Nothing here decides a layout (`models.recordings.dialect`); each check raises, with the line, where a layout would lose or change something.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Final

from models.errors import RecordingError
from models.recordings.numerals import FLAG_WORDS, LONGEST_NUMBER, MISSING_WORDS, is_value
from models.recordings.questions import Question, QuestionsOpen
from models.recordings.recording import shown
from models.recordings.stamps import is_stamp

__all__ = [
    "IS_VALUE",
    "check_above",
    "check_commas",
    "first_of_rows",
    "has_points",
    "has_values",
    "looks_like_row",
    "numbers_as_names",
    "worth",
]

_LONG_NUMBER: Final = 9
"""Digits of a number that a preamble has no use for, such as seconds since 1970."""
IS_VALUE: Final = 0.9
"""How much a cell must look like a value at least (`worth`) to be taken for one."""
_POINTED: Final = re.compile(r"[+-]?(?:\d*\.(?!\d{3}$)\d*(?:[eE][+-]?\d+)?|0*\.\d{3}|\d{4,}\.\d{3})")
"""A point that can only be a decimal one."""
_FIRST_GROUP: Final = re.compile(r"[+-]?\d{1,3}", re.ASCII)
_GROUP: Final = re.compile(r"\d{3}(?:\.\d*)?", re.ASCII)
_WHOLE: Final = re.compile(r"[+-]?(?:\d{1,18}|\d{1,3}(?:[' .]\d{3}){1,5})", re.ASCII)


@lru_cache(maxsize=65_536)
def worth(cell: str) -> float:
    """How much `cell` looks like one of a recording: 1 for a value, less for a word, least for a sentence."""
    if len(cell) > LONGEST_NUMBER:
        return 0.0
    if cell.casefold() in MISSING_WORDS or cell.casefold() in FLAG_WORDS or is_value(cell) or is_stamp(cell):
        return 1.0
    if is_value(re.sub(r"^'| ?[^\d\s,;.:+-]{1,6}$", "", cell)):
        return 0.9
    return 0.3 if len(cell) <= 24 and not re.search(r"[,;|\t]", cell) else 0.0


def has_values(cells: Sequence[str]) -> bool:
    """Are the cells of a column mostly values?"""
    told = [cell for cell in cells if cell.casefold() not in MISSING_WORDS]
    return bool(told) and sum(worth(cell) >= IS_VALUE for cell in told) >= len(told) / 2


def looks_like_row(cells: Sequence[str], width: int, is_valued: Sequence[bool]) -> bool:
    """Has a line of `width` cells values in most of the columns that have some?"""
    if not (len(cells) == width or (len(cells) == width + 1 and not cells[-1])):
        return False
    told = [
        cell
        for cell, valued in zip(cells, is_valued, strict=False)
        if valued and cell.casefold() not in MISSING_WORDS
    ]
    good = sum(worth(cell) >= IS_VALUE for cell in told)
    return bool(told) and good > len(told) / 2


def check_above(
    lines: Sequence[tuple[int, tuple[str, ...], str]],
    table: Sequence[Sequence[str]],
    is_valued: Sequence[bool],
    comment: str,
    path: Path,
) -> None:
    """Raises where what stands before the first row holds rows: a table of its own, or some of this one above its names."""
    _check_before(lines, len(is_valued), comment, path)
    _check_rows_above(lines, table, is_valued, comment, path)


def first_of_rows(
    lines: Sequence[tuple[int, tuple[str, ...], str]],
    start: int,
    table: Sequence[Sequence[str]],
    width: int,
) -> int:
    """`start`, or above it the first of the lines that have a row's times but words for its values ("I/O Timeout")."""
    stamps = [c for c in range(width) if all(is_stamp(row[c]) for row in table[:20])]
    while stamps and start:
        cells = lines[start - 1][1]
        if len(cells) != width or not all(is_stamp(cells[c]) for c in stamps):
            break
        start -= 1
    return start


def _check_before(
    lines: Sequence[tuple[int, tuple[str, ...], str]], width: int, comment: str, path: Path
) -> None:
    """Raises where what stands before the first row is a table of its own, which would be lost as a preamble."""
    others = [
        (line, raw)
        for line, cells, raw in lines
        if not (comment and raw.startswith(comment))
        and len(cells) > 1
        and (
            sum(is_value(c) or is_stamp(c) for c in cells) * 2 > len(cells)
            or is_stamp(cells[0])
            or (is_value(cells[0]) and len(cells[0]) >= _LONG_NUMBER)
        )
    ]
    if len(others) >= 3:
        line, raw = others[0]
        raise RecordingError(
            f"{path}:{line}: {shown(raw)} and {len(others) - 1} more lines before the table of {width} columns hold values, too: are there two tables in "
            f"the file, or commas in the numbers? cut it, or part the cells by semicolons"
        )


def _check_rows_above(
    lines: Sequence[tuple[int, tuple[str, ...], str]],
    table: Sequence[Sequence[str]],
    is_valued: Sequence[bool],
    comment: str,
    path: Path,
) -> None:
    """Raises where a line above the names has all that a row has, its time too."""
    some = table[:20]
    stamps = [c for c in range(len(is_valued)) if all(is_stamp(row[c]) for row in some)]
    for line, cells, raw in lines if stamps else ():
        is_row = looks_like_row(cells, len(is_valued), is_valued)
        if is_row and not (comment and raw.startswith(comment)) and all(is_stamp(cells[c]) for c in stamps):
            raise RecordingError(
                f"{path}:{line}: {shown(raw)} is a row, and stands above the names of the columns: are there two tables in the file? cut it"
            )


def has_points(table: Sequence[Sequence[str]]) -> bool:
    """Is there a number with a decimal point?"""
    return any(len(cell) <= LONGEST_NUMBER and _POINTED.fullmatch(cell) for row in table for cell in row)


def check_commas(table: Sequence[Sequence[str]], path: Path, line: int, answers: Mapping[str, str]) -> None:
    """Without names, and without one decimal point, 60,2 may be two integers or one number with a decimal comma."""
    told = [
        [cell for row in table if (cell := row[c]).casefold() not in MISSING_WORDS]
        for c in range(len(table[0]))
    ]
    for before, after in pairwise(told):
        is_parted = all(_GROUP.fullmatch(cell) for cell in after) and all(
            _FIRST_GROUP.fullmatch(cell) for cell in before
        )
        if is_parted and any(cell.startswith("0") for cell in after) and "delimiter" not in answers:
            raise QuestionsOpen(
                Question(
                    key="delimiter",
                    text=f"{shown(','.join(table[0]))} has a column of three digits each, some beginning with 0: are its commas all between cells, or do "
                    f"they part thousands (then write the numbers without, or in quotes)",
                    allowed=("comma",),
                    path=path,
                    line=line,
                )
            )
    if has_points(table):
        return
    is_fraction = [all(cell.isdigit() for cell in cells) for cells in told]
    is_whole = [all(_WHOLE.fullmatch(cell) for cell in cells) for cells in told]
    if not any(whole and fraction for whole, fraction in zip(is_whole, is_fraction[1:], strict=False)):
        return
    answer = answers.get("decimal")
    if answer == "comma":
        raise RecordingError(
            f"{path}:{line}: decimal commas between commas cannot be told apart; write decimal points, or part the cells by semicolons"
        )
    if answer is None:
        raise QuestionsOpen(
            Question(
                key="decimal",
                text=f"{shown(','.join(table[0]))} has commas only, and no header says how many columns there are: are some of them decimal commas",
                allowed=("point", "comma"),
                path=path,
                line=line,
            )
        )


def numbers_as_names(
    first: Sequence[str],
    table: Sequence[Sequence[str]],
    path: Path,
    line: int,
    answers: Mapping[str, str],
) -> str:
    """Does a first line of numbers name the columns: "yes", "no", or "" where nobody would ask."""
    if _are_names(first, table):
        return answers.get("header", "yes")
    if not all(cell.isdigit() for cell in first) or len(set(first)) < len(first):
        return ""
    numbers = [int(cell) for cell in first]
    if len(first) > 2 and numbers[0] in {0, 1} and all(b - a == 1 for a, b in pairwise(numbers)):
        return answers.get("header", "yes")
    others = [row for row in table if tuple(row) != tuple(first)]
    is_decimal = [sum(not row[c].isdigit() for row in others) > len(others) / 2 for c in range(len(first))]
    if not all(is_decimal):
        return ""
    if "header" in answers:
        return answers["header"]
    raise QuestionsOpen(
        Question(
            key="header",
            text=f"the first line {shown(','.join(first))} holds integers and the others none: does it name the columns?",
            allowed=("yes", "no"),
            path=path,
            line=line,
        )
    )


def _are_names(first: Sequence[str], table: Sequence[Sequence[str]]) -> bool:
    """date, 0, 1, 2, OT: words where all rows have values, and between them whole numbers that count."""
    words = [
        place for place, cell in enumerate(first) if worth(cell) < IS_VALUE and any(map(str.isalpha, cell))
    ]
    numbers = [int(cell) for cell in first if cell.isdigit()]
    if not words or len(words) + len(numbers) < len(first) or len(set(first)) < len(first):
        return False
    if any(b - a != 1 for a, b in pairwise(numbers)):
        return False
    others = [row for row in table if tuple(row) != tuple(first)]
    return any(all(worth(row[place]) == 1.0 for row in others) for place in words) and bool(others)
