"""The fleet's words as they leave it: sealed for one device, good for a week, renewed in time and when the key or the clock changes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fleet_api_world import Fleet, fleet, is_problem, machine
from fleet_world import NOW, TENANT, Machine, enrol_directly, word_of
from instructions_world import looking, public
from sqlalchemy import update

from fleet.instruction_key import InstructionKey
from fleet.instructions import LIFETIME_S, RENEWED_AFTER_S, Instructions
from fleet.leadership import SoleLeadership
from fleet.metrics import FleetMetrics
from fleet.mqtt import link as link_module
from fleet.mqtt.link import BrokerLink
from fleet.mqtt.outgoing import Outgoing
from fleet.mqtt.retained import RetainedPublisher
from fleet.storage.base import Database
from fleet.storage.command_tables import DeviceCommands
from fleet.storage.device_tables import Desired
from fleet.storage.release_tables import Release
from protocol.errors import SealError
from protocol.messages.commands import Commands
from protocol.messages.envelope import Event, decode
from protocol.messages.kinds import Kind
from protocol.messages.payloads import Ack, BootAck, DesiredState
from protocol.sealed_events import check_seal
from service.event_source import EventSource

__all__ = ["fleet", "looking", "machine"]  # the fixtures

ACK = Ack(boots=(BootAck(boot_id="b1", ranges=((1, 3),)),))


def is_by(event: Event, key: ec.EllipticCurvePublicKey, device: str, now: float = NOW) -> bool:
    try:
        check_seal(event, [key], tenant=TENANT, device=device, now_s=now)
    except SealError:
        return False
    return True


def instructions(folder: Path, now: Callable[[], float] = lambda: NOW) -> Instructions:
    messages = EventSource("fleet", boot_id="f1", now=now)
    return Instructions(InstructionKey(folder), tenant=TENANT, messages=messages, now=now)


# --- what is sealed -------------------------------------------------------------------------------------------------------------


def test_a_word_is_for_one_device_for_a_week_and_never_the_same_twice(tmp_path: Path) -> None:
    made, key = instructions(tmp_path), public(tmp_path)
    one, other = (decode(made.message(ACK, "press-1")) for _ in range(2))
    assert one.seal is not None
    assert other.seal is not None
    assert one.seal.nonce != other.seal.nonce
    assert one.seal.not_after == NOW + LIFETIME_S == NOW + 7 * 86_400
    assert RENEWED_AFTER_S < LIFETIME_S / 2
    for event in (one, other):
        assert is_by(event, key, "press-1")
        assert not is_by(event, key, "press-2")
        assert not is_by(event, ec.generate_private_key(ec.SECP256R1()).public_key(), "press-1")
        assert not is_by(event, key, "press-1", NOW + LIFETIME_S)


def wish(device: str, counter: int = 4) -> Desired:
    return Desired(
        device=device,
        execution="e1",
        release="motor/1",
        counter=counter,
        set_at=NOW,
        bundle_path="/v1/releases/motor/1/bundle",
        bundle_sha256="0" * 64,
        bundle_bytes=10,
    )


def words_to(device: str) -> tuple[Desired, DeviceCommands]:
    commands = DeviceCommands(
        device=device, counter=5, settings={}, settings_counter=0, settings_by=None, settings_at=None
    )
    return wish(device), commands


@pytest.mark.parametrize("kind", ["desired", "commands"])
def test_over_https_a_word_is_sealed_and_its_etag_is_of_what_it_says(
    fleet: Fleet, machine: Machine, kind: str
) -> None:
    enrol_directly(fleet.database, machine)
    with fleet.database.write() as session:
        session.add_all(words_to(machine.name))
    key, path, token = public(fleet.folder / "data"), f"/v1/device/{kind}", machine.token(fleet.now())
    first, second = (fleet.call("GET", path, token) for _ in range(2))
    assert first.headers["etag"] == second.headers["etag"]
    assert first.content != second.content, "the seal is another one each time"
    for answer in (first, second):
        assert is_by(decode(answer.content, Kind(kind)), key, machine.name, fleet.now())
        assert not is_by(decode(answer.content), key, "another", fleet.now())
    known = {"If-None-Match": first.headers["etag"]}
    assert fleet.call("GET", path, token, headers=known).status_code == 304
    with fleet.database.write() as session:
        session.execute(update(Desired).where(Desired.device == machine.name).values(counter=7))
        session.execute(update(DeviceCommands).where(DeviceCommands.device == machine.name).values(counter=7))
    renewed = fleet.call("GET", path, token, headers=known)
    assert (renewed.status_code, word_of(renewed).counter) == (200, 7)


@pytest.mark.parametrize("path", ["/v1/device/desired", "/v1/device/commands"])
def test_an_agent_that_is_older_than_seals_is_told_what_to_do(
    fleet: Fleet, machine: Machine, path: str
) -> None:
    enrol_directly(fleet.database, machine)
    accept = {"Accept": "application/json, application/octet-stream"}  # what an agent of 7cc0d60 says
    answer = fleet.call("GET", path, machine.token(fleet.now()), headers=accept)
    is_problem(answer, 406, "older than the fleet; install the fleet's version of the agent")


# --- what is published ----------------------------------------------------------------------------------------------------------


class Broker:
    """What the connection publishes, in the place of its client."""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes, bool]] = []

    async def publish(self, topic: str, payload: bytes, qos: int = 0, retain: bool = False) -> None:
        if topic.split("/")[3] == "fleet":
            return  # the mark by which it knows what the broker holds
        self.published.append((topic, payload, retain))

    async def publish_all(self, messages: list[tuple[str, bytes]]) -> None:
        self.published += [(topic, payload, False) for topic, payload in messages]

    def events(self, kind: Kind) -> list[Event]:
        return [decode(payload) for topic, payload, _ in self.published if topic.endswith(f"/{kind.value}")]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def publishing(
    database: Database,
    folder: Path,
    story: Callable[[Broker, Outgoing], Awaitable[None]],
    now: Callable[[], float] = lambda: NOW,
) -> None:
    """Run `story` beside a connection that publishes and renews."""

    async def run() -> None:
        outgoing, broker = Outgoing(), Broker()
        parts: dict[str, Any] = dict.fromkeys(("intake", "door"))
        common: Any = {"tenant": TENANT, "metrics": FleetMetrics()}
        leads = SoleLeadership(database)
        retained = RetainedPublisher(
            outgoing, instructions(folder), database=database, life="a1", leadership=leads, **common
        )
        link = BrokerLink(
            None,  # type: ignore[arg-type]  # no session is begun
            instructions(folder),
            retained=retained,
            outgoing=outgoing,
            now=now,
            **common,
            **parts,
        )
        client: Any = broker
        tasks = [
            asyncio.create_task(one)
            for one in (link._publish_acks(client), retained.run(client), link._renew())
        ]
        try:
            await story(broker, outgoing)
        finally:
            for task in tasks:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks)

    asyncio.run(run())


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked every hundredth of a second whether words must be sealed anew."""
    monkeypatch.setattr(link_module, "LOOKS_EVERY_S", 0.01)


