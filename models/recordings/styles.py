"""Whether 1,234 is a little more than one or more than a thousand: what the cells of a file prove, and what has to be asked.

A mark with other than three digits behind it, or with a 0 before it, is a decimal mark; one that comes twice in a number, or before the
other mark, parts thousands. Where no cell of the file proves either, nobody guesses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from models.recordings.dialect import Dialect
from models.recordings.numerals import LONGEST_NUMBER, Style
from models.recordings.questions import Question, QuestionsOpen
from models.recordings.recording import shown

__all__ = ["StyleEvidence", "chosen_styles", "lost_marks"]

_ONE_MARK: Final = re.compile(r"[+-]?(\d*)([.,])(\d*)(?:[eEdD][+-]?\d+)?", re.ASCII)
_GROUPS: Final = re.compile(r"[+-]?\d{1,3}(?:([,.' ])\d{3})(?:\1\d{3})*(?:([.,])\d+)?", re.ASCII)
_THOUSAND: Final = 1000.0
_LOST: Final = 30.0
_BITS: Final = re.compile(r"[01]{4,}")
_SOME: Final = 0.02
_HINTS_AT_THOUSANDS: Final = 50.0
"""How much larger numbers without a mark are, on average, than those with one, where the mark parts thousands."""


@dataclass
class _Forms:
    """Counts of one column: proofs of a decimal mark, cells in doubt (1.234) by mark, proofs of a mark between thousands."""

    decimal: dict[str, tuple[str, int]] = field(default_factory=dict)
    doubtful: dict[str, tuple[str, int]] = field(default_factory=dict)
    grouped: dict[str, tuple[str, int]] = field(default_factory=dict)
    plain: int = 0
    plain_sum: float = 0.0
    most_plain: float = 0.0
    most_count: int = 0
    marked: int = 0
    marked_sum: float = 0.0


class StyleEvidence:
    """What the cells of each column of a file prove."""

    def __init__(self, width: int) -> None:
        self.columns: list[_Forms] = [_Forms() for _ in range(width)]

    def add(self, place: int, cell: str, line: int) -> None:
        """One more cell."""
        forms = self.columns[place]
        if len(cell) > LONGEST_NUMBER:
            return
        text = re.sub(r" ?[^\d\s,;.:+-]{1,6}$", "", cell) if cell and not cell[-1].isdigit() else cell
        if text.isdigit() or (text[:1] in "+-" and text[1:].isdigit()):
            value = abs(float(text))
            forms.plain += 1
            forms.plain_sum += value
            forms.most_count = forms.most_count + 1 if value == forms.most_plain else forms.most_count
            if value > forms.most_plain:
                forms.most_plain, forms.most_count = value, 1
        elif found := _ONE_MARK.fullmatch(text):
            whole, mark, rest = found.groups()
            is_doubtful = (
                len(rest) == 3 and 1 <= len(whole) <= 3 and whole[0] != "0" and "e" not in text.lower()
            )
            (forms.doubtful if is_doubtful else forms.decimal).setdefault(mark, (cell, line))
            forms.marked += 1
            forms.marked_sum += float(f"{whole or 0}.{rest or 0}")
        elif found := _GROUPS.fullmatch(text):
            forms.grouped.setdefault(found[1], (cell, line))
            if found[2] and found[2] != found[1]:
                forms.decimal.setdefault(found[2], (cell, line))


def chosen_styles(
    evidence: StyleEvidence,
    dialect: Dialect,
    sorts: Sequence[str],
    path: Path,
    answers: Mapping[str, str],
    *,
    is_final: bool,
) -> list[Style]:
    """A style for each column.

    Raises:
        QuestionsOpen: once all of the file was seen (`is_final`), for a column that may be read in two ways.
    """
    columns = [evidence.columns[c] for c, sort in enumerate(sorts) if sort == "number"]
    proved = {mark for forms in columns for mark in forms.decimal}
    parted = {mark for forms in columns for mark in forms.grouped}
    # A mark that parts thousands somewhere leaves the other one as the decimal mark.
    proved |= {
        other
        for mark, other in ((",", "."), (".", ","))
        if mark in parted and other not in proved and not proved
    }
    only = next(iter(proved)) if len(proved) == 1 else ""
    answer = _MARKS.get(answers.get("decimal", ""), "")
    found = []
    for c, sort in enumerate(sorts):
        if sort != "number":
            found.append(Style())
            continue
        forms = evidence.columns[c]
        is_proved = bool(forms.decimal or set(forms.grouped))
        style = (
            _proved_style(forms, only, answer)
            if is_proved
            else _likely_style(forms, only, answer, dialect.delimiter)
        )
        if isinstance(style, str):
            if is_final:
                raise _question(dialect.names[c], path, forms, style)
            style = Style(only or ".")
        found.append(style)
    return found


def bits(dialect: Dialect, sorts: Sequence[str], path: Path, answers: Mapping[str, str]) -> list[Question]:
    """Columns such as 00000101, which are no numbers to the base of ten."""
    found = []
    for c, name in enumerate(dialect.names):
        cells = [row[c] for row in dialect.body if row[c]]
        is_bits = len(cells) > 1 and all(_BITS.fullmatch(cell) for cell in cells)
        if (
            sorts[c] == "number"
            and is_bits
            and any(cell[0] == "0" for cell in cells)
            and f"column:{name}" not in answers
        ):
            text = f"column {shown(name)} holds {shown(cells[0])} and the like: are they bits (then write a column for each), or numbers"
            found.append(
                Question(
                    key=f"column:{name}",
                    text=text,
                    allowed=("leave out", "sensor"),
                    path=path,
                    line=dialect.first_line,
                )
            )
    return found


def lost_marks(
    evidence: StyleEvidence, styles: Sequence[Style], dialect: Dialect, path: Path, answers: Mapping[str, str]
) -> list[Question]:
    """Columns whose numbers without a decimal mark are far larger than those with one, as if it had been lost on the way."""
    found = []
    for name, forms, style in zip(dialect.names, evidence.columns, styles, strict=True):
        count = forms.plain + forms.marked
        if (
            min(forms.plain, forms.marked) < max(2, _SOME * count)
            or f"scale:{name}" in answers
            or style.thousands
        ):
            continue
        # One number that comes again and again, such as -200, stands for a missing one; that is asked for itself.
        again = forms.most_count if forms.most_count > max(2, _SOME * forms.plain) else 0
        plain = (forms.plain_sum - again * forms.most_plain) / max(1, forms.plain - again)
        marked = forms.marked_sum / forms.marked
        if marked > 0 and plain > _LOST * marked:
            found.append(
                Question(
                    key=f"scale:{name}",
                    text=f"column {shown(name)} has whole numbers of {plain:.6g} on average, and numbers with decimals of {marked:.6g}: was a decimal mark "
                    f"lost in some",
                    allowed=("as written",),
                    path=path,
                )
            )
    return found


_MARKS: Final = {"point": ".", "comma": ","}
_BOTH: Final = "writes numbers with both marks"


def _other(mark: str) -> str:
    return "," if mark == "." else "."


def _proved_style(forms: _Forms, only: str, answer: str) -> Style | str:
    """The style that the cells of a column prove, or why they contradict each other."""
    grouped = [mark for mark in forms.grouped if mark not in forms.decimal]
    decimal = next(iter(forms.decimal), "") or next(
        (_other(mark) for mark in grouped if mark in ",."), only or "."
    )
    if len(forms.decimal) > 1 or decimal in forms.grouped:
        return Style(answer, _other(answer)) if answer else _BOTH
    thousands = next(iter(grouped), _other(decimal) if _other(decimal) in forms.doubtful else "")
    return Style(decimal, thousands)


def _likely_style(forms: _Forms, only: str, answer: str, delimiter: str) -> Style | str:
    """The style of a column that proves none by itself, from the rest of the file (`only`), or what is in doubt."""
    if not forms.doubtful:
        return Style(only or answer or ".")
    mark = next(iter(forms.doubtful))
    if answer or len(forms.doubtful) > 1:
        return Style(answer, "" if mark == answer else mark) if answer else _BOTH
    mean_plain, mean_marked = forms.plain_sum / max(1, forms.plain), forms.marked_sum / max(1, forms.marked)
    looks_parted = (
        forms.plain > 0 and mean_plain > _HINTS_AT_THOUSANDS * mean_marked and forms.most_plain < _THOUSAND
    )
    is_written_so = mark == only or (not only and mark == "." and delimiter != ";")
    if is_written_so and not looks_parted:
        return Style(mark)
    if only not in {"", mark} and (mark == "," or looks_parted):
        return Style(only, mark)
    return "may have decimals or thousands"


def _question(name: str, path: Path, forms: _Forms, why: str) -> QuestionsOpen:
    cell, line = next(iter({**forms.doubtful, **forms.grouped, **forms.decimal}.values()))
    return QuestionsOpen(
        Question(
            key="decimal",
            text=f"column {shown(name)} {why}, such as {shown(cell)}: which mark is the decimal one",
            allowed=("point", "comma"),
            path=path,
            line=line or None,
        )
    )
