"""What replicas tell each other, who may come in by the services' listener, and which data_dir is theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from databases import PostgresqlDatabases
from fleet_world import NOW, TENANT, Machine, anomaly, enrol_directly, health
from free_ports import is_taken
from mosquitto_site import Client, MosquittoSite
from sqlalchemy import text
from waiting import wait_until

from fleet.app import _broker_account, _instance
from fleet.errors import BrokerError
from fleet.ingest.judging import Arrival
from fleet.ingest.store import EventStore
from fleet.installation import check_shared, installation_of
from fleet.leadership import LEADER_LOCK, PostgresqlLeadership, is_led
from fleet.metrics import FleetMetrics
from fleet.migrations.upgrade import _config, open_storage
from fleet.mqtt.outgoing import Outgoing
from fleet.replicas import Replicas
from fleet.storage.base import Database, open_database
from fleet.storage.device_tables import Device
from protocol.errors import TopicError
from protocol.messages.kinds import DeathReason, Kind
from protocol.messages.payloads import Death
from protocol.names import check_name
from runtime.errors import StorageError
from service.errors import StartError


@pytest.fixture
def meeting(postgresql_url: str) -> Iterator[Database]:
    opened = open_storage(postgresql_url)
    yield opened
    opened.close()


class Door:
    """A `BrokerDoor` that notes whom it shut out, or refuses."""

    def __init__(self, refusal: str = "") -> None:
        self.out: list[str] = []
        self._refusal = refusal

    async def shut_out(self, name: str) -> None:
        if self._refusal:
            raise BrokerError(self._refusal)
        self.out.append(name)


class One:
    """One replica without its API: leadership, what waits, and the words between them."""

    def __init__(self, database: Database, name: str, refusal: str = "") -> None:
        self.outgoing, self.door, self.silenced = Outgoing(), Door(refusal), list[str]()
        self.woken = 0
        self.leadership = PostgresqlLeadership(
            database,
            instance=name,
            installation="one",
            hear=lambda word: self.replicas.hear(word),  # noqa: PLW0108 - made below
        )
        self.replicas = Replicas(
            database,
            self.leadership,
            self.outgoing,
            me=name,
            door=self.door,
            silence=self.silenced.append,
            wake=self._wake,
        )

    def _wake(self) -> None:
        self.woken += 1

    async def run(self) -> None:
        await asyncio.gather(self.leadership.run(), self.replicas.run())


def meet(database: Database, story: Callable[[One, One], Awaitable[None]], refusal: str = "") -> None:
    """Run `story` between a leader and a follower."""

    async def main() -> None:
        leader, follower = One(database, "a", refusal), One(database, "b")
        tasks = [asyncio.create_task(leader.run())]
        await leader.leadership.wait_until_leader()
        tasks.append(asyncio.create_task(follower.run()))
        await until(lambda: follower.leadership.is_connected)
        try:
            await story(leader, follower)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.slow
def test_what_a_follower_was_to_publish_wake_silence_or_shut_out_the_leader_does(meeting: Database) -> None:
    async def story(leader: One, follower: One) -> None:
        follower.outgoing.announce([f"press-{number}" for number in range(200)])
        follower.outgoing.announce(["lathe"], Kind.COMMANDS)
        said: set[tuple[Kind, str]] = set()

        def all_said() -> bool:
            said.update(words := leader.outgoing.take_news(1000))
            leader.outgoing.settle(words)
            return len(said) == 201

        await until(all_said)
        assert (Kind.COMMANDS, "lathe") in said
        assert follower.outgoing.take_news(10) == []

        follower.replicas.wake()
        await until(lambda: leader.woken > 0)
        follower.replicas.silence("loud")
        await until(lambda: leader.silenced == ["loud"])
        await asyncio.gather(*(follower.replicas.shut_out(name) for name in ("thief", "thief", "spy")))
        assert sorted(set(leader.door.out)) == ["spy", "thief"]
        assert follower.door.out == []
        leader.replicas.hear("words of a newer build")

    meet(meeting, story)


@pytest.mark.slow
def test_what_the_brokers_door_refuses_the_leader_is_told_where_it_was_asked(meeting: Database) -> None:
    async def story(_leader: One, follower: One) -> None:
        with pytest.raises(BrokerError, match="no such plugin"):
            await follower.replicas.shut_out("thief")

    meet(meeting, story, refusal="no such plugin")


@pytest.mark.slow
def test_without_a_leader_whoever_asks_is_told_so_and_nothing_waits_for_ever(
    meeting: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.replicas.PATIENCE_S", 0.05)

    async def main() -> None:
        with pytest.raises(BrokerError, match="no leader of this fleet has confirmed"):
            await One(meeting, "lonely").replicas.shut_out("thief")

    asyncio.run(main())


@pytest.mark.slow
def test_a_replica_with_a_data_dir_of_its_own_is_refused_while_another_one_leads(
    meeting: Database, tmp_path: Path
) -> None:
    mine, other = installation_of(tmp_path / "a"), installation_of(tmp_path / "b")
    assert mine != other
    assert installation_of(tmp_path / "a") == mine

    async def main() -> None:
        led = PostgresqlLeadership(meeting, instance="a", installation=mine, hear=lambda _: None)
        running = asyncio.create_task(led.run())
        await led.wait_until_leader()
        assert is_led(meeting)
        check_shared(meeting, tmp_path / "a", is_led=True)
        with pytest.raises(StartError, match=r"data_dir .*b is not that of the process that leads"):
            check_shared(meeting, tmp_path / "b", is_led=True)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())
    wait_until(lambda: not is_led(meeting), "the lead to be free")
    check_shared(meeting, tmp_path / "b", is_led=False)


def test_a_will_that_a_slow_replica_stores_late_takes_no_device_away_that_was_heard_since(
    database: Database,
) -> None:
    machine = Machine(name="press-1")
    enrol_directly(database, machine)
    store = EventStore(database, TENANT, FleetMetrics())

    def is_online() -> bool:
        with database.read() as session:
            return session.get_one(Device, "press-1").online

    def will(received_at: float) -> Arrival:
        return machine.arrival(Death(reason=DeathReason.LOST), sequence=0, at=received_at - 1)

    store.store([machine.arrival(anomaly(), at=NOW)])
    assert is_online()
    store.store([machine.arrival(health(), at=NOW + 5), will(NOW + 2)])
    assert is_online(), "it was heard at NOW + 6, after the will had come"
    store.store([will(NOW + 8)])
    assert not is_online()


@pytest.fixture
def shared_site(tmp_path: Path, postgresql_url: str) -> Iterator[MosquittoSite]:
    site = MosquittoSite(tmp_path, postgresql_url, is_shared=True)
    yield site
    site.close()


@pytest.mark.slow
def test_two_replicas_of_one_certificate_are_in_at_once_where_no_device_may_enter(
    shared_site: MosquittoSite,
) -> None:
    site = shared_site
    site.start()
    services = int(site.settings.mqtt.url.rpartition(":")[2])  # type: ignore[union-attr] # the site has one
    devices = site.broker.port
    wait_until(lambda: is_taken(services), "the second listener, too")
    fleet = site.broker.certificates.service("fleet")
    site.broker.port = services
    first, second = (site.dial(fleet, client_id=f"fleet:{name}") for name in "ab")
    first.subscribe(f"$share/fleet/fedge/v1/{TENANT}/+/health")
    second.subscribe(f"$share/fleet/fedge/v1/{TENANT}/+/health")
    assert (first.is_in, second.is_in) == (True, True)
    assert not Client(site.broker, site.certificate("press-1"), client_id="fleet:a").is_in
    site.broker.port = devices
    assert site.connect("fleet-a").is_in, "a device may be called so"
    device = site.connect("press-1")
    for _ in range(20):
        device.publish(f"fedge/v1/{TENANT}/press-1/health", "{}")
    first.turn(lambda: len(first.heard) == 10, "its share")
    second.turn(lambda: len(second.heard) == 10, "its share")
    assert not first.is_lost


@pytest.mark.slow
def test_the_name_of_a_replica_at_the_broker_is_none_that_a_device_may_have(
    shared_site: MosquittoSite,
) -> None:
    assert shared_site.settings.mqtt is not None
    account = _broker_account(shared_site.settings.mqtt, _instance("0123456789abcdef"))
    with pytest.raises(TopicError):
        check_name(account._client_id, "device id")


@pytest.mark.slow
def test_a_newer_build_does_not_change_the_schema_below_a_process_that_leads(
    postgresql_databases: PostgresqlDatabases,
) -> None:
    with postgresql_databases.fresh(is_migrated=False) as url, closing(open_database(url)) as former:
        with former.write() as session:
            command.upgrade(_config(session), "0017")
        with former.engine.connect() as leader:
            leader.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LEADER_LOCK})
            with pytest.raises(StorageError, match=r"schema is 0017, .* stop it \(every replica\)"):
                open_storage(url)
            leader.execute(text("SELECT pg_advisory_unlock_all()"))
        open_storage(url).close()
