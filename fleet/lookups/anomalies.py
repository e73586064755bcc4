"""One anomaly with what is known beside it: what its device is, what its release calls the sensors, what people said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from fleet.errors import NotFoundError
from fleet.lookups.inbox import Narrowed, Waiting, narrow_waiting, read_waiting
from fleet.storage.device_tables import Device
from fleet.storage.event_tables import Anomaly
from fleet.storage.release_tables import Release
from fleet.storage.verdict_tables import VerdictRecord
from service.paging import decode_cursor, encode_cursor, unknown_cursor

__all__ = ["Deed", "find_anomaly", "read_by_score", "read_deeds", "read_features", "read_places"]


@dataclass(frozen=True, kw_only=True)
class Deed:
    """What one person said at one time: `anomalies` verdicts, the first of them on `first`."""

    at: float
    verdict: str
    anomalies: int
    first: int


def find_anomaly(session: Session, anomaly_id: int) -> tuple[Waiting, VerdictRecord | None]:
    """One anomaly, and the verdict on it; raises NotFoundError."""
    found = read_waiting(session, [anomaly_id], has_windows=True).get(anomaly_id)
    if found is None:
        raise NotFoundError(f"there is no anomaly {anomaly_id}; list them with GET /v1/anomalies")
    return found, session.get(VerdictRecord, anomaly_id)


def read_by_score(
    session: Session, narrowed: Narrowed, *, after: str | None, limit: int
) -> tuple[list[int], str | None]:
    """Those that wait with the highest scores, and the cursor of the page after them.

    Raises:
        InvalidQueryError: `after` is no cursor of this listing.
    """
    query = narrow_waiting(select(Anomaly.score, Anomaly.id), narrowed)
    query = query.order_by(Anomaly.score.desc(), Anomaly.id.desc()).limit(limit + 1)
    if after:
        query = query.where(tuple_(Anomaly.score, Anomaly.id) < tuple_(*_score_cursor(after)))
    rows = session.execute(query).all()
    more = encode_cursor(f"{rows[limit - 1][0]!r} {rows[limit - 1][1]}") if len(rows) > limit else None
    return [number for _, number in rows[:limit]], more


def _score_cursor(after: str) -> tuple[float, int]:
    score, _, number = decode_cursor(after).partition(" ")
    try:
        return float(score), int(number)
    except ValueError:
        raise unknown_cursor(after) from None


def read_features(session: Session, releases: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What each release makes of a window (`protocol.manifest.FeatureSpec`): the names of its sensors, and how fast they are read."""
    keys = [
        (family, int(version))
        for family, _, version in (release.rpartition("/") for release in set(releases))
        if version.isascii() and version.isdecimal() and len(version) <= 9
    ]
    query = select(Release.family, Release.version, Release.manifest)
    query = query.where(tuple_(Release.family, Release.version).in_(keys))
    return {
        f"{family}/{version}": manifest.get("features") or {}
        for family, version, manifest in session.execute(query)
    }


def read_deeds(session: Session, author: str, *, since: float, limit: int) -> list[Deed]:
    """What `author` said last, newest first: what was said at once is one deed."""
    at = VerdictRecord.given_at
    query = (
        select(at, VerdictRecord.verdict, func.count(), func.min(VerdictRecord.anomaly))
        .where(VerdictRecord.author == author, at >= since)
        .group_by(at, VerdictRecord.verdict)
        .order_by(at.desc())
        .limit(limit)
    )
    return [
        Deed(at=when, verdict=str(verdict), anomalies=many, first=first)
        for when, verdict, many, first in session.execute(query)
    ]


def read_places(session: Session) -> tuple[list[str], list[str]]:
    """The families and the sites that there are devices of."""
    families = session.scalars(select(Device.family).distinct().order_by(Device.family))
    sites = session.scalars(select(Device.site).where(Device.site != "").distinct().order_by(Device.site))
    return list(families), list(sites)
