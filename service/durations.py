"""Lengths of time as people type them: ``90d``, ``24h``, ``15m``, ``30s``."""

from __future__ import annotations

import re
from typing import Final

from service.errors import ClientError

__all__ = ["read_duration"]

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST_S: Final = 100 * 365 * 86400.0
"""A date beyond the year 9999 is none, and whatever lists it would fail."""

_DURATION: Final = re.compile(r"([0-9]{1,9})([smhd])")


def read_duration(text: str) -> float:
    """Seconds; raises ClientError for anything else.

    Examples:
        >>> read_duration("24h")
        86400.0
    """
    match = _DURATION.fullmatch(text)
    length_s = int(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 0 < length_s <= _LONGEST_S:
        raise ClientError(
            f"{text[:40]!r} is no length of time: a number above 0 with s, m, h or d, e.g. 90d or 24h, of at most 100 years"
        )
    return length_s