def test_what_goes_over_mqtt_is_sealed_and_an_approval_is_part_of_it(
    database: Database, tmp_path: Path
) -> None:
    machines = [Machine(name=f"press-{number}") for number in range(3)]
    enrol_directly(database, *machines)
    with database.write() as session:
        session.add(
            Release(
                family="motor",
                version=1,
                sha256="0" * 64,
                size_bytes=10,
                signed_by="x",
                manifest={},
                published_by="x",
                published_at=NOW,
                approved_at=NOW,
                approved_by="operator:ann",
                withdrawn_at=None,
                withdrawn_reason=None,
            )
        )
        for one in machines:
            session.add_all(words_to(one.name))

    async def story(broker: Broker, outgoing: Outgoing) -> None:
        outgoing.announce([one.name for one in machines])
        outgoing.announce([one.name for one in machines], Kind.COMMANDS)
        outgoing.acknowledge({one.name: ACK for one in machines})
        await until(lambda: len(broker.published) == 9)
        key = public(tmp_path)
        for topic, payload, is_retained in broker.published:
            name = topic.split("/")[3]
            event = decode(payload)
            assert is_by(event, key, name)
            assert not is_by(event, key, "another")
            assert is_retained is (not topic.endswith("/ack"))
        says = [event.data for event in broker.events(Kind.DESIRED)]
        assert all(isinstance(data, DesiredState) and data.is_approved for data in says)
        assert [event.data for event in broker.events(Kind.COMMANDS)] == [Commands(counter=5)] * 3
        assert [event.data for event in broker.events(Kind.ACK)] == [ACK] * 3

    publishing(database, tmp_path, story)


