"""The cells of many CSV lines at once, by NumPy's reader written in C: what `cells.slow_rows` gives, or nothing where it is not sure.

NumPy's reader alone would take lines of unequal length, and text behind a quoted cell; so delimiters and quotes are counted first.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.recordings.cells import FLAGS, MISSING, Layout

__all__ = ["fast_rows"]

_LF: Final = ord("\n")
_QUOTE: Final = ord('"')
_COMMENT: Final = ord("#")


def fast_rows(block: bytes, layout: Layout) -> NDArray[np.float32] | None:
    """The values (rows, picked columns) of whole lines; None where a closer look is needed, such as at blank lines, comments or faults."""
    if b"\0" in block or block.isspace() or not (rows := _regular_rows(block, layout)):
        return None
    try:
        text = block.decode()
    except UnicodeDecodeError:
        return None
    values = _parsed(text, layout)
    for mend in (_with_empty_cells, _with_words):
        if values is None:
            text = mend(text, layout.delimiter)
            values = _parsed(text, layout)
    # What became infinite has a place to be named.
    return None if values is None or len(values) != rows or np.isinf(values).any() else values


def _regular_rows(block: bytes, layout: Layout) -> int:
    """How many lines there are, if all have cells, as many as the header, and quotes enclose whole ones; else 0."""
    content = np.frombuffer(block, np.uint8)
    is_end = (content == _LF) | (content == ord(layout.delimiter))
    ends = np.flatnonzero(is_end)
    width = len(layout.names)
    if len(ends) % width:
        return 0
    ends_line = (content[ends] == _LF).reshape(-1, width)
    if not ends_line[:, -1].all() or np.count_nonzero(ends_line) != len(ends_line):
        return 0
    begins = content[np.append(0, ends[width - 1 : -1 : width] + 1)]
    if ((begins == _LF) | (begins == _COMMENT)).any():
        return 0
    if b'"' in block:
        marks = np.flatnonzero(is_end | (content == _QUOTE))
        quotes = np.flatnonzero(content[marks] == _QUOTE)
        opening, closing = quotes[::2], quotes[1::2]
        # Nothing lies between the two of a cell, and an end right behind the second.
        if len(quotes) % 2 or (closing - opening != 1).any() or not is_end[marks[closing] + 1].all():
            return 0
    return len(ends_line)


def _parsed(text: str, layout: Layout) -> NDArray[np.float32] | None:
    try:
        return np.loadtxt(
            text.split("\n")[:-1],
            np.float32,
            comments=None,
            delimiter=layout.delimiter,
            usecols=layout.places,
            ndmin=2,
            quotechar='"',
        )
    except ValueError:
        return None


def _with_empty_cells(text: str, delimiter: str) -> str:
    """The same text with nan in cells without a character."""
    empty, nan = delimiter + delimiter, f"{delimiter}nan{delimiter}"
    text = text.replace(empty, nan).replace(empty, nan)
    text = text.replace(f"{delimiter}\n", f"{delimiter}nan\n").replace(f"\n{delimiter}", f"\nnan{delimiter}")
    return f"nan{text}" if text.startswith(delimiter) else text


def _with_words(text: str, delimiter: str) -> str:
    """The same text with nan for the words for a missing value, quotes around them too, and digits for flags."""
    d = re.escape(delimiter)
    words = "|".join(re.escape(word) for word in sorted({*MISSING, *FLAGS} - {"nan"}, key=len, reverse=True))
    pattern = rf'(?:^|(?<=[{d}]))("?)({words})\1(?=[{d}\n])'
    return re.sub(pattern, _as_number, text, flags=re.MULTILINE | re.IGNORECASE)


def _as_number(found: re.Match[str]) -> str:
    return str(FLAGS.get(found[2].casefold(), "nan"))
