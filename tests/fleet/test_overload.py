"""Beyond its capacity the fleet is late and no slower: what devices say again costs next to nothing, and is never lost.

Counted in pieces of work and not in seconds.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fleet_world import NOW, TENANT, Machine, anomaly, enrol_directly, health
from ingest_world import count, machine, store
from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from fleet.erasure import erase_device
from fleet.ingest import ranges
from fleet.ingest import store as stores
from fleet.ingest.judging import Arrival
from fleet.ingest.store import EventStore
from fleet.mqtt.fair_queue import FairQueue, Place
from fleet.storage.base import Database
from fleet.storage.boot_tables import Boot, EventRange
from fleet.storage.device_tables import Device, DeviceState
from fleet.storage.event_tables import Anomaly, HealthRecord
from protocol.limits import MAX_PAYLOAD_BYTES
from protocol.messages.kinds import DeathReason, InstallStatus, InstallStep, Kind
from protocol.messages.payloads import Ack, BootAck, Death, InstallReport
from protocol.topics import device_topic

__all__ = ["machine", "store"]  # the fixtures

CAPACITY = 10
"""Messages that are stored in a round."""


def stored_in_rounds(rounds: int, *, offered: int, room: int) -> int:
    """What a fleet stores whose devices say `offered` new events a round, and say each again until it is acknowledged.

    As agents do: first after 10 rounds, then after twice the pause. An acknowledgement takes 2 rounds to arrive.
    """
    queue, stored = FairQueue(room), dict[str, int]()
    due: list[tuple[int, int, int]] = []  # round, event, how often it was said
    for now in range(rounds):
        for one in range(now * offered, (now + 1) * offered):
            heapq.heappush(due, (now, one, 0))
        while due and due[0][0] <= now:
            _, one, said = heapq.heappop(due)
            topic = f"fedge/v1/t/d-{one % 50}/anomaly"
            if now - stored.get(topic + str(one), now) >= 2:
                continue
            message = Arrival(topic=topic, payload=str(one).encode(), retained=False, received_at=NOW)
            queue.put(topic, message)
            heapq.heappush(due, (now + 10 * 2**said, one, said + 1))
        for taken in queue.take(CAPACITY, MAX_PAYLOAD_BYTES):
            stored.setdefault(taken.topic + taken.payload.decode(), now)
    return len(stored)


@pytest.mark.parametrize("room", [100, 500, 2000])
def test_at_twice_the_capacity_all_but_a_tenth_of_the_work_is_for_events_that_were_not_stored(
    room: int,
) -> None:
    assert stored_in_rounds(200, offered=2 * CAPACITY, room=room) >= 0.9 * 200 * CAPACITY


def test_a_copy_of_what_waits_takes_no_room_and_a_last_will_is_no_copy() -> None:
    queue, one = FairQueue(2), Machine(name="press-1")
    event = one.arrival(anomaly())
    assert [queue.put("press-1", event) for _ in range(3)] == [Place.TAKEN, Place.COPY, Place.COPY]
    will = one.arrival(Death(reason=DeathReason.LOST), sequence=0)
    assert [queue.put("press-1", will) for _ in range(2)] == [Place.TAKEN, Place.DROPPED]
    assert queue.take(2, MAX_PAYLOAD_BYTES) == [event, will]
    assert queue.put("press-1", event) is Place.TAKEN  # it is being stored: that may fail


def test_what_gave_way_may_come_again() -> None:
    queue, flood, calm = FairQueue(2), Machine(name="flood"), Machine(name="calm")
    messages = [flood.arrival(anomaly()) for _ in range(2)]
    assert [queue.put("flood", one) for one in messages] == [Place.TAKEN, Place.TAKEN]
    assert queue.put("calm", calm.arrival(anomaly())) is Place.DROPPED
    queue.take(2, MAX_PAYLOAD_BYTES)
    assert queue.put("flood", messages[1]) is Place.TAKEN


@contextmanager
def nothing_is_decoded_or_written(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def fail(*_: Any) -> Any:
        raise AssertionError("a copy was treated as news")

    with monkeypatch.context() as patch:
        patch.setattr(stores, "judge", fail)
        patch.setattr(Database, "write", fail)
        yield


def test_what_is_stored_is_acknowledged_again_without_a_look_inside_and_without_a_write(
    store: EventStore, database: Database, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = [machine.arrival(one) for _ in range(5) for one in (anomaly(), health())]
    first = store.store(batch)
    with nothing_is_decoded_or_written(monkeypatch):
        again = store.store(batch[2:])
    assert again.acks == first.acks == {"press-1": Ack(boots=(BootAck(boot_id="boot-1", ranges=((1, 10),)),))}
    assert (again.stored, again.duplicates) == ({}, 8)
    assert (count(database, Anomaly), count(database, HealthRecord)) == (5, 5)


def test_what_is_new_beside_it_is_stored_and_both_are_acknowledged_together(
    store: EventStore, database: Database, machine: Machine
) -> None:
    batch = [machine.arrival(anomaly()) for _ in range(4)]
    store.store(batch[:2])
    result = store.store(batch)
    assert result.acks == {"press-1": Ack(boots=(BootAck(boot_id="boot-1", ranges=((1, 4),)),))}
    assert (result.stored, result.duplicates) == ({Kind.ANOMALY: 2}, 2)


def revoke(session: Session) -> None:
    session.execute(update(Device).values(state=DeviceState.REVOKED))


def go_back(session: Session) -> None:
    """As a database that was restored, or another machine took over from, before the last commits."""
    for table in (Anomaly, EventRange, Boot):
        session.execute(delete(table))


@pytest.mark.parametrize(("change", "stored"), [(revoke, 0), (go_back, 3)])
def test_the_memory_of_what_was_acknowledged_only_suspects_and_the_database_decides(
    store: EventStore,
    database: Database,
    machine: Machine,
    change: Callable[[Session], None],
    stored: int,
) -> None:
    batch = [machine.arrival(anomaly()) for _ in range(3)]
    store.store(batch)
    with database.write() as session:
        change(session)
    result = store.store(batch)
    assert sum(result.stored.values()) == stored
    assert bool(result.acks) == bool(stored)


def test_what_comes_again_after_an_erasure_goes_the_whole_road_or_is_still_known(
    store: EventStore, database: Database, machine: Machine
) -> None:
    batch = [machine.arrival(anomaly()) for _ in range(3)]
    store.store(batch)
    with database.write() as session:
        erase_device(session, "press-1", actor="t", now=NOW)
    fresh = EventStore(database, TENANT, stores.FleetMetrics())
    expected = fresh.store(batch[:1])
    assert store.store(batch[:1]).acks == expected.acks


def test_in_a_gap_that_was_closed_the_ranges_are_not_believed(
    store: EventStore, database: Database, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "MAX_RANGES_PER_BOOT", 4)
    monkeypatch.setattr(ranges, "CLOSED_AT_ONCE", 2)
    store.store([machine.arrival(anomaly(), sequence=one) for one in range(1, 20, 2)])
    result = store.store([machine.arrival(anomaly(), sequence=2)])
    assert result.stored == {Kind.ANOMALY: 1}


def test_who_names_a_number_that_is_stored_on_the_topic_of_another_learns_nothing_and_a_sealed_word_is_verified(
    store: EventStore, database: Database, machine: Machine
) -> None:
    other = Machine(name="press-2")
    enrol_directly(database, other)
    store.store([machine.arrival(anomaly())])
    said = machine.arrival(anomaly(), sequence=1)
    strange = Arrival(
        topic=device_topic(TENANT, "press-2", Kind.ANOMALY),
        payload=said.payload,
        retained=False,
        received_at=NOW,
    )
    report = InstallReport(
        execution="e",
        release="motor/1",
        counter=1,
        step=InstallStep.COMMITTED,
        status=InstallStatus.SUCCEEDED,
        reason="",
        active_release="motor/1",
    )
    forged = Machine(name="press-1").arrival(report, sequence=1)
    result = store.store([strange, forged])
    assert len(result.refusals) == 2
    assert not any(ack.boots for ack in result.acks.values())
