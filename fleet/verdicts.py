"""Verdicts on anomalies, and what they say about a release: does its precision still hold?

::

    PUT /v1/anomalies/{id}/verdict ─► row + audit line ─► the release's stream, watched anew ─► precision_drifted
                                      (one transaction)   (models.drift.labels)                 (audit, log, API)

The watch keeps no state of its own: a release has hundreds of verdicts, not millions, and a verdict that is corrected
changes the past. Every release has its own stream, because another model is another opinion.

Invariants: a verdict and its audit line are one transaction, also one that is taken back; the drift of a stream is told in the
audit log once, when a verdict turns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from fleet import audit
from fleet.errors import NotFoundError
from fleet.storage.base import Database
from fleet.storage.device_tables import Device
from fleet.storage.event_tables import Anomaly
from fleet.storage.verdict_tables import Verdict, VerdictRecord
from models.drift.labels import PrecisionSettings, PrecisionState, watch_precision
from service.roles import Caller

__all__ = [
    "AT_ONCE",
    "ReleasePrecision",
    "find_said",
    "give_verdict",
    "give_verdicts",
    "precision_of_family",
    "take_back",
]

LONGEST_STREAM: Final = 5000
"""Newest verdicts of a release that are watched; some 40 ms of work at most."""

AT_ONCE: Final = 500
"""Verdicts in one transaction: each has its line of the audit log, so that is a fifth of a second of the write lock."""

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
    note: str | None,
    caller: Caller,
    now: float,
    settings: PrecisionSettings,
) -> VerdictRecord:
    """Say of one anomaly what `give_verdicts` says of many; raises NotFoundError where there is no such anomaly."""
    if not give_verdicts(
        database, [anomaly_id], verdict, note=note, caller=caller, now=now, settings=settings
    ):
        raise NotFoundError(f"there is no anomaly {anomaly_id}; list them with GET /v1/anomalies")
    with database.read() as session:
        record = session.get(VerdictRecord, anomaly_id)
    if record is None:  # taken back at this very moment
        raise NotFoundError(f"anomaly {anomaly_id} has no verdict; give one with PUT to this address")
    return record


def give_verdicts(
    database: Database,
    anomalies: Sequence[int],
    verdict: Verdict,
    *,
    note: str | None,
    caller: Caller,
    now: float,
    settings: PrecisionSettings,
) -> list[int]:
    """Say whether anomalies were true alarms, or correct what was said; durable when it returns.

    Args:
        database: the fleet's.
        anomalies: their row ids; `AT_ONCE` of them are one transaction.
        verdict: true or false alarm.
        note: why, for people; may be empty. None: what was written stays.
        caller: who says so.
        now: Unix s.
        settings: how the streams are watched.

    Returns:
        Those that are there: the ones of which it is said now.
    """
    found: list[int] = []
    for some in _batches(anomalies):
        with database.write() as session:
            with session.no_autoflush:  # what was said before is asked for once more before it changes
                told = _say(session, some, verdict, note=note, caller=caller, now=now)
                new = [record for record, is_new in told if is_new]
                streams = sorted({(record.family, record.release) for record in new})
                before = {stream: _watch(_stream(session, *stream), settings) for stream in streams}
            session.flush()
            _mark(session, [record.anomaly for record in new], is_judged=True)
            for record in new:
                audit.record(
                    session,
                    at=now,
                    actor=caller.actor,
                    action="verdict_given",
                    subject=f"anomaly/{record.anomaly}",
                    verdict=verdict.value,
                    note=record.note,
                )
            for stream in streams:
                after = _watch(_stream(session, *stream), settings)
                if after.drifted_at is not None and before[stream].drifted_at is None:
                    _tell(session, *stream, after, now)
        found += [record.anomaly for record, _ in told]
    return found


def find_said(session: Session, *, author: str, at: float) -> list[int]:
    """The anomalies of which `author` said at `at` (Unix s) what stands now."""
    said = VerdictRecord.author == author, VerdictRecord.given_at == at
    return list(session.scalars(select(VerdictRecord.anomaly).where(*said)))


def take_back(
    database: Database,
    anomalies: Sequence[int],
    *,
    caller: Caller,
    now: float,
    said_at: float | None = None,
) -> list[int]:
    """Take verdicts back: the anomalies wait to be judged again. Durable when it returns.

    Args:
        database: the fleet's.
        anomalies: their row ids; `AT_ONCE` of them are one transaction.
        caller: who says so.
        now: Unix s.
        said_at: only what the caller said themselves at that time (Unix s), and nobody else since; None: whatever was said.

    Returns:
        Those of `anomalies` that had such a verdict.
    """
    gone: list[int] = []
    for some in _batches(anomalies):
        with database.write() as session:
            query = select(VerdictRecord).where(VerdictRecord.anomaly.in_(some))
            if said_at is not None:
                query = query.where(VerdictRecord.author == caller.name, VerdictRecord.given_at == said_at)
            records = session.scalars(query).all()
            for record in sorted(records, key=lambda one: one.anomaly):
                audit.record(
                    session,
                    at=now,
                    actor=caller.actor,
                    action="verdict_taken_back",
                    subject=f"anomaly/{record.anomaly}",
                    verdict=record.verdict,
                    author=record.author,
                    note=record.note,
                )
                session.delete(record)
            _mark(session, [record.anomaly for record in records], is_judged=False)
        gone += [record.anomaly for record in records]
    return gone


def _batches(anomalies: Sequence[int]) -> list[list[int]]:
    known = sorted(set(anomalies))
    return [known[first : first + AT_ONCE] for first in range(0, len(known), AT_ONCE)]


def _say(
    session: Session,
    anomalies: Sequence[int],
    verdict: Verdict,
    *,
    note: str | None,
    caller: Caller,
    now: float,
) -> list[tuple[VerdictRecord, bool]]:
    """The record of each anomaly that is there, and whether it says anything new."""
    columns = select(Anomaly.id, Anomaly.release, Device.family).outerjoin(
        Device, Device.id == Anomaly.device
    )
    there = session.execute(columns.where(Anomaly.id.in_(anomalies)).order_by(Anomaly.id)).all()
    given = select(VerdictRecord).where(VerdictRecord.anomaly.in_(anomalies))
    known = {record.anomaly: record for record in session.scalars(given)}
    told = []
    for anomaly, release, family in there:
        record = known.get(anomaly)
        text = note if note is not None else record.note if record is not None else ""
        if record is not None and (record.verdict, record.note) == (verdict, text):
            told.append((record, False))
            continue
        if record is None:
            of = family if family is not None else release.partition("/")[0]
            record = VerdictRecord(anomaly=anomaly, family=of, release=release, first_given_at=now)
            session.add(record)
        record.verdict, record.note, record.author, record.given_at = verdict, text, caller.name, now
        told.append((record, True))
    return told


def _mark(session: Session, anomalies: Sequence[int], *, is_judged: bool) -> None:
    """So that those without a verdict are found quickly."""
    session.execute(update(Anomaly).where(Anomaly.id.in_(anomalies)).values(is_judged=is_judged))


def precision_of_family(
    session: Session, family: str, settings: PrecisionSettings, *, most: int | None = None
) -> list[ReleasePrecision]:
    """What the verdicts say about each release of a family that has any, the one judged last first; of the first `most` only."""
    last = func.max(VerdictRecord.given_at)
    judged = select(VerdictRecord.release, last).where(VerdictRecord.family == family)
    rows = session.execute(judged.group_by(VerdictRecord.release).order_by(last.desc()).limit(most))
    found = []
    for release, last_verdict_at in rows.all():
        stream = _stream(session, family, release)
        state = _watch(stream, settings)
        found.append(
            ReleasePrecision(
                release=release,
                state=state,
                drifted_since=None if state.drifted_at is None else stream[state.drifted_at].first_given_at,
                last_verdict_at=last_verdict_at,
            )
        )
    return found


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
