"""The cells of many lines at once for the strict door: what `cells.slow_rows` gives, or nothing where it is not sure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.recordings.cells import Layout, number
from models.recordings.grid import cell, chars_at, cut
from models.recordings.numerals import Style, parsed

__all__ = ["fast_rows"]


def fast_rows(block: bytes, layout: Layout) -> NDArray[np.float32] | None:
    """The values (rows, picked columns) of whole lines; None where a closer look is needed, such as at blank lines, comments or faults."""
    if b"\0" in block or not block or not _is_text(block):
        return None
    grid = cut(block, 1, layout.delimiter, len(layout.names), "#", is_strict=True)
    rows, picked = len(grid.lines), len(layout.places)
    if not rows or rows != block.count(b"\n"):
        return None
    chars = chars_at(grid, layout.places)
    values, others = parsed(chars, Style())
    # Fortran's exponents are for the reader that asks.
    if ((chars | 32) == ord("d")).any():
        return None
    for index in others.tolist():
        place, row = divmod(index, rows)
        try:
            values[index] = number(cell(grid, row, layout.places[place]))
        except ValueError:
            return None
    with np.errstate(over="ignore"):
        found = values.reshape(picked, rows).T.astype(np.float32, order="C")
    # What became infinite has a place to be named.
    return None if np.isinf(found).any() else found


def _is_text(block: bytes) -> bool:
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True
