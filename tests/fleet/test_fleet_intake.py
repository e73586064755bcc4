"""Intake: who floods displaces only itself, and a database that is away costs nobody an event."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from fleet_world import NOW, TENANT, Machine, anomaly, enrol_directly
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from fleet.ingest.batch_result import BatchResult
from fleet.ingest.judging import Arrival
from fleet.ingest.rates import TokenBuckets
from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.mqtt.fair_queue import FairQueue, Place
from fleet.mqtt.intake import Intake
from fleet.mqtt.outgoing import Outgoing
from fleet.settings import MqttSettings
from fleet.storage.access_tables import AuditEntry
from fleet.storage.base import Database
from fleet.storage.boot_tables import Boot
from fleet.storage.device_tables import Device
from protocol.limits import MAX_PAYLOAD_BYTES


class SlowStore:
    """A store that waits to be let go, and takes nothing as often as it is told."""

    def __init__(self, failures: int = 0) -> None:
        self.batches: list[list[Arrival]] = []
        self.limited: Counter[str] = Counter()
        self.gate = threading.Event()
        self.failures = failures

    @property
    def stored(self) -> int:
        return sum(map(len, self.batches))

    def store(self, arrivals: list[Arrival]) -> BatchResult:
        self.gate.wait()
        self.check_writable()
        self.batches.append(arrivals)
        return BatchResult(acks={}, stored={}, duplicates=0, refusals=[])

    def check_writable(self) -> None:
        if self.failures:
            self.failures -= 1
            raise OperationalError("INSERT", {}, Exception("database or disk is full"))

    def note_limited(self, limited: dict[str, int], now: float) -> None:
        self.limited.update(limited)


def run_intake(
    store: SlowStore,
    story: Callable[[Intake], None],
    stored: int,
    *,
    limited: int = 0,
    silence: Callable[[str], None] = lambda _device: None,
    **settings: Any,
) -> FleetMetrics:
    metrics = FleetMetrics()

    async def main() -> None:
        chosen = MqttSettings(
            **{"url": "mqtt://127.0.0.1:1", "batch_events": 10, "batch_wait_s": 0, "queued_events": 25}
            | settings
        )
        intake = Intake(store, Outgoing(), metrics, chosen, wake_rollouts=lambda: None, silence=silence)
        task = asyncio.create_task(intake.run())
        story(intake)
        while store.stored < stored or store.limited.total() < limited:
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(main())
    return metrics


def messages(name: str, count: int) -> list[Arrival]:
    machine = Machine(name=name)
    return [machine.arrival(anomaly()) for _ in range(count)]


def test_what_arrives_while_the_disk_is_busy_is_stored_in_full_batches_and_overflow_is_counted() -> None:
    store = SlowStore()

    def story(intake: Intake) -> None:
        for message in messages("a", 40):
            intake.offer(message)
        store.gate.set()

    metrics = run_intake(store, story, 25)
    assert [len(batch) for batch in store.batches] == [10, 10, 5]
    assert metrics.registry.get_sample_value("fedge_fleet_events_overflowed_total") == 15


def test_a_device_that_floods_a_full_queue_displaces_none_but_its_own_messages() -> None:
    store = SlowStore()
    calm = [messages(f"calm-{n}", 2) for n in range(5)]

    def story(intake: Intake) -> None:
        for message in messages("flood", 200):
            intake.offer(message)
        for pair in calm:
            for message in pair:
                intake.offer(message)
        store.gate.set()

    run_intake(store, story, 25)
    stored = Counter(arrival.topic.split("/")[3] for batch in store.batches for arrival in batch)
    assert stored == Counter({"flood": 15} | {f"calm-{n}": 2 for n in range(5)})
    # nor their turn: each batch has a message of everybody who waits
    assert {arrival.topic.split("/")[3] for arrival in store.batches[0]} >= {f"calm-{n}" for n in range(5)}


@given(
    offered=st.lists(st.sampled_from("abcd"), max_size=60), most=st.integers(1, 12), batch=st.integers(1, 5)
)
def test_the_fair_queue_keeps_its_bound_the_order_of_each_device_and_for_each_its_share(
    offered: list[str], most: int, batch: int
) -> None:
    queue, given_way = FairQueue(most), 0
    for number, name in enumerate(offered):
        arrival = Arrival(topic=f"{name}/{number}", payload=b"", retained=False, received_at=NOW)
        given_way += queue.put(name, arrival) is Place.DROPPED
    assert len(queue) == len(offered) - given_way <= most
    taken: list[str] = []
    while queue:
        taken += [arrival.topic for arrival in queue.take(batch, MAX_PAYLOAD_BYTES)]
    for name in set(offered):
        mine = [int(topic.partition("/")[2]) for topic in taken if topic.startswith(name)]
        assert mine == sorted(mine)
        assert len(mine) >= min(offered.count(name), most // len(set(offered)))


def test_a_device_that_sends_too_fast_is_limited_counted_and_named_and_the_others_are_not() -> None:
    store = SlowStore()
    store.gate.set()

    def story(intake: Intake) -> None:
        for message in messages("flood", 50):
            intake.offer(message)
        intake.offer(messages("calm", 1)[0])

    metrics = run_intake(
        store, story, 11, limited=40, queued_events=1000, device_burst_events=10, device_events_per_s=1
    )
    stored = Counter(arrival.topic.split("/")[3] for batch in store.batches for arrival in batch)
    assert stored == {"flood": 10, "calm": 1}
    assert store.limited == {"flood": 40}
    assert metrics.registry.get_sample_value("fedge_fleet_events_limited_total", {"by": "events"}) == 40


@pytest.mark.parametrize(("sent", "is_silenced"), [(20, False), (21, True)])
def test_who_sends_as_much_again_as_he_may_at_once_is_silenced_and_not_before(
    sent: int, is_silenced: bool
) -> None:
    store, silenced = SlowStore(), set[str]()
    store.gate.set()

    def story(intake: Intake) -> None:
        for message in messages("flood", sent):
            intake.offer(message)

    limits = {"device_burst_events": 10, "device_events_per_s": 1e-9}
    run_intake(store, story, 10, limited=sent - 10, silence=silenced.add, **limits)
    assert silenced == ({"flood"} if is_silenced else set())


def test_bytes_are_limited_too() -> None:
    store = SlowStore()
    store.gate.set()
    sent = messages("flood", 9)
    burst = 3 * len(sent[0].payload)

    def story(intake: Intake) -> None:
        for message in sent:
            intake.offer(message)

    run_intake(store, story, 3, limited=6, device_burst_bytes=burst, device_bytes_per_s=1.0)
    assert (store.stored, store.limited) == (3, {"flood": 6})


def test_a_bucket_fills_again_whatever_the_clock_does_and_forgets_who_was_away_longest() -> None:
    buckets = TokenBuckets(2.0, 3.0, most=2)
    assert [buckets.take("a", 1.0, NOW) for _ in range(4)] == [True, True, True, False]
    assert not buckets.take("a", 1.0, NOW - 1e6)  # a clock set back gives nothing
    assert buckets.take("a", 1.0, NOW - 1e6 + 0.5)
    assert not buckets.take("a", 1.0, NOW - 1e6 + 0.5)
    assert [buckets.take("a", 1.0, NOW + 1e9) for _ in range(4)] == [True, True, True, False]
    for other in ("b", "c"):
        buckets.take(other, 1.0, NOW)
    assert buckets.take("a", 3.0, NOW)  # forgotten, so it begins anew


@pytest.mark.parametrize("failures", [1, 5])
def test_a_batch_waits_until_the_database_writes_again(
    monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    monkeypatch.setattr("fleet.mqtt.intake.STORE_RETRY_S", 0.0)
    store = SlowStore(failures=failures)
    store.gate.set()

    def story(intake: Intake) -> None:
        for message in messages("a", 20):
            intake.offer(message)

    with capture_logs() as logs:
        metrics = run_intake(store, story, 20)
    assert [len(batch) for batch in store.batches] == [10, 10]
    assert [line["event"] for line in logs] == ["batch_not_stored"]
    assert metrics.registry.get_sample_value("fedge_fleet_storing") == 1


class RefusingStore(SlowStore):
    """Takes whatever is asked, but for one batch, for a reason of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gate.set()
        self.refusals = 0

    def store(self, arrivals: list[Arrival]) -> BatchResult:
        if any(arrival.topic.split("/")[3] == "poison" for arrival in arrivals):
            self.refusals += 1
            raise OperationalError("INSERT", {}, Exception("out of memory"))
        return super().store(arrivals)


