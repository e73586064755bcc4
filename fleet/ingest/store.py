"""Stores a batch of events in one transaction and says what may be acknowledged.

Invariants: an event is in the answer only if it is on disk (stored now or before, or kept as a dead letter); an event is
stored once however often it arrives; what a stranger sends leaves nothing but a count. Synchronous: runs on a worker
thread, or on several, also of several processes: the writing transaction is what keeps them apart.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import structlog
from sqlalchemy import select, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError
from sqlalchemy.orm import Session

from fleet import audit
from fleet.command_results import hear_results
from fleet.ingest.batch_result import BatchResult, acks_of, join_results
from fleet.ingest.boots import BootBook, BootKey, KnownBoot, position_of
from fleet.ingest.clones import ConflictWatch
from fleet.ingest.dead_letters import Kept, keep
from fleet.ingest.device_view import SEEN_EVERY_S, DeviceView, lose, observe, read_views, write_views
from fleet.ingest.judging import UNKNOWN, Accepted, Arrival, Refusal, RefusalReason, judge, refuse
from fleet.ingest.plain_data import plain_data
from fleet.ingest.ranges import acknowledged, read_ranges, stored_in, write_ranges
from fleet.ingest.rates import TokenBuckets
from fleet.ingest.records import TABLE_OF, make_row, only_first_ends
from fleet.ingest.repeats import Repeats
from fleet.ingest.report_seals import check_reports
from fleet.ingest.sequences import Range, contains
from fleet.metrics import FleetMetrics
from fleet.storage.base import Database
from fleet.storage.bulk import among, insert_rows
from fleet.storage.device_tables import Device
from fleet.storage.event_tables import AnomalyEnd, Received
from protocol.messages.commands import CommandResult
from protocol.messages.kinds import Kind
from protocol.messages.payloads import RefusedEvent

__all__ = ["EventStore"]

AUDIT_INTERVAL_S: Final = 60.0
"""A device that sends nonsense all day fills one line of audit and log a minute and reason, not the disk."""

AUDIT_MEMORY: Final = 10_000
"""(device, reason) pairs remembered for that; beyond it the memory starts anew."""

BOOTS_AT_ONCE, SECONDS_PER_BOOT = 100, 30.0
"""New boots of a device: each costs rows. One that restarts for ever is heard twice a minute; the rest of it waits."""

STRANGERS: Final = "strangers"
"""All devices that are not enrolled, in the audit log: they choose their names, and could fill it."""

_log = structlog.get_logger()


@dataclass(kw_only=True)
class _Batch:
    """What is known of the devices of a batch, and what it will write.

    come: of the events where gaps were closed, those that are stored.
    """

    devices: Mapping[str, DeviceView]
    boots: BootBook
    watch: ConflictWatch
    ranges: dict[BootKey, list[Range]] = field(default_factory=dict)
    come: set[tuple[str, str, int]] = field(default_factory=set)
    rows: dict[type[Received], list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    fresh: dict[BootKey, set[int]] = field(default_factory=lambda: defaultdict(set))
    touched: dict[BootKey, set[int]] = field(default_factory=lambda: defaultdict(set))
    stored: dict[Kind, int] = field(default_factory=lambda: defaultdict(int))
    duplicates: int = 0
    postponed: Counter[str] = field(default_factory=Counter)
    results: list[tuple[str, CommandResult]] = field(default_factory=list)

    def is_known(self, key: BootKey, sequence: int, kind: Kind, boot: KnownBoot) -> bool:
        """Whether an event is stored already. Up to `closed_to` the ranges do not tell; `come` does."""
        if sequence in self.fresh[key]:
            return True
        if not contains(self.ranges.get(key, ()), sequence):
            return False
        return sequence > boot.closed_to or kind not in TABLE_OF or (*key, sequence) in self.come


@dataclass(frozen=True, kw_only=True)
class _Refused:
    """What was not taken, what was kept of it, and what each device is told."""

    refusals: Sequence[Refusal]
    kept: Kept
    told: Mapping[str, Sequence[RefusedEvent]]


class EventStore:
    """The durable end of ingest: a batch in, acknowledgements out.

    Args:
        database: the fleet's.
        tenant: whose topics are taken.
        metrics: counts what was stored and refused.
        seen_every_s: how exactly it is kept when a device was last heard.
    """

    def __init__(
        self, database: Database, tenant: str, metrics: FleetMetrics, *, seen_every_s: float = SEEN_EVERY_S
    ) -> None:
        self._database = database
        self._seen_every_s = seen_every_s
        self._tenant = tenant
        self._metrics = metrics
        self._repeats = Repeats(database, tenant)
        self._audited: dict[tuple[str, str], float] = {}
        self._boots = TokenBuckets(1 / SECONDS_PER_BOOT, BOOTS_AT_ONCE, most=AUDIT_MEMORY)

    def store(self, arrivals: Sequence[Arrival]) -> BatchResult:
        """Judge and store what arrived, in one transaction.

        What is stored already and comes once more is acknowledged first, for a fraction of what the others cost.
        Should one message make that fail (a value that no column holds), the batch is halved until it is found: it
        becomes a dead letter, so that no device can stop the others.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database cannot write now (away, full, read-only, locked); what was not
                stored is not acknowledged.
        """
        fresh, known, repeated = self._repeats.sort_out(arrivals)
        self._metrics.duplicates.inc(repeated)
        again = BatchResult(acks=acks_of(known, {}), stored={}, duplicates=repeated, refusals=[])
        if not fresh:
            return again
        result = self._store_new(fresh)
        self._repeats.note(result.acks)
        return join_results(again, result) if repeated else result

    def _store_new(self, arrivals: Sequence[Arrival]) -> BatchResult:
        try:
            return self._store_together(arrivals)
        except Exception as error:
            if not _is_about_a_message(error):
                raise
            if len(arrivals) == 1:
                return self._give_up(arrivals[0], error)
            middle = len(arrivals) // 2
            return join_results(self._store_new(arrivals[:middle]), self._store_new(arrivals[middle:]))

    def check_writable(self) -> None:
        """Write something of no account; raises sqlalchemy.exc.SQLAlchemyError while the database takes nothing."""
        with self._database.write() as session:
            session.execute(text("UPDATE alembic_version SET version_num = version_num"))

    def note_limited(self, limited: Mapping[str, int], now: float) -> None:
        """Write down which devices sent faster than they may, and how many messages of each were not taken.

        Args:
            limited: messages by device; names that are no device's are left out.
            now: Unix seconds.
        """
        with self._database.write() as session:
            named = select(Device).where(among(session, [Device.id], [(name,) for name in limited]))
            for device in session.scalars(named):
                device.limited_at, device.limited_messages = (
                    now,
                    device.limited_messages + limited[device.id],
                )
                _log.warning("device_limited", device=device.id, messages=limited[device.id])
                audit.record(
                    session,
                    at=now,
                    actor=f"device:{device.id}",
                    action="device_limited",
                    subject=device.id,
                    messages=limited[device.id],
                )

    def _give_up(self, arrival: Arrival, error: Exception) -> BatchResult:
        """Keep the one message that cannot be stored as a dead letter."""
        judged = judge(arrival, self._tenant)
        device = judged.device if isinstance(judged, Refusal) else judged.event.source
        why = (str(error) or repr(error)).splitlines()[0][:200]
        refusal = refuse(
            arrival,
            device,
            RefusalReason.UNSTORABLE,
            f"the database cannot hold a value of this message: {why}",
        )
        _log.error("message_not_storable", device=device, exc_info=error)
        with self._database.write() as session:
            refused = self._refuse(session, read_views(session, {device}), [refusal])
        self._count_refused(refused)
        return BatchResult(acks=acks_of({}, refused.told), stored={}, duplicates=0, refusals=refused.refusals)

    def _store_together(self, arrivals: Sequence[Arrival]) -> BatchResult:
        started = time.monotonic()
        judged = [judge(arrival, self._tenant) for arrival in arrivals]
        refusals = [one for one in judged if isinstance(one, Refusal)]
        accepted, unsealed = check_reports(
            self._database, [one for one in judged if isinstance(one, Accepted)], self._tenant
        )
        refusals += unsealed
        with self._database.write() as session:
            names = {one.event.source for one in accepted} | {one.device for one in refusals}
            devices = read_views(session, names)
            known = [one for one in accepted if _is_enrolled(devices.get(one.event.source))]
            batch = _open_batch(session, devices, known)
            for one in known:
                self._take(batch, one)
            ranges = write_ranges(
                session,
                batch.boots.known,
                {key: batch.ranges.get(key, []) for key in batch.touched},
                batch.fresh,
            )
            batch.rows[AnomalyEnd] = only_first_ends(session, batch.rows.pop(AnomalyEnd, []), batch.boots)
            for table, rows in batch.rows.items():
                insert_rows(session, table, rows)
            batch.boots.write()
            write_views(session, devices.values())
            heard = hear_results(session, batch.results, time.time())
            refusals += [
                refuse(one.arrival, one.event.source, RefusalReason.UNKNOWN_DEVICE, "")
                for one in accepted
                if not _is_enrolled(devices.get(one.event.source))
            ]
            refused = self._refuse(session, devices, refusals)
        self._metrics.count_commands(heard.changed)
        self._count(batch, len(arrivals), time.monotonic() - started)
        self._count_refused(refused)
        acked = {
            key: acknowledged(batch.boots.known[key], ranges[key], touched)
            for key, touched in batch.touched.items()
        }
        return BatchResult(
            acks=acks_of(acked, refused.told),
            stored=batch.stored,
            duplicates=batch.duplicates,
            refusals=refused.refusals,
            postponed=batch.postponed,
            commanded=heard.commanded,
            desiring=heard.desiring,
        )

    def _take(self, batch: _Batch, accepted: Accepted) -> None:
        """Add a message to the batch, or count it as a duplicate; the view of its device follows only from a new one."""
        event, arrival = accepted.event, accepted.arrival
        device, key = batch.devices[event.source], (event.source, event.boot_id)
        boot = batch.boots.known.get(key)
        # a last will is one fixed message per boot but may be true many times: it changes the view, and is not a record
        if event.sequence == 0:
            lose(device, event.boot_id, arrival.received_at)
            if boot is not None and not arrival.retained:
                batch.watch.lose(device, boot, arrival.received_at)
            return
        if boot is None:
            if not arrival.retained and not self._boots.take(device.id, 1.0, arrival.received_at):
                batch.postponed[device.id] += 1
                return
            boot = batch.boots.begin(device, event, arrival.received_at)
        batch.touched[key].add(event.sequence)
        if isinstance(event.data, CommandResult):  # hearing one again changes nothing
            batch.results.append((event.source, event.data))
        if batch.is_known(key, event.sequence, accepted.kind, boot):
            batch.duplicates += 1
            return
        if event.sequence <= boot.closed_to and contains(batch.ranges.get(key, ()), event.sequence):
            boot.given_up -= 1
        batch.fresh[key].add(event.sequence)
        batch.stored[accepted.kind] += 1
        if not arrival.retained:
            batch.watch.hear(device, boot, arrival.received_at)
        batch.boots.hear(boot, device, event, arrival.received_at)
        fields = plain_data(event.data)
        observe(
            device,
            event,
            fields,
            position=position_of(boot, event.sequence),
            received_at=arrival.received_at,
            retained=arrival.retained,
            seen_every_s=self._seen_every_s,
        )
        if accepted.kind in TABLE_OF:
            batch.rows[TABLE_OF[accepted.kind]].append(make_row(accepted, fields))

    def _refuse(
        self, session: Session, devices: Mapping[str, DeviceView], refusals: Sequence[Refusal]
    ) -> _Refused:
        """Keep what enrolled devices sent and tell them; of strangers, only say that there were some."""
        mine = [one for one in refusals if _is_enrolled(devices.get(one.device))]
        strange = [
            _stranger(one, devices.get(one.device)) if one.device != UNKNOWN else one
            for one in refusals
            if not _is_enrolled(devices.get(one.device))
        ]
        kept = keep(session, [one for one in mine if one.reason is not RefusalReason.FORGED])
        told: dict[str, list[RefusedEvent]] = defaultdict(list)
        for one in kept.settled:
            if one.identity is not None:
                boot_id, sequence = one.identity
                told[one.device].append(
                    RefusedEvent(boot_id=boot_id, sequence=sequence, reason=one.message[:200])
                )
        for one in mine:
            self._audit(session, one, one.device)
        for one in strange:
            self._audit(session, one, STRANGERS)
        return _Refused(refusals=[*mine, *strange], kept=kept, told=told)

    def _audit(self, session: Session, refusal: Refusal, subject: str) -> None:
        """Write a line for a refusal, but one a minute for a subject and reason."""
        key, now = (subject, refusal.reason.value), refusal.arrival.received_at
        if abs(now - self._audited.get(key, float("-inf"))) < AUDIT_INTERVAL_S:
            return
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
            subject=subject,
            reason=refusal.reason.value,
            message=refusal.message[:500],
        )

    def _count(self, batch: _Batch, size: int, seconds: float) -> None:
        for kind, count in batch.stored.items():
            self._metrics.stored.labels(kind.value).inc(count)
        self._metrics.duplicates.inc(batch.duplicates)
        self._metrics.limited.labels("boots").inc(batch.postponed.total())
        self._metrics.batch_events.observe(size)
        self._metrics.batch_seconds.observe(seconds)

    def _count_refused(self, refused: _Refused) -> None:
        for refusal in refused.refusals:
            self._metrics.refused.labels(refusal.reason.value).inc()
        for reason, count in refused.kept.fresh.items():
            self._metrics.dead_letters.labels(reason).inc(count)
        self._metrics.dead_letters_dropped.inc(refused.kept.dropped)


def _is_about_a_message(error: Exception) -> bool:
    """Whether a batch failed for what a message says, and not because the database cannot write at present.

    In doubt it is the database: a message that is condemned by mistake is lost to its device.
    """
    if isinstance(error, DBAPIError):
        return isinstance(error, DataError | IntegrityError)
    return isinstance(error, StatementError) or not isinstance(error, SQLAlchemyError | OSError)


def _is_enrolled(device: DeviceView | None) -> bool:
    return device is not None and device.is_enrolled


def _open_batch(session: Session, devices: Mapping[str, DeviceView], accepted: Sequence[Accepted]) -> _Batch:
    """Read what is known of the devices and boots of a batch: a handful of queries, however many they are."""
    spans: dict[BootKey, set[int]] = defaultdict(set)
    for one in accepted:
        spans[one.event.source, one.event.boot_id].add(one.event.sequence)
    boots = BootBook(session, spans.keys())
    batch = _Batch(devices=devices, boots=boots, watch=ConflictWatch(session, devices, boots))
    batch.ranges = read_ranges(session, batch.boots.known, spans)
    doubtful: dict[type[Received], list[tuple[str, str, int]]] = defaultdict(list)
    for one in accepted:
        key, sequence = (one.event.source, one.event.boot_id), one.event.sequence
        boot = batch.boots.known.get(key)
        if boot is not None and sequence <= boot.closed_to and one.kind in TABLE_OF:
            doubtful[TABLE_OF[one.kind]].append((*key, sequence))
    for table, events in doubtful.items():
        batch.come |= stored_in(session, table, events)
    return batch


def _stranger(refusal: Refusal, device: DeviceView | None) -> Refusal:
    state = "not enrolled here" if device is None else device.state
    return replace(
        refusal,
        reason=RefusalReason.UNKNOWN_DEVICE,
        message=f"device {refusal.device!r} is {state}; its messages are dropped",
    )
