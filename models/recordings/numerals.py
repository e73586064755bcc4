"""What cells say in numbers: one strict grammar, thousands of cells at once.

A number has a sign, digits, one decimal mark, an exponent; its thousands may be parted. The grammar takes nothing that only Python
would take (``1_000``). What is no number is missing where it is one of the words for that, a flag, or a word that is handed out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["FLAG_WORDS", "LONGEST_NUMBER", "MISSING_WORDS", "Style", "is_value", "parsed", "said"]

MISSING_WORDS: Final = frozenset(
    [
        "",
        "nan",
        "+nan",
        "-nan",
        "na",
        "n/a",
        "#n/a",
        "#na",
        "n.a.",
        "n/d",
        "nd",
        "null",
        "none",
        "nil",
        "?",
        "-",
        "--",
        "---",
        ".",
        "..",
        "...",
        "*",
        "**",
        "***",
        "\\n",
        "<na>",
        "<null>",
        "(null)",
        "nat",
        "missing",
        "undef",
        "undefined",
        "no data",
        "nodata",
        "no_data",
        "bad",
        "bad input",
        "bad data",
        "i/o timeout",
        "not connected",
        "comm fail",
        "offline",
        "#nv",
        "#n/v",
        "n.v.",
        "k.a.",
        "#div/0!",
        "#value!",
        "#ref!",
        "#name?",
        "#num!",
        "#null!",
        "#wert!",
        "#bezug!",
        "1.#ind",
        "-1.#ind",
        "1.#qnan",
        "-1.#qnan",
        "nan(ind)",
        "-nan(ind)",
        "1.#snan",
        "inf",
        "+inf",
        "-inf",
        "infinity",
        "-infinity",
        "1.#inf",
        "-1.#inf",
        "err",
        "error",
        "overflow",
        "ovfl",
        "ol",
        "invalid",
        "unknown",
        "unavailable",
        "bad quality",
    ]
)
"""Words for a value that is missing, in any case of their letters; an infinite one is none that a sensor gave."""
FLAG_WORDS: Final = {
    "true": 1.0,
    "false": 0.0,
    "on": 1.0,
    "off": 0.0,
    "yes": 1.0,
    "no": 0.0,
    "ein": 1.0,
    "aus": 0.0,
    "ja": 1.0,
    "nein": 0.0,
    "wahr": 1.0,
    "falsch": 0.0,
    "open": 1.0,
    "closed": 0.0,
    "t": 1.0,
    "f": 0.0,
    "y": 1.0,
    "n": 0.0,
    "running": 1.0,
    "stopped": 0.0,
}
LONGEST_NUMBER: Final = 64
"""Characters; patterns are not tried on longer cells, for which they would take the square of the time."""
_MOST_DIGITS: Final = 15
"""So many are exact in float64, and one division rounds them right."""
_EXPONENT: Final = re.compile(rb"(?:[+-]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][+-]?\d{1,3})?\n)*")
_PLAIN: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][+-]?\d{1,3})?", re.ASCII)
_SUFFIX: Final = re.compile(r"(.*\d[.,]?) ?([^\d\s,;.+\-_:][^\d,;_:]{0,7}[²³]?)", re.ASCII)
_POWERS: Final = 10.0 ** np.arange(_MOST_DIGITS + 1)


@dataclass(frozen=True)
class Style:
    """How one file writes numbers: its decimal mark, and what parts thousands ("" for nothing)."""

    decimal: str = "."
    thousands: str = ""


@lru_cache(maxsize=100_000)
def said(cell: str, style: Style) -> tuple[float | None, str]:
    """(value, unit) of one cell: NaN where it says that a value is missing, None where it says something else.

    >>> said("1.234,5 kPa", Style(",", ".")), said("n/a", Style()), said("1_000", Style())
    ((1234.5, 'kPa'), (nan, ''), (None, ''))
    """
    if len(cell) > LONGEST_NUMBER:
        return None, ""
    word = cell.strip().casefold()
    if word in MISSING_WORDS:
        return float("nan"), ""
    if cell.startswith("'"):  # what a spreadsheet puts before text that looks like a number
        cell = cell[1:]
    value = _value(cell, style)
    if value is not None:
        return value, ""
    if (found := _SUFFIX.fullmatch(cell)) and (value := _value(found[1].strip(), style)) is not None:
        return value, found[2].strip()
    return None, ""


def _value(cell: str, style: Style) -> float | None:
    text = cell.strip()
    if style.thousands and style.thousands in text:
        whole, mark, rest = text.partition(style.decimal)
        groups = whole.split(style.thousands)
        if not (
            re.fullmatch(r"[+-]?\d{1,3}", groups[0]) and all(re.fullmatch(r"\d{3}", g) for g in groups[1:])
        ):
            return None
        text = "".join(groups) + mark + rest
    if style.decimal != ".":
        if "." in text:
            return None
        text = text.replace(style.decimal, ".")
    return float(text.replace("d", "e").replace("D", "e")) if _PLAIN.fullmatch(text) else None


_ANY_VALUE: Final = re.compile(
    r"[+-]?(?:\d+[.,]?\d*|[.,]\d+)(?:[eEdD][+-]?\d{1,3})?|[+-]?\d{1,3}(?:([,.' ])\d{3})+(?:[.,]\d+)?",
    re.ASCII,
)


def is_value(cell: str) -> bool:
    """Is `cell` a number in one style or another?"""
    return len(cell) <= LONGEST_NUMBER and _ANY_VALUE.fullmatch(cell) is not None


def parsed(chars: NDArray[np.uint8], style: Style) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """The numbers (n,) of cells given as characters (longest, n), NaN where one is missing; and which cells are neither numbers nor empty."""
    digits = chars - np.uint8(48)
    is_digit = digits <= 9
    is_mark = chars == ord(style.decimal)
    lengths = np.count_nonzero(chars, axis=0)
    counts, marks = np.count_nonzero(is_digit, axis=0), np.count_nonzero(is_mark, axis=0)
    is_minus = chars[0] == ord("-")
    signs = is_minus | (chars[0] == ord("+"))
    is_simple = (counts + marks + signs == lengths) & (marks <= 1) & (counts >= 1) & (counts <= _MOST_DIGITS)
    mantissas = np.zeros(chars.shape[1])
    for place in range(min(len(chars), _MOST_DIGITS + 2)):
        mantissas = np.where(is_digit[place], mantissas * 10 + digits[place], mantissas)
    behind = np.where(marks == 1, lengths - 1 - is_mark.argmax(axis=0), 0)
    values = mantissas / _POWERS[np.clip(behind, 0, _MOST_DIGITS)]
    values = np.where(is_minus, -values, values)
    values[~is_simple] = np.nan
    others = np.flatnonzero(~is_simple & (lengths > 0))
    if len(others):
        others = others[~_longer_numbers(chars[:, others], others, values, style)]
    return values, others


def _longer_numbers(
    chars: NDArray[np.uint8], others: NDArray[np.intp], values: NDArray[np.float64], style: Style
) -> NDArray[np.bool_]:
    """Fill in numbers with exponents or many digits; tells which of `others` they are."""
    is_digit = (chars - np.uint8(48)) <= 9
    known = np.frombuffer(f"+-eEdD\0{style.decimal}".encode(), np.uint8)
    may_be = (is_digit | np.isin(chars, known)).all(axis=0) & is_digit.any(axis=0)
    cells = np.ascontiguousarray(chars[:, may_be].T).view(f"S{len(chars)}")[:, 0].tolist()
    joined = b"".join(cell + b"\n" for cell in cells)
    if style.decimal != ".":
        joined = joined.replace(style.decimal.encode(), b".")
    if not _EXPONENT.fullmatch(joined):
        return np.zeros(len(others), bool)
    texts = joined.replace(b"d", b"e").replace(b"D", b"e").split()
    values[others[may_be]] = np.array([float(text) for text in texts])
    return np.asarray(may_be)