def test_a_batch_that_the_database_never_takes_does_not_hold_up_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fleet.mqtt.intake.STORE_RETRY_S", 0.0)
    store = RefusingStore()

    def story(intake: Intake) -> None:
        for message in (*messages("poison", 1), *messages("a", 9), *messages("b", 5)):
            intake.offer(message)

    run_intake(store, story, 4)
    assert store.refusals == 3
    assert store.stored >= 4


@pytest.mark.parametrize(
    ("longest_s", "sizes"), [(1e9, [5, 10, 20, 40, 40, 35]), (0.0, [5, 5, 5, 5])], ids=["quick", "slow"]
)
def test_while_much_waits_a_batch_is_as_large_as_time_allows_and_never_smaller_than_the_first(
    monkeypatch: pytest.MonkeyPatch, longest_s: float, sizes: list[int]
) -> None:
    for name, value in {"FIRST_BATCH": 5, "BATCH_S": longest_s}.items():
        monkeypatch.setattr(f"fleet.mqtt.intake.{name}", value)
    store = SlowStore()
    store.gate.set()

    def story(intake: Intake) -> None:
        for message in messages("a", 150):
            intake.offer(message)

    run_intake(store, story, sum(sizes), queued_events=1000, batch_events=40)
    assert [len(batch) for batch in store.batches][: len(sizes)] == sizes


