"""Lengths of time as people type them, ``90d``, ``24h``, ``15m``, ``30s``, and moments in the past."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from runtime.errors import SettingsError
from service.errors import ClientError

__all__ = ["read_duration", "read_past"]

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


_UNIX: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")


def read_past(text: str, now: Callable[[], float] = time.time) -> float:
    """A moment in Unix seconds: so long ago, an ISO time (UTC where it names no zone, as tables show it), or Unix seconds.

    Raises:
        SettingsError: anything else.

    Examples:
        >>> read_past("2h", lambda: 10_000.0)
        2800.0
        >>> read_past("1970-01-02") == read_past("1970-01-02T02:00+02:00") == read_past("86400")
        True
    """
    said = text.strip()
    if _DURATION.fullmatch(said) and int(said[:-1]):
        return max(now() - read_duration(said), 0.0)
    if _UNIX.fullmatch(said):
        return float(said)
    try:
        moment = datetime.fromisoformat(said)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise SettingsError(
            f"{text[:40]!r} is no moment: so long ago (30s, 15m, 2h, 3d), a time such as 2026-11-30T08:00Z or 2026-11-30T09:00+01:00"
            " (UTC where it names no zone), or Unix seconds"
        ) from None
