"""What is retained at the broker: said again where the broker may lack it and nowhere else, the newest word last, nothing lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet_world import NOW, TENANT, Machine, enrol_directly
from hypothesis import given
from hypothesis import strategies as st
from mosquitto_broker import MosquittoBroker
from sqlalchemy import update

from fleet.instruction_key import InstructionKey
from fleet.instructions import Instructions
from fleet.leadership import SoleLeadership
from fleet.metrics import FleetMetrics
from fleet.mqtt import retained as retained_module
from fleet.mqtt.outgoing import Outgoing
from fleet.mqtt.retained import RetainedPublisher
from fleet.storage.base import Database
from fleet.storage.device_tables import Desired
from protocol.messages.envelope import decode
from protocol.messages.kinds import Kind
from protocol.messages.payloads import DesiredState
from service.event_source import EventSource
from service.mqtt_client import MqttClient

DEVICES = [f"press-{number}" for number in range(5)]
WORDS = [(Kind.DESIRED, device) for device in DEVICES]


class Publishing(MqttClient):
    """A client that remembers to whom it said something."""

    def __init__(self, port: int) -> None:
        super().__init__("127.0.0.1", port, client_id="fleet", tls=None, keepalive_s=20, timeout_s=60.0)
        self.told: list[str] = []

    async def publish(self, topic: str, *args: Any, **named: Any) -> None:  # type: ignore[override] # the part that is used
        await super().publish(topic, *args, **named)
        self.told.append(topic.split("/")[3])

    def devices(self) -> list[str]:
        return sorted(name for name in self.told if name != "fleet")


class Fleet:
    """One life of the fleet's publishing side."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.outgoing = Outgoing()
        self.publisher = RetainedPublisher(
            self.outgoing,
            Instructions(
                InstructionKey(folder),
                tenant=TENANT,
                messages=EventSource("fleet", boot_id="f1", now=lambda: NOW),
                now=lambda: NOW,
            ),
            database=database,
            leadership=SoleLeadership(database),
            tenant=TENANT,
            metrics=FleetMetrics(),
            life="a1",
        )

    async def connected(
        self, port: int, until: Callable[[Publishing], bool], *, mark: bool = True
    ) -> list[str]:
        """Hold one connection until something has happened, and the mark behind it is retained; whom it told."""
        async with Publishing(port) as client:
            await self.publisher.begin(client)
            running = asyncio.create_task(self.publisher.run(client))
            try:
                async with asyncio.timeout(60):
                    while not until(client) or ("fleet" in client.told) != mark:
                        await asyncio.sleep(0.01)
            finally:
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running
            return client.devices()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[MosquittoBroker]:
    """A Mosquitto that keeps what it holds on its disk, as Debian's does."""
    kept = ["persistence true", f"persistence_location {tmp_path}/", "autosave_interval 0"]
    with MosquittoBroker(tmp_path, settings=kept, tls=False) as running:
        yield running


