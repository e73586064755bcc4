"""Stores a batch of events in one transaction and says what may be acknowledged.

Invariants: an event is in the answer only if it is on disk (stored now or before); an event is stored once however
often it arrives; a refused one leaves an audit line, never a row. Synchronous: runs on a worker thread.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from sqlalchemy import delete, insert, select, tuple_
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from fleet import audit
from fleet.errors import UnacceptableError
from fleet.ingest.device_view import observe
from fleet.ingest.judging import Accepted, Arrival, Refusal, RefusalReason, judge
from fleet.ingest.plain_data import plain_data
from fleet.ingest.sequences import containing, contains, merge
from fleet.metrics import FleetMetrics
from fleet.storage.base import Base, Database
from fleet.storage.device_tables import Device, DeviceState
from fleet.storage.event_tables import (
    Anomaly,
    AnomalyEnd,
    DriftRecord,
    EventRange,
    HealthRecord,
    InstallRecord,
)
from protocol.messages.envelope import Event, kind_of
from protocol.messages.kinds import Kind
from protocol.messages.payloads import (
    Ack,
    AnomalyClosed,
    AnomalyEvent,
    BootAck,
    DriftReport,
    Health,
    InstallReport,
)

__all__ = ["BatchResult", "EventStore"]

AUDIT_INTERVAL_S: Final = 60.0
"""A device that sends nonsense all day fills one line of audit and log a minute and reason, not the disk."""

AUDIT_MEMORY: Final = 10_000
"""(device, reason) pairs remembered for that; beyond it the memory starts anew."""

Boot = tuple[str, str]
_log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """What became of a batch.

    acks: per device what it may forget, because it is on disk (stored now or before).
    stored: new events by kind.
    duplicates: events that had been stored before.
    refusals: messages that were dropped for what they are.
    """

    acks: Mapping[str, Ack]
    stored: Mapping[Kind, int]
    duplicates: int
    refusals: Sequence[Refusal]


@dataclass(kw_only=True)
class _Batch:
    """What a batch will write: rows by table, and by device and boot the sequences that are new or were touched."""

    rows: dict[type[Base], list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    fresh: dict[Boot, set[int]] = field(default_factory=lambda: defaultdict(set))
    touched: dict[Boot, set[int]] = field(default_factory=lambda: defaultdict(set))
    stored: dict[Kind, int] = field(default_factory=lambda: defaultdict(int))
    duplicates: int = 0


class EventStore:
    """The durable end of ingest: a batch in, acknowledgements out.

    Args:
        database: the fleet's.
        tenant: whose topics are taken.
        metrics: counts what was stored and refused.
    """

    def __init__(self, database: Database, tenant: str, metrics: FleetMetrics) -> None:
        self._database = database
        self._tenant = tenant
        self._metrics = metrics
        self._audited: dict[tuple[str, str], float] = {}

    def store(self, arrivals: Sequence[Arrival]) -> BatchResult:
        """Judge and store what arrived, in one transaction.

        Should the database refuse a value (a number beyond its columns), the batch is halved until the one event
        that it refuses is found: that one is dropped, so that no device can stop the others.

        Raises:
            sqlalchemy.exc.OperationalError: the database cannot write now (disk full, locked); what was not stored is
                not acknowledged, so its devices send it again.
        """
        try:
            return self._store_together(arrivals)
        except OperationalError:
            raise
        except (SQLAlchemyError, UnacceptableError, OverflowError, ValueError) as error:
            if len(arrivals) == 1:
                return self._drop(arrivals[0], error)
            middle = len(arrivals) // 2
            return _join(self.store(arrivals[:middle]), self.store(arrivals[middle:]))

    def _drop(self, arrival: Arrival, error: Exception) -> BatchResult:
        """Refuse the one message whose value no column holds; it is audited, and never acknowledged."""
        judged = judge(arrival, self._tenant)
        refusal = Refusal(
            device=judged.device if isinstance(judged, Refusal) else judged.event.source,
            reason=RefusalReason.MALFORMED,
            message=f"the database cannot hold a value of this message: {str(error).splitlines()[0][:200]}",
        )
        with self._database.write() as session:
            self._audit(session, [refusal], arrival.received_at)
        self._metrics.refused.labels(refusal.reason.value).inc()
        return BatchResult(acks={}, stored={}, duplicates=0, refusals=[refusal])

    def _store_together(self, arrivals: Sequence[Arrival]) -> BatchResult:
        started = time.monotonic()
        judged = [judge(arrival, self._tenant) for arrival in arrivals]
        refusals = [one for one in judged if isinstance(one, Refusal)]
        accepted = [one for one in judged if isinstance(one, Accepted)]
        batch = _Batch()
        with self._database.write() as session:
            devices = _devices(session, {one.event.source for one in accepted})
            ranges = _ranges(session, [one.event for one in accepted])
            for one in accepted:
                device = devices.get(one.event.source)
                if device is None or device.state == DeviceState.REVOKED:
                    refusals.append(_stranger(one.event.source, revoked=device is not None))
                else:
                    _take(batch, ranges, device, one)
            acked = _store_ranges(session, ranges, batch)
            batch.rows[AnomalyEnd] = _first_ends(session, batch.rows[AnomalyEnd])
            for table, rows in batch.rows.items():
                if rows:
                    session.execute(insert(table), rows)
            self._audit(session, refusals, arrivals[-1].received_at if arrivals else 0.0)
        self._count(batch, refusals, len(arrivals), time.monotonic() - started)
        return BatchResult(
            acks=_acks(acked), stored=batch.stored, duplicates=batch.duplicates, refusals=refusals
        )

    def _audit(self, session: Session, refusals: Iterable[Refusal], now: float) -> None:
        """Write a line for each refusal, but one a minute for a device and reason."""
        for refusal in refusals:
            key = (refusal.device, refusal.reason)
            if now - self._audited.get(key, float("-inf")) < AUDIT_INTERVAL_S:
                continue
            if len(self._audited) >= AUDIT_MEMORY:
                self._audited.clear()
            self._audited[key] = now
            _log.warning(
                "message_refused", device=refusal.device, reason=refusal.reason.value, detail=refusal.message
            )
            audit.record(
                session,
                at=now,
                actor=f"device:{refusal.device}",
                action="message_refused",
                subject=refusal.device,
                reason=refusal.reason.value,
                message=refusal.message[:500],
            )

    def _count(self, batch: _Batch, refusals: Sequence[Refusal], size: int, seconds: float) -> None:
        for kind, count in batch.stored.items():
            self._metrics.stored.labels(kind.value).inc(count)
        self._metrics.duplicates.inc(batch.duplicates)
        for refusal in refusals:
            self._metrics.refused.labels(refusal.reason.value).inc()
        self._metrics.batch_events.observe(size)
        self._metrics.batch_seconds.observe(seconds)


def _devices(session: Session, names: set[str]) -> dict[str, Device]:
    rows = session.scalars(select(Device).where(Device.id.in_(names)))
    return {device.id: device for device in rows}


def _ranges(session: Session, events: Iterable[Event]) -> dict[Boot, list[tuple[int, int]]]:
    """The stored ranges that the batch's sequences lie in or touch, by device and boot; others cannot change.

    One query for the whole batch: a device that lost a message has two ranges, and not one for each event.
    """
    spans: dict[Boot, list[int]] = defaultdict(list)
    for event in events:
        spans[event.source, event.boot_id].append(event.sequence)
    found: dict[Boot, list[tuple[int, int]]] = {boot: [] for boot in spans}
    if not spans:
        return found
    bounds = {boot: (min(sequences), max(sequences)) for boot, sequences in spans.items()}
    rows = session.execute(
        select(EventRange.device, EventRange.boot_id, EventRange.first, EventRange.last)
        .where(tuple_(EventRange.device, EventRange.boot_id).in_(list(spans)))
        .order_by(EventRange.first)
    )
    for device, boot_id, first, last in rows:
        lowest, highest = bounds[device, boot_id]
        if first <= highest + 1 and last >= lowest - 1:
            found[device, boot_id].append((first, last))
    return found


def _take(
    batch: _Batch,
    ranges: Mapping[Boot, list[tuple[int, int]]],
    device: Device,
    accepted: Accepted,
) -> None:
    """Add a message to the batch, or count it as a duplicate; the view of its device follows only from a new one."""
    event, arrival = accepted.event, accepted.arrival
    boot, fields = (event.source, event.boot_id), plain_data(event.data)
    # a last will is one fixed message per boot but may be true many times: it changes the view, and is not a record
    if event.sequence == 0:
        observe(device, event, fields, received_at=arrival.received_at, retained=arrival.retained)
        return
    batch.touched[boot].add(event.sequence)
    if event.sequence in batch.fresh[boot] or contains(ranges[boot], event.sequence):
        batch.duplicates += 1
        return
    batch.fresh[boot].add(event.sequence)
    batch.stored[kind_of(event.data)] += 1
    observe(device, event, fields, received_at=arrival.received_at, retained=arrival.retained)
    table_and_row = _row(accepted, fields)
    if table_and_row is not None:
        table, row = table_and_row
        batch.rows[table].append(row)


def _row(accepted: Accepted, fields: dict[str, Any]) -> tuple[type[Base], dict[str, Any]] | None:
    """The table and the columns of a message that is a record of its own; None for one that only changes the view."""
    event = accepted.event
    identity = {
        "device": event.source,
        "boot_id": event.boot_id,
        "sequence": event.sequence,
        "sent_at": event.time,
        "received_at": accepted.arrival.received_at,
    }
    match event.data:
        case AnomalyEvent():
            told = {"window": accepted.window, "episode": fields["episode"] or None}
            return Anomaly, identity | fields | told
        case AnomalyClosed():
            return AnomalyEnd, identity | fields
        case DriftReport():
            return DriftRecord, identity | fields
        case InstallReport():
            return InstallRecord, identity | fields
        case Health():
            columns = (
                "release",
                "anomaly_rate",
                "drift_score",
                "drifted",
                "inference_p99_us",
                "interval_windows",
                "interval_judged",
                "state",
            )
            return HealthRecord, identity | {name: fields[name] for name in columns} | {"payload": fields}
        case _:
            return None


def _first_ends(session: Session, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of `rows` that are the first to end their anomaly: a device may say it again under another sequence."""
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        first.setdefault((row["device"], row["episode"]), row)
    episode = tuple_(AnomalyEnd.device, AnomalyEnd.episode)
    known = select(AnomalyEnd.device, AnomalyEnd.episode).where(episode.in_(list(first)))
    for device, name in session.execute(known).tuples() if first else ():
        del first[device, name]
    return list(first.values())