def test_what_is_retained_is_sealed_anew_before_it_ends_under_the_same_counter(
    database: Database, tmp_path: Path, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "RENEWED_AFTER_S", 0.05)
    enrol_directly(database, Machine(name="press-1"))
    with database.write() as session:
        session.add_all(words_to("press-1"))

    async def story(broker: Broker, _outgoing: Outgoing) -> None:
        await until(lambda: len(broker.events(Kind.DESIRED)) >= 3 and len(broker.events(Kind.COMMANDS)) >= 3)
        said = broker.events(Kind.DESIRED)
        assert {event.data.counter for event in said if isinstance(event.data, DesiredState)} == {4}
        assert len({event.seal and event.seal.nonce for event in said}) == len(said)

    publishing(database, tmp_path, story)


@pytest.mark.parametrize("by_s", [-30 * 86_400.0, 3600.0, 30 * 86_400.0])
def test_when_the_clock_of_the_fleet_was_wrong_and_is_set_everything_is_sealed_anew_at_once(
    database: Database, tmp_path: Path, often: None, by_s: float
) -> None:
    """What was sealed a month behind had ended before it was heard; what was sealed a month ahead could be held back for as long."""
    enrol_directly(database, Machine(name="press-1"))
    with database.write() as session:
        session.add_all(words_to("press-1"))
    wrong_s, began_s = [by_s], time.monotonic()

    async def story(broker: Broker, _outgoing: Outgoing) -> None:
        await asyncio.sleep(0.05)
        assert not broker.published, "nothing is said again without a reason"
        wrong_s[0] = 0.0
        await until(lambda: len(broker.published) == 2)
        await asyncio.sleep(0.05)
        assert len(broker.published) == 2

    publishing(database, tmp_path, story, now=lambda: NOW + wrong_s[0] + time.monotonic() - began_s)


def test_when_the_key_is_changed_everything_is_sealed_by_the_next_one_at_once(
    database: Database, tmp_path: Path, often: None
) -> None:
    enrol_directly(database, Machine(name="press-1"))
    with database.write() as session:
        session.add_all(words_to("press-1"))
    former = public(tmp_path)

    async def story(broker: Broker, outgoing: Outgoing) -> None:
        outgoing.announce(["press-1"])
        await until(lambda: broker.published)
        await asyncio.sleep(0.05)
        assert len(broker.published) == 1, "nothing is said again without a reason"
        InstructionKey(tmp_path).rotate()
        await asyncio.to_thread(InstructionKey(tmp_path).switch)
        await until(lambda: len(broker.published) == 3)
        now = public(tmp_path)
        before, *after = (decode(payload) for _, payload, _ in broker.published)
        assert is_by(before, former, "press-1")
        assert all(is_by(event, now, "press-1") for event in after)
        assert not any(is_by(event, former, "press-1") for event in after)

    publishing(database, tmp_path, story)
