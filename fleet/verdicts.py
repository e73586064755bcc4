"""Verdicts on anomalies, and what they say about a release: does its precision still hold?

::

    PUT /v1/anomalies/{id}/verdict ─► row + audit line ─► the release's stream, watched anew ─► precision_drifted
                                      (one transaction)   (models.drift.labels)                 (audit, log, API)

The watch keeps no state of its own: a release has hundreds of verdicts, not millions, and a verdict that is corrected
changes the past. Every release has its own stream, because another model is another opinion.

Invariants: a verdict and its audit line are one transaction; the drift of a stream is told in the audit log once, when a
verdict turns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from fleet import audit
from fleet.errors import NotFoundError
from fleet.storage.base import Database
from fleet.storage.device_tables import Device
from fleet.storage.event_tables import Anomaly
from fleet.storage.verdict_tables import Verdict, VerdictRecord
from models.drift.labels import PrecisionSettings, PrecisionState, watch_precision
from service.roles import Caller

__all__ = ["ReleasePrecision", "give_verdict", "precision_of_family"]

LONGEST_STREAM: Final = 5000
"""Newest verdicts of a release that are watched; some 40 ms of work at most."""

_log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class ReleasePrecision:
    """The verdicts on one release's anomalies; `drifted_since` is Unix s, None while its precision holds."""

    release: str
    state: PrecisionState
    drifted_since: float | None
    last_verdict_at: float


def give_verdict(
    database: Database,
    anomaly_id: int,
    verdict: Verdict,
    *,
    note: str,
    caller: Caller,
    now: float,
    settings: PrecisionSettings,
) -> VerdictRecord:
    """Say whether an anomaly was a true alarm, or correct what was said; durable when it returns.

    Args:
        database: the fleet's.
        anomaly_id: row id of the anomaly.
        verdict: true or false alarm.
        note: why, for people; may be empty.
        caller: who says so.
        now: Unix s.
        settings: how the stream is watched.

    Raises:
        NotFoundError: there is no such anomaly.
    """
    with database.write() as session:
        anomaly = session.get(Anomaly, anomaly_id)
        if anomaly is None:
            raise NotFoundError(f"there is no anomaly {anomaly_id}; list them with GET /v1/anomalies")
        record = session.get(VerdictRecord, anomaly_id)
        if record is not None and (record.verdict, record.note) == (verdict, note):
            return record
        family = record.family if record is not None else _family(session, anomaly)
        before = _watch(_stream(session, family, anomaly.release), settings)
        if record is None:
            record = VerdictRecord(
                anomaly=anomaly_id, family=family, release=anomaly.release, first_given_at=now
            )
            session.add(record)
        record.verdict, record.note, record.author, record.given_at = verdict, note, caller.name, now
        session.flush()
        audit.record(
            session,
            at=now,
            actor=caller.actor,
            action="verdict_given",
            subject=f"anomaly/{anomaly_id}",
            verdict=verdict.value,
            note=note,
        )
        after = _watch(_stream(session, family, anomaly.release), settings)
        if after.drifted_at is not None and before.drifted_at is None:
            _tell(session, family, anomaly.release, after, now)
    return record


def precision_of_family(session: Session, family: str, settings: PrecisionSettings) -> list[ReleasePrecision]:
    """What the verdicts say about each release of a family that has any, the one judged last first."""
    releases = session.scalars(select(VerdictRecord.release).where(VerdictRecord.family == family).distinct())
    found = []
    for release in releases.all():
        stream = _stream(session, family, release)
        state = _watch(stream, settings)
        found.append(
            ReleasePrecision(
                release=release,
                state=state,
                drifted_since=None if state.drifted_at is None else stream[state.drifted_at].first_given_at,
                last_verdict_at=max(record.given_at for record in stream),
            )
        )
    return sorted(found, key=lambda precision: precision.last_verdict_at, reverse=True)


def _family(session: Session, anomaly: Anomaly) -> str:
    device = session.get(Device, anomaly.device)
    return device.family if device is not None else anomaly.release.partition("/")[0]


def _stream(session: Session, family: str, release: str) -> Sequence[VerdictRecord]:
    newest = (
        select(VerdictRecord)
        .where(VerdictRecord.family == family, VerdictRecord.release == release)
        .order_by(VerdictRecord.first_given_at.desc(), VerdictRecord.anomaly.desc())
        .limit(LONGEST_STREAM)
    )
    return session.scalars(newest).all()[::-1]


def _watch(stream: Sequence[VerdictRecord], settings: PrecisionSettings) -> PrecisionState:
    return watch_precision((record.verdict == Verdict.TRUE_ALARM for record in stream), settings)


def _tell(session: Session, family: str, release: str, state: PrecisionState, now: float) -> None:
    detail = {
        "family": family,
        "baseline": state.baseline,
        "recent": state.recent,
        "judged": state.judged,
    }
    audit.record(
        session, at=now, actor="fleet", action="precision_drifted", subject=f"release/{release}", **detail
    )
    _log.warning("precision_drifted", release=release, **detail)