def _store_ranges(
    session: Session, ranges: Mapping[Boot, list[tuple[int, int]]], batch: _Batch
) -> dict[Boot, list[tuple[int, int]]]:
    """Write the ranges that the batch made, and give those in which its events lie: what may be acknowledged.

    A whole range is acknowledged, not only the event: a device whose acknowledgement was lost learns of all at once.
    """
    acked: dict[Boot, list[tuple[int, int]]] = {}
    gone: list[tuple[str, str, int]] = []
    added: list[dict[str, Any]] = []
    for (device, boot_id), touched in batch.touched.items():
        before = set(ranges[device, boot_id])
        after = merge(ranges[device, boot_id], batch.fresh[device, boot_id])
        gone += [(device, boot_id, first) for first, _ in before - set(after)]
        added += [
            {"device": device, "boot_id": boot_id, "first": first, "last": last}
            for first, last in set(after) - before
        ]
        acked[device, boot_id] = containing(after, touched)
    if gone:
        session.execute(
            delete(EventRange)
            .where(tuple_(EventRange.device, EventRange.boot_id, EventRange.first).in_(gone))
            .execution_options(synchronize_session=False)
        )
    if added:
        session.execute(insert(EventRange), added)
    return acked


def _acks(acked: Mapping[Boot, list[tuple[int, int]]]) -> dict[str, Ack]:
    boots: dict[str, list[BootAck]] = defaultdict(list)
    for (device, boot_id), ranges in acked.items():
        if ranges:
            boots[device].append(BootAck(boot_id=boot_id, ranges=tuple(ranges)))
    return {device: Ack(boots=tuple(entries)) for device, entries in boots.items()}


def _join(one: BatchResult, other: BatchResult) -> BatchResult:
    """The result of a batch that had to be halved."""
    acks = {
        device: Ack(
            boots=tuple(
                boot for part in (one, other) if device in part.acks for boot in part.acks[device].boots
            )
        )
        for device in {*one.acks, *other.acks}
    }
    stored = {
        kind: one.stored.get(kind, 0) + other.stored.get(kind, 0) for kind in {*one.stored, *other.stored}
    }
    return BatchResult(
        acks=acks,
        stored=stored,
        duplicates=one.duplicates + other.duplicates,
        refusals=[*one.refusals, *other.refusals],
    )


def _stranger(device: str, *, revoked: bool) -> Refusal:
    return Refusal(
        device=device,
        reason=RefusalReason.UNKNOWN_DEVICE,
        message=f"device {device!r} is {'revoked' if revoked else 'not enrolled here'}; its messages are dropped",
    )
