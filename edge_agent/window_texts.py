"""Texts that a driver, or an error of it, may have put values of a window into: they are left out of what leaves."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["LEFT_OUT", "without_windows"]

LEFT_OUT: Final = "(left out)"
_NUMBER: Final = r"[-+]?(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][-+]?\d++)?"
_ROW: Final = re.compile(rf"(?<!\d){_NUMBER}(?:[\s,;|\[\]()'\"]++{_NUMBER}){{3,}}")
"""More numbers in a row than our own sentences ever have: they name what they count. Read in one way only: a driver, whose text this may
be, must not choose how long that takes."""
_ENCODED: Final = re.compile(r"[A-Za-z0-9+/_-]{80,}={0,2}")
"""Base64 or hexadecimal of anything; a SHA-256 is shorter."""


def without_windows(text: str) -> str:
    """The text without what may be samples.

    Examples:
        >>> without_windows("cannot read '0.12;0.13;-4e-3;7'")
        "cannot read '(left out)'"
        >>> without_windows("cannot scale [ 1. -2.  0.  4.]")
        'cannot scale [ (left out)]'
        >>> without_windows("12 windows, 3 anomalies")
        '12 windows, 3 anomalies'
    """
    return _ENCODED.sub(LEFT_OUT, _ROW.sub(LEFT_OUT, text))
