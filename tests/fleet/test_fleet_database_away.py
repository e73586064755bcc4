"""A database that is read-only, cut off or shared with another process: nothing is acknowledged that is not stored."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest
from fleet_world import TENANT, Machine, anomaly, enrol_directly, health
from sqlalchemy import create_engine, event, func, select, text
from sqlalchemy.pool import Pool
from structlog.testing import capture_logs
from test_fleet_ranges import sequences_of
from waiting import wait_until

from fleet.ingest.judging import Arrival
from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.migrations.upgrade import open_storage
from fleet.mqtt.intake import Intake
from fleet.mqtt.outgoing import Outgoing
from fleet.settings import MqttSettings
from fleet.storage.base import Database
from fleet.storage.boot_tables import Boot, EventRange
from fleet.storage.dead_letter_tables import DeadLetter
from fleet.storage.event_tables import Anomaly
from fleet.storage.outages import DatabaseAwayError

Offer = Callable[[Sequence[Arrival]], None]


def run(database: Database, statement: str, *, autocommit: bool = False) -> None:
    engine = create_engine(database.engine.url, isolation_level="AUTOCOMMIT" if autocommit else None)  # type: ignore[arg-type] # None is the default
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()


@contextmanager
def read_only(database: Database) -> Iterator[None]:
    """A database that takes nothing, as a replica that was promoted to nothing, or a disk that was mounted so."""
    if database.engine.dialect.name == "postgresql":
        for statement in ("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"):
            run(database, statement, autocommit=True)
        try:
            yield
        finally:
            for statement in ("ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()"):
                run(database, statement, autocommit=True)
        return

    def forbid(connection: object, *_: object) -> None:
        connection.execute("PRAGMA query_only = ON")  # type: ignore[attr-defined] # a connection of sqlite3

    event.listen(Pool, "checkout", forbid)
    try:
        yield
    finally:
        event.remove(Pool, "checkout", forbid)
        database.close()  # its connections would stay so


def cut_off(database: Database) -> None:
    """Every connection ends at once, as when the server is restarted; there are none on SQLite."""
    if database.engine.dialect.name == "postgresql":
        run(
            database,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
            autocommit=True,
        )


def is_refused(database: Database) -> bool:
    try:
        EventStore(database, TENANT, FleetMetrics()).check_writable()
    except DatabaseAwayError:
        return True
    return False


def play(database: Database, sent: Sequence[Arrival], story: Callable[[Offer, FleetMetrics], None]) -> None:
    """Run the intake over a real store until all that was sent is acknowledged, and see that it is stored by then."""
    metrics = FleetMetrics()

    async def main() -> None:
        outgoing = Outgoing()
        chosen = MqttSettings(url="mqtt://127.0.0.1:1", batch_events=50, batch_wait_s=0)
        store = EventStore(database, TENANT, metrics)
        intake = Intake(store, outgoing, metrics, chosen, wake_rollouts=lambda: None)
        task = asyncio.create_task(intake.run())
        loop = asyncio.get_running_loop()

        def offer(arrivals: Sequence[Arrival]) -> None:
            for one in arrivals:
                loop.call_soon_threadsafe(intake.offer, one)

        telling = asyncio.create_task(asyncio.to_thread(story, offer, metrics))
        acked: set[int] = set()
        while len(acked) < len(sent):
            with suppress(TimeoutError):  # a device sends again what it hears nothing of
                async with asyncio.timeout(2.0):
                    await outgoing.acks_waiting.wait()
            if not outgoing.acks_waiting.is_set() and telling.done():
                offer(sent)
            acked |= sequences_of(ack for acks in outgoing.take_acks().values() for ack in acks)
            with suppress(DatabaseAwayError):  # this connection may be cut off too
                with database.read() as session:
                    on_disk = set(session.scalars(select(Anomaly.sequence)))
                assert acked <= on_disk
        await telling
        task.cancel()
        assert acked == set(range(1, len(sent) + 1))

    asyncio.run(main())


def test_while_a_database_is_read_only_nothing_is_acknowledged_and_afterwards_everything_is(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.mqtt.intake.STORE_RETRY_S", 0.01)
    machine = Machine(name="press-1")
    enrol_directly(database, machine)
    sent = [machine.arrival(anomaly()) for _ in range(120)]

    def story(offer: Offer, metrics: FleetMetrics) -> None:
        with read_only(database):
            wait_until(lambda: is_refused(database), "the database to take nothing")
            offer(sent)
            gauge = metrics.registry.get_sample_value
            wait_until(lambda: gauge("fedge_fleet_storing") == 0, "that to be noticed")
            with database.read() as session:
                for table in (Anomaly, DeadLetter):
                    assert session.scalar(select(func.count()).select_from(table)) == 0
        wait_until(lambda: gauge("fedge_fleet_storing") == 1, "the return to be noticed")
        wait_until(lambda: not is_refused(database) and database.watch.outage is None, "it to be believed")

    with capture_logs() as logs:
        play(database, sent, story)
    assert [line["event"] for line in logs] == ["database_away", "database_back"]


def test_connections_that_end_in_the_middle_cost_nobody_an_event(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.mqtt.intake.STORE_RETRY_S", 0.01)
    machine = Machine(name="press-1")
    enrol_directly(database, machine)
    sent = [machine.arrival(anomaly()) for _ in range(300)]

    def story(offer: Offer, _metrics: FleetMetrics) -> None:
        for start in range(0, 300, 60):
            offer(sent[start : start + 60])
            cut_off(database)

    play(database, sent, story)


def test_two_processes_that_store_the_same_events_at_the_same_time_store_each_once(
    database: Database, database_url: str
) -> None:
    machine = Machine(name="press-1", number=1)
    enrol_directly(database, machine)
    sent: list[Arrival] = []
    for number in (1, 2, 3):
        machine.restart(f"boot-{number}", number)
        sent += [machine.arrival(anomaly() if n % 2 else health()) for n in range(20)]
    broken = Arrival(topic=sent[0].topic, payload=b"{", retained=False, received_at=sent[0].received_at)
    acked: list[set[int]] = []

    def store(through: Database, seed: int) -> None:
        mixed = random.Random(seed).sample([*sent, broken], k=len(sent) + 1)
        events = EventStore(through, TENANT, FleetMetrics())
        done = [events.store(mixed[n : n + 7]) for n in range(0, len(mixed), 7)]
        acked.append(sequences_of(ack for one in done for ack in one.acks.values()))

    other = open_storage(database_url)  # shares no lock with the first, as another process does not
    threads = [
        threading.Thread(target=store, args=(through, seed))
        for seed, through in enumerate((database, other, database, other))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    assert acked == [set(range(1, 21))] * 4
    with database.read() as session:
        stored = Counter(session.execute(select(Anomaly.boot_id, Anomaly.sequence)))
        assert stored == Counter((f"boot-{b}", n) for b in (1, 2, 3) for n in range(2, 21, 2))
        ranges: Sequence[tuple[str, int, int]] = session.execute(
            select(EventRange.boot_id, EventRange.first, EventRange.last).order_by(EventRange.boot_id)
        ).all()
        assert ranges == [(f"boot-{n}", 1, 20) for n in (1, 2, 3)]
        assert session.scalars(select(Boot.counted).order_by(Boot.counted)).all() == [1, 2, 3]
        assert session.scalars(select(DeadLetter.times)).one() == 4