@pytest.fixture
def wished(database: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Five devices, each with a desired state."""
    monkeypatch.setattr(retained_module, "MARK_EVERY_S", 0.02)
    enrol_directly(database, *(Machine(name=device) for device in DEVICES))
    with database.write() as session:
        for device in DEVICES:
            session.add(
                Desired(
                    device=device,
                    execution="e1",
                    release="motor/1",
                    counter=4,
                    set_at=NOW,
                    bundle_path="/v1/releases/motor/1/bundle",
                    bundle_sha256="0" * 64,
                    bundle_bytes=10,
                )
            )
    return database


def test_a_broker_that_still_holds_everything_is_told_nothing_again_and_one_that_was_killed_what_it_lost(
    wished: Database, broker: MosquittoBroker, tmp_path: Path
) -> None:
    async def story() -> None:
        fleet, port = Fleet(wished, tmp_path), broker.port
        told = await fleet.connected(port, lambda client: len(client.devices()) == 5)
        assert told == DEVICES, "it cannot know what a broker holds that it meets for the first time"
        assert not await fleet.connected(port, lambda _: True, mark=False)
        broker.stop()  # it saves, and reads again
        broker.start()
        assert not await fleet.connected(port, lambda _: True, mark=False)
        fleet.outgoing.announce(DEVICES[:2])
        assert await fleet.connected(port, lambda client: len(client.devices()) == 2) == DEVICES[:2]
        broker.kill()  # what it last saved is older than the two
        broker.start()
        assert await fleet.connected(port, lambda client: len(client.devices()) == 2) == DEVICES[:2]
        broker.kill()
        (tmp_path / "mosquitto.db").unlink()
        broker.start()
        assert await fleet.connected(port, lambda client: len(client.devices()) == 5) == DEVICES
        other = Fleet(wished, tmp_path)
        assert await other.connected(port, lambda client: len(client.devices()) == 5) == DEVICES

    asyncio.run(story())


class Slow:
    """A broker that confirms when it is let; `began` are the words that it was sent, `confirmed` those it holds."""

    def __init__(self) -> None:
        self.began: list[tuple[str, DesiredState]] = []
        self.confirmed: list[tuple[str, DesiredState]] = []
        self.lets = asyncio.Event()

    async def publish(self, topic: str, payload: bytes, qos: int = 0, retain: bool = False) -> None:
        if topic.split("/")[3] == "fleet":
            return
        data = decode(payload).data
        assert isinstance(data, DesiredState)
        word = (topic.split("/")[3], data)
        self.began.append(word)
        await self.lets.wait()
        self.confirmed.append(word)


def beside_a_slow_broker(database: Database, folder: Path, story: Callable[[Slow, Fleet], Any]) -> None:
    async def run() -> None:
        fleet, broker = Fleet(database, folder), Slow()
        client: Any = broker
        running = asyncio.create_task(fleet.publisher.run(client))
        try:
            async with asyncio.timeout(60):
                await story(broker, fleet)
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    asyncio.run(run())


def counted(database: Database, device: str, counter: int) -> None:
    with database.write() as session:
        session.execute(update(Desired).where(Desired.device == device).values(counter=counter))


def test_a_word_that_changed_while_it_was_under_way_is_said_anew_whoever_changed_it(
    wished: Database, tmp_path: Path
) -> None:
    async def story(broker: Slow, fleet: Fleet) -> None:
        fleet.outgoing.announce(DEVICES)
        while len(broker.began) < 5:
            await asyncio.sleep(0.01)
        # another process writes, publishes its word and dies: nobody announces anything here
        await asyncio.to_thread(counted, wished, DEVICES[3], 9)
        broker.lets.set()
        while len(broker.confirmed) < 6:
            await asyncio.sleep(0.01)
        assert [(device, word.counter) for device, word in broker.confirmed[5:]] == [(DEVICES[3], 9)]

    beside_a_slow_broker(wished, tmp_path, story)


def test_the_second_word_to_a_device_waits_for_the_first_and_the_others_do_not(
    wished: Database, tmp_path: Path
) -> None:
    async def story(broker: Slow, fleet: Fleet) -> None:
        fleet.outgoing.announce(DEVICES[:1])
        while not broker.began:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(counted, wished, DEVICES[0], 5)
        fleet.outgoing.announce(DEVICES[:2])
        while len(broker.began) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert [device for device, _ in broker.began] == DEVICES[:2]
        broker.lets.set()
        while len(broker.confirmed) < 3:
            await asyncio.sleep(0.01)
        assert [word.counter for device, word in broker.confirmed if device == DEVICES[0]] == [4, 5]

    beside_a_slow_broker(wished, tmp_path, story)


def test_what_a_broken_connection_did_not_confirm_is_said_by_the_next(
    wished: Database, tmp_path: Path
) -> None:
    async def story() -> None:
        fleet, broker = Fleet(wished, tmp_path), Slow()
        client: Any = broker
        fleet.outgoing.announce(DEVICES[2:])
        for _ in range(2):
            connection = asyncio.create_task(fleet.publisher.run(client))
            async with asyncio.timeout(60):
                while len(broker.began) < 3:
                    await asyncio.sleep(0.01)
            assert sorted(device for device, _ in broker.began) == DEVICES[2:]
            connection.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await connection
            assert not broker.confirmed
            broker.began.clear()

    asyncio.run(story())


ACTIONS = st.one_of(
    st.tuples(st.just("announce"), st.sets(st.sampled_from(DEVICES))),
    st.tuples(st.just("again"), st.sets(st.sampled_from(DEVICES))),
    st.tuples(st.sampled_from(["take", "confirm", "lose"]), st.integers(1, 4)),
)


@given(st.lists(ACTIONS, max_size=40))
def test_whatever_happens_each_word_leaves_after_it_was_announced_and_never_twice_at_once(
    actions: list[tuple[str, Any]],
) -> None:
    async def story() -> None:
        outgoing, under_way = Outgoing(), []
        unsaid: set[tuple[Kind, str]] = set()
        for action, value in [
            *actions,
            ("lose", 9),
            ("confirm", 9),
            ("take", 99),
            ("confirm", 99),
            ("take", 99),
        ]:
            match action:
                case "announce":
                    outgoing.announce(value)
                    unsaid |= {(Kind.DESIRED, device) for device in value}
                case "again":
                    outgoing.say_again((Kind.DESIRED, device) for device in value)
                case "take":
                    taken = outgoing.take_news(value) or outgoing.take_again(value)
                    assert not set(taken) & {word for chunk in under_way for word in chunk}
                    unsaid -= set(taken)
                    under_way.append(taken)
                case "confirm" | "lose":
                    for chunk in under_way[:value]:
                        outgoing.settle(chunk, unsaid=chunk if action == "lose" else ())
                        unsaid |= set(chunk) if action == "lose" else set()
                    del under_way[:value]
        assert not unsaid

    asyncio.run(story())
