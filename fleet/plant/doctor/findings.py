"""A finding: what was looked at, whether it is well, what was seen, and what to do. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

__all__ = ["DAY_S", "Finding", "Verdict", "bad", "day", "doubtful", "well"]

DAY_S: Final = 86_400.0


class Verdict(StrEnum):
    """`OK`; `WARN`: works, and will not for ever, or could be safer; `BAD`: does not work, or lets somebody in."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line. `remedy`: what to do, empty where nothing is to be done."""

    matter: str
    verdict: Verdict
    seen: str
    remedy: str = ""


def well(matter: str, seen: str) -> Finding:
    """Nothing is to be done."""
    return Finding(matter=matter, verdict=Verdict.OK, seen=seen)


def doubtful(matter: str, seen: str, remedy: str) -> Finding:
    """It works, and something should be done."""
    return Finding(matter=matter, verdict=Verdict.WARN, seen=seen, remedy=remedy)


def bad(matter: str, seen: str, remedy: str) -> Finding:
    """It does not work, or lets somebody in."""
    return Finding(matter=matter, verdict=Verdict.BAD, seen=seen, remedy=remedy)


def day(at: float) -> str:
    """A Unix time as the day it is in UTC."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}"
