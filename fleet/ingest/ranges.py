"""Which sequences of a boot are stored, in the database: only what a batch touches is read, and never much is kept.

A device that keeps its anomalies and loses the figures between them has a range for each. `MAX_RANGES_PER_BOOT` bounds
that: beyond it the oldest gaps are closed, up to `Boot.closed_to`. What lies in a closed gap may still arrive, so there the
ranges are not believed: the tables of events are asked, and only what has come is acknowledged. Nothing is lost by
closing a gap, and nothing is stored twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from fleet.ingest.boots import BootKey, KnownBoot
from fleet.ingest.sequences import Range, containing, gap_count, merge
from fleet.storage.boot_tables import EventRange
from fleet.storage.bulk import among, insert_rows, update_rows
from fleet.storage.event_tables import Received

__all__ = ["acknowledged", "read_ranges", "stored_in", "write_ranges"]

MAX_RANGES_PER_BOOT: Final = 1000
"""Rows that one boot may cost; an outbox of a week without a network has some hundred anomalies."""

CLOSED_AT_ONCE: Final = 200
"""Gaps closed beyond that, so that it is not done for each message."""

FEW: Final = 8
"""Boots with at most so many ranges are read together and whole: nearly all have one."""

_KEY: Final = ("device", "boot_id", "first")


def read_ranges(
    session: Session, boots: Mapping[BootKey, KnownBoot], spans: Mapping[BootKey, Collection[int]]
) -> dict[BootKey, list[Range]]:
    """The stored ranges that these sequences lie in or touch, sorted, by boot; no others can change.

    Args:
        session: the transaction.
        boots: what is known of the boots; one that is not has no ranges.
        spans: the sequences by boot, none empty.
    """
    found: dict[BootKey, list[Range]] = {key: [] for key in spans}
    bounds = {key: (min(spans[key]) - 1, max(spans[key]) + 1) for key in spans if key in boots}
    connection = session.connection()
    columns = select(EventRange.device, EventRange.boot_id, EventRange.first, EventRange.last)
    few = [key for key in bounds if boots[key].range_count <= FEW]
    if few:
        together = among(session, [EventRange.device, EventRange.boot_id], few)
        for device, boot_id, first, last in connection.execute(
            columns.where(together).order_by(EventRange.first)
        ):
            found[device, boot_id].append((first, last))
    for key in bounds.keys() - set(few):
        low, high = bounds[key]
        touched = columns.where(
            EventRange.device == key[0],
            EventRange.boot_id == key[1],
            EventRange.first <= high,
            EventRange.last >= low,
        )
        rows = connection.execute(touched.order_by(EventRange.first))
        found[key] = [(first, last) for _, _, first, last in rows]
    return found


def stored_in(
    session: Session, table: type[Received], events: Iterable[tuple[str, str, int]]
) -> set[tuple[str, str, int]]:
    """Those of these events (device, boot, sequence) that `table` holds."""
    identity = (table.device, table.boot_id, table.sequence)
    rows = session.execute(select(*identity).where(among(session, identity, list(events))))
    return {(device, boot_id, sequence) for device, boot_id, sequence in rows}


def write_ranges(
    session: Session,
    boots: Mapping[BootKey, KnownBoot],
    before: Mapping[BootKey, list[Range]],
    fresh: Mapping[BootKey, set[int]],
) -> dict[BootKey, tuple[Range, ...]]:
    """Add `fresh` sequences to the ranges `before` of their boots; gives the ranges as they are then."""
    after = {key: merge(before[key], fresh.get(key, ())) for key in before}
    gone: list[tuple[str, str, int]] = []
    added: list[dict[str, object]] = []
    grown: list[dict[str, object]] = []
    for key, ranges in after.items():
        was, now = dict(before[key]), dict(ranges)
        gone += [(*key, first) for first in was.keys() - now.keys()]
        for first, last in ranges:
            if first not in was:
                added.append(_row(key, (first, last)))
            elif last != was[first]:
                grown.append(_row(key, (first, last)))
        if len(now) != len(was):
            boots[key].range_count += len(now) - len(was)
    if gone:
        _delete(session, gone)
    update_rows(session, EventRange, _KEY, grown)
    insert_rows(session, EventRange, added)
    for key in after:
        if boots[key].range_count > MAX_RANGES_PER_BOOT:
            _close_gaps(session, boots[key])
    return after


def acknowledged(boot: KnownBoot, ranges: Sequence[Range], touched: Collection[int]) -> tuple[Range, ...]:
    """What a device may forget after these sequences came: the ranges they lie in, as far as those are believed.

    A whole range is acknowledged, not only the event: a device whose acknowledgement was lost learns of all at once.
    """
    if len(ranges) == 1 and not boot.closed_to:
        return (ranges[0],)
    known = containing(ranges, (sequence for sequence in touched if sequence > boot.closed_to))
    believed = ((max(first, boot.closed_to + 1), last) for first, last in known)
    return merge(tuple(believed), (sequence for sequence in touched if sequence <= boot.closed_to))


def _close_gaps(session: Session, boot: KnownBoot) -> None:
    surplus = boot.range_count - MAX_RANGES_PER_BOOT + CLOSED_AT_ONCE
    mine = (EventRange.device == boot.device, EventRange.boot_id == boot.boot_id)
    oldest = select(EventRange.first, EventRange.last).where(*mine).order_by(EventRange.first)
    ranges = [(first, last) for first, last in session.execute(oldest.limit(surplus + 1))]
    key = (boot.device, boot.boot_id)
    session.execute(
        delete(EventRange)
        .where(*mine, EventRange.first <= ranges[-1][0])
        .execution_options(synchronize_session=False)
    )
    closed = (ranges[0][0], ranges[-1][1])
    insert_rows(session, EventRange, [_row(key, closed)])
    boot.given_up += gap_count(ranges)
    boot.closed_to = closed[1]
    boot.range_count -= len(ranges) - 1


def _row(key: BootKey, ends: Range) -> dict[str, object]:
    return {"device": key[0], "boot_id": key[1], "first": ends[0], "last": ends[1]}


def _delete(session: Session, gone: Sequence[tuple[str, str, int]]) -> None:
    identity = among(session, [EventRange.device, EventRange.boot_id, EventRange.first], gone)
    session.execute(delete(EventRange).where(identity).execution_options(synchronize_session=False))
