"""Whether an alarm is still worth getting up for: what people said of alarms, per release and over time.

A share of few verdicts says little, so each has its 95 % interval. Only alarms that somebody looked at are judged, and nobody looks
at random: how many were not is told beside.

Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import BigInteger, cast, func, select
from sqlalchemy.orm import Session

from fleet.errors import NotFoundError
from fleet.storage.device_tables import Device
from fleet.storage.event_tables import Anomaly
from fleet.storage.release_tables import Release
from fleet.storage.verdict_tables import Verdict, VerdictRecord

__all__ = ["Judged", "Period", "check_known", "count_alarms", "count_verdicts", "read_periods", "wilson"]

Z95: Final = 1.959964
"""Of the standard normal distribution: 2.5 % lie above it."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """So many true and false alarms."""

    true: int = 0
    false: int = 0

    @property
    def all(self) -> int:
        """How many were judged."""
        return self.true + self.false

    @property
    def share(self) -> float | None:
        """Of true alarms; None without any verdict."""
        return self.true / self.all if self.all else None

    @property
    def interval(self) -> tuple[float, float]:
        """Where that share lies, with 95 % confidence; [0, 1] where nobody said anything."""
        return wilson(self.true, self.all)


@dataclass(frozen=True, kw_only=True)
class Period:
    """The verdicts that were first given in [start, until), Unix seconds, by release."""

    start: float
    until: float
    releases: Mapping[str, Judged]

    @property
    def together(self) -> Judged:
        """Of all releases."""
        return Judged(
            true=sum(one.true for one in self.releases.values()),
            false=sum(one.false for one in self.releases.values()),
        )


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a share.

    >>> [round(end, 3) for end in wilson(8, 10)]
    [0.49, 0.943]
    >>> wilson(0, 0)
    (0.0, 1.0)
    """
    if trials == 0:
        return 0.0, 1.0
    share, z2 = successes / trials, Z95 * Z95 / trials
    middle = (share + z2 / 2) / (1 + z2)
    reach = math.sqrt(z2 * (share * (1 - share) + z2 / 4)) / (1 + z2)
    return max(middle - reach, 0.0), min(middle + reach, 1.0)


def read_periods(
    session: Session, family: str, *, start: float, until: float, count: int
) -> Sequence[Period]:
    """The verdicts on a family's alarms that were first given in [start, until), in `count` periods of one length."""
    width = (until - start) / count
    number = cast(func.floor((VerdictRecord.first_given_at - start) / width), BigInteger)
    counted = (
        select(number, VerdictRecord.release, VerdictRecord.verdict, func.count())
        .where(VerdictRecord.family == family)
        .where(VerdictRecord.first_given_at >= start, VerdictRecord.first_given_at < until)
        .group_by(number, VerdictRecord.release, VerdictRecord.verdict)
    )
    found: list[dict[str, dict[str, int]]] = [{} for _ in range(count)]
    for period, release, verdict, many in session.execute(counted):
        key = "true" if verdict == Verdict.TRUE_ALARM else "false"
        found[min(period, count - 1)].setdefault(release, {})[key] = many
    return [
        Period(
            start=start + period * width,
            until=start + (period + 1) * width,
            releases={release: Judged(**counts) for release, counts in sorted(releases.items())},
        )
        for period, releases in enumerate(found)
    ]


def count_verdicts(session: Session) -> dict[str, Judged]:
    """All that was ever judged, by family."""
    counted = select(VerdictRecord.family, VerdictRecord.verdict, func.count()).group_by(
        VerdictRecord.family, VerdictRecord.verdict
    )
    found: dict[str, dict[str, int]] = {}
    for family, verdict, many in session.execute(counted):
        found.setdefault(family, {})["true" if verdict == Verdict.TRUE_ALARM else "false"] = many
    return {family: Judged(**counts) for family, counts in sorted(found.items())}


def count_alarms(session: Session, family: str, *, since: float) -> dict[str, int]:
    """How many anomalies of a family's devices came since then (Unix s), judged or not, by release."""
    counted = (
        select(Anomaly.release, func.count())
        .join(Device, Device.id == Anomaly.device)
        .where(Device.family == family, Anomaly.received_at >= since)
        .group_by(Anomaly.release)
    )
    return dict(session.execute(counted).all())


def check_known(session: Session, family: str) -> None:
    """Whether there is, or was, anything of a family; raises NotFoundError, which names the nearest that there is."""
    known = {
        *session.scalars(select(Device.family).distinct()),
        *session.scalars(select(Release.family).distinct()),
        *session.scalars(select(VerdictRecord.family).distinct()),
    }
    if family in known:
        return
    near = difflib.get_close_matches(family, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(known)) or 'none yet'}"
    raise NotFoundError(f"there is no family {family[:80]!r}; {hint}")
