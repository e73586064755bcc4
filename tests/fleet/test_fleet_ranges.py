"""Ranges of received sequences: few rows whatever a device does, and never a word about what has not come."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from unittest.mock import patch

import pytest
from fleet_world import TENANT, Machine, anomaly, closed, enrol_directly, health
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event, func, select

from fleet.ingest import ranges
from fleet.ingest.judging import Arrival
from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.storage.base import Database
from fleet.storage.boot_tables import Boot, EventRange
from fleet.storage.event_tables import Anomaly
from protocol.messages.payloads import Ack


def sequences_of(acks: Iterable[Ack]) -> set[int]:
    return {
        number
        for ack in acks
        for boot in ack.boots
        for first, last in boot.ranges
        for number in range(first, last + 1)
    }


def rows_of(database: Database, machine: Machine) -> int:
    with database.read() as session:
        mine = select(func.count()).select_from(EventRange).where(EventRange.device == machine.name)
        return session.scalar(mine) or 0


def messages(machine: Machine, numbers: Sequence[int]) -> list[Arrival]:
    return [machine.arrival(anomaly(window_index=n), sequence=n) for n in numbers]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arriving=st.lists(st.integers(1, 60).map(lambda n: 2 * n - 1) | st.integers(1, 120), max_size=90),
    size=st.integers(1, 20),
)
def test_in_however_many_gaps_events_come_each_is_stored_once_and_only_what_came_is_acknowledged(
    database: Database, arriving: list[int], size: int
) -> None:
    machine = Machine(name=f"d-{secrets.token_hex(6)}")
    enrol_directly(database, machine)
    store = EventStore(database, TENANT, FleetMetrics())
    come: set[int] = set()
    with patch.multiple(ranges, MAX_RANGES_PER_BOOT=8, CLOSED_AT_ONCE=3, FEW=2):
        for start in range(0, len(arriving), size):
            batch = arriving[start : start + size]
            come |= set(batch)
            acked = sequences_of(store.store(messages(machine, batch)).acks.values())
            assert set(batch) <= acked <= come
            assert rows_of(database, machine) <= 8
    with database.read() as session:
        stored = select(Anomaly.sequence).where(Anomaly.device == machine.name).order_by(Anomaly.sequence)
        assert session.scalars(stored).all() == sorted(come)
        boot = session.get(Boot, (machine.name, "boot-1"))
    if boot is not None:
        assert boot.range_count == rows_of(database, machine)


def test_what_comes_late_into_a_gap_that_was_closed_is_stored_and_no_longer_counted_as_missing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "MAX_RANGES_PER_BOOT", 10)
    monkeypatch.setattr(ranges, "CLOSED_AT_ONCE", 4)
    machine = Machine(name="press-1")
    enrol_directly(database, machine)
    store = EventStore(database, TENANT, FleetMetrics())
    store.store(messages(machine, range(1, 40, 2)))

    def given_up() -> tuple[int, int]:
        with database.read() as session:
            boot = session.get_one(Boot, ("press-1", "boot-1"))
            return boot.given_up, boot.closed_to

    assert given_up() == (14, 29)
    late = store.store([*messages(machine, [2, 4]), machine.arrival(closed("e"), sequence=6)])
    assert late.duplicates == 0
    assert sequences_of(late.acks.values()) == {2, 4, 6}
    again = store.store([*messages(machine, [2, 3, 4]), machine.arrival(closed("e"), sequence=6)])
    assert (again.duplicates, sum(again.stored.values())) == (4, 0)
    assert given_up() == (11, 29)
    # it joins the closed gaps and what is above them; of those only what came is told
    assert sequences_of(store.store(messages(machine, [30])).acks.values()) == {30, 31}


def test_of_a_boot_with_many_ranges_only_those_are_read_that_a_batch_touches(
    database: Database,
) -> None:
    odd, calm = Machine(name="odd"), Machine(name="calm")
    enrol_directly(database, odd, calm)
    store = EventStore(database, TENANT, FleetMetrics())
    store.store([odd.arrival(health(), sequence=n) for n in range(1, 900, 2)])
    asked: list[tuple[str, object]] = []

    @event.listens_for(Engine, "before_cursor_execute")
    def note(_c: object, _cursor: object, statement: str, values: object, *_rest: object) -> None:
        if statement.startswith("SELECT") and "event_ranges" in statement:
            asked.append((statement, values))

    store.store([odd.arrival(health(), sequence=901), calm.arrival(health())])
    event.remove(Engine, "before_cursor_execute", note)
    (query,) = [statement for statement, values in asked if "odd" in str(values)]
    assert "event_ranges.first <=" in query
    assert "event_ranges.last >=" in query