def test_a_batch_is_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = messages("a", 6)
    monkeypatch.setattr("fleet.mqtt.intake.BATCH_BYTES", len(sent[0].payload) * 5 // 2)
    store = SlowStore()
    store.gate.set()

    def story(intake: Intake) -> None:
        for message in sent:
            intake.offer(message)

    run_intake(store, story, 6, queued_events=1000)
    assert [len(batch) for batch in store.batches] == [2, 2, 2]


def test_while_enough_waits_nothing_more_is_read_until_a_batch_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fleet.mqtt.intake.READY_S", 1e6)
    store = SlowStore()

    async def main() -> None:
        settings = MqttSettings(url="mqtt://127.0.0.1:1", batch_events=10, batch_wait_s=0, queued_events=1000)
        intake = Intake(store, Outgoing(), FleetMetrics(), settings, wake_rollouts=lambda: None)
        for message in messages("a", 29):
            intake.offer(message)
        await intake.ready()
        intake.offer(messages("b", 1)[0])
        reader = asyncio.create_task(intake.ready())
        for _ in range(100):
            await asyncio.sleep(0)
        assert not reader.done()
        storing = asyncio.create_task(intake.run())
        await reader
        storing.cancel()
        store.gate.set()

    asyncio.run(main())


def test_who_was_limited_stands_in_its_view_and_in_the_audit_log(database: Database) -> None:
    enrol_directly(database, Machine(name="flood"))
    store = EventStore(database, TENANT, FleetMetrics())
    store.note_limited({"flood": 40, "stranger": 7}, NOW)
    store.note_limited({"flood": 2}, NOW + 60)
    with database.read() as session:
        row = session.get_one(Device, "flood")
        lines = session.scalars(select(AuditEntry).where(AuditEntry.action == "device_limited")).all()
    assert (row.limited_at, row.limited_messages) == (NOW + 60, 42)
    assert [(line.subject, line.detail["messages"]) for line in lines] == [("flood", 40), ("flood", 2)]


def test_a_device_that_begins_ever_new_boots_costs_few_rows_and_is_still_heard(database: Database) -> None:
    machine = Machine(name="loops")
    enrol_directly(database, machine)
    store = EventStore(database, TENANT, FleetMetrics())

    def start(number: int, at: float) -> BatchResult:
        machine.restart(f"boot-{number}", number)
        return store.store([machine.arrival(anomaly(), at=at)])

    first = [start(number, NOW) for number in range(1, 131)]
    assert sum(len(one.acks) for one in first) == 100
    assert all(one.postponed == {"loops": 1} and not one.acks for one in first[100:])
    assert start(200, NOW + 31).acks  # one more after half a minute
    again = store.store([machine.arrival(anomaly(), sequence=2, at=NOW + 32)])
    assert again.acks  # a boot that is known is not new
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(Boot)) == 101


def test_while_the_database_takes_nothing_it_shows_how_much_waits_and_how_long() -> None:
    seen: dict[str, float | None] = {}

    class Looked(SlowStore):
        def store(self, arrivals: list[Arrival]) -> BatchResult:
            if not seen:
                seen.update(
                    waiting=shown("fedge_fleet_events_waiting"), s=shown("fedge_fleet_events_waiting_seconds")
                )
            return super().store(arrivals)

    def shown(name: str) -> float:
        return watched[0].registry.get_sample_value(name) or 0.0

    watched: list[FleetMetrics] = []
    store = Looked()
    store.gate.set()
    long_ago = [replace(message, received_at=time.time() - 40) for message in messages("late", 25)]

    def story(intake: Intake) -> None:
        watched.append(intake._metrics)
        for message in long_ago:
            intake.offer(message)

    run_intake(store, story, 25)
    assert seen["waiting"] == 15
    assert (seen["s"] or 0) >= 40
    assert shown("fedge_fleet_event_seconds_sum") >= 40
    assert shown("fedge_fleet_acknowledged_timestamp_seconds") > time.time() - 100
