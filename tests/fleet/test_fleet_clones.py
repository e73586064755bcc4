"""Two devices with one identity are named, with what can be done; stragglers, restarts and clocks are not taken for that."""

from __future__ import annotations

import random
import secrets
from contextlib import ExitStack
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from fleet_api_world import Fleet, fleet, machine
from fleet_world import NOW, TENANT, Machine, Told, anomaly, arrival, enrol_directly, health
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mosquitto_site import MosquittoSite
from sqlalchemy import select
from waiting import wait_until

from fleet.gauges import Gauges
from fleet.housekeeping import Housekeeping
from fleet.ingest.clones import CALM_S
from fleet.ingest.judging import Arrival
from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.storage.access_tables import AuditEntry
from fleet.storage.base import Database
from fleet.storage.boot_tables import IdentityConflict
from fleet.storage.device_tables import Device
from protocol.messages.envelope import Event, encode
from protocol.messages.kinds import DeathReason, Kind
from protocol.messages.payloads import Birth, Death, Payload
from protocol.topics import device_topic

__all__ = ["fleet", "machine"]  # the fixtures


class Stage:
    """Devices that speak one after the other, a second apart, through one store."""

    def __init__(self, database: Database) -> None:
        self.database, self.now = database, NOW
        self.metrics = FleetMetrics()
        self.store = EventStore(database, TENANT, self.metrics)

    def say(self, device: Machine, *said: Payload, at: float = NOW) -> None:
        self.hear(*(device.event(data, at=at) for data in said))

    def will(self, device: Machine) -> None:
        self.hear(device.event(Death(reason=DeathReason.LOST), sequence=0))

    def hear(self, *events: Event) -> None:
        arrivals = []
        for event in events:
            self.now += 1.0
            plain = arrival(event)
            arrivals.append(
                Arrival(topic=plain.topic, payload=plain.payload, retained=False, received_at=self.now)
            )
        self.store.store(arrivals)

    def keep_house(self, after_s: float = 0.0) -> None:
        self.now += after_s
        Housekeeping(
            self.database,
            offline_after_s=120,
            now=lambda: self.now,
            publisher=Told(),
        ).tidy()
        Gauges(self.database, self.metrics, lambda: NOW).count()

    def conflict(self) -> IdentityConflict | None:
        with self.database.read() as session:
            return session.scalars(
                select(IdentityConflict).where(IdentityConflict.since.is_not(None))
            ).one_or_none()

    def device(self) -> Device:
        with self.database.read() as session:
            return session.get_one(Device, "press-1")

    def audited(self) -> list[str]:
        with self.database.read() as session:
            return list(session.scalars(select(AuditEntry.action).order_by(AuditEntry.id)))


@pytest.fixture
def stage(database: Database) -> Stage:
    enrol_directly(database, Machine(name="press-1"))
    return Stage(database)


def born(hardware: str) -> Birth:
    return Birth(agent_version="0.2", hardware=hardware, family="motor")


def pair(number: int = 7, other_number: int = 7) -> tuple[Machine, Machine]:
    """Two devices that were started from copies of one SD card."""
    one = Machine(name="press-1", boot="boot-a", number=number)
    return one, Machine(name="press-1", key=one.key, boot="boot-b", number=other_number)


def test_two_devices_with_one_count_of_starts_are_named_with_boots_hardware_and_remedy(stage: Stage) -> None:
    one, other = pair()
    stage.say(one, born("rpi4"), health())
    stage.say(other, born("rpi5"), health())
    assert stage.conflict() is None  # a memory that was restored from a copy looks like this
    for _ in range(2):
        stage.say(one, health())
        stage.say(other, health())
    conflict = stage.conflict()
    assert conflict is not None
    assert conflict.message == (
        "two devices use the identity press-1: boots boot-a (start 7, rpi4), boot-b (start 7, rpi5);"
        " re-enrol one of them under another name"
    )
    assert stage.audited() == ["identity_conflict"]
    stage.keep_house()
    assert stage.metrics.registry.get_sample_value("fedge_fleet_identity_conflicts") == 1


@pytest.mark.parametrize("numbers", [(12, 7), (0, 0)], ids=["other counts", "agents that do not count"])
def test_two_devices_that_throw_each_other_out_are_named_by_their_last_wills(
    stage: Stage, numbers: tuple[int, int]
) -> None:
    one, other = pair(*numbers)
    stage.say(one, born("rpi4"))
    stage.say(other, born("rpi5"))
    for _ in range(3):
        stage.will(one)
        stage.will(other)
    conflict = stage.conflict()
    assert conflict is not None
    assert conflict.boots == ["boot-a", "boot-b"]


def test_a_conflict_is_over_when_there_was_no_sign_for_long_and_who_lives_is_followed_again(
    stage: Stage,
) -> None:
    one, other = pair()
    stage.say(one, born("rpi4"))
    stage.say(other, born("rpi5"))
    for _ in range(3):
        stage.say(one, health(release="motor/1"))
        stage.say(other, health(release="motor/2"))
    assert stage.device().release == "motor/2"  # of the two the one that came later
    stage.now += CALM_S / 2
    stage.say(one, health(release="motor/1"))  # the other was enrolled anew; this one goes on
    stage.keep_house(CALM_S / 2)
    assert stage.conflict() is not None
    stage.now += CALM_S / 2
    stage.say(one, health(release="motor/1"))
    stage.keep_house(2.0)
    assert stage.conflict() is None
    assert stage.audited() == ["identity_conflict", "identity_conflict_ended"]
    stage.say(one, health(release="motor/3"))
    assert (stage.device().boot_id, stage.device().release) == ("boot-a", "motor/3")


def test_a_conflict_that_a_clock_of_ours_saw_in_the_future_does_not_last_until_then(stage: Stage) -> None:
    one, other = pair()
    stage.now += 1e7
    for _ in range(3):
        stage.say(one, health())
        stage.say(other, health())
    assert stage.conflict() is not None
    stage.keep_house(-1e7)
    assert stage.conflict() is None


def test_a_memory_that_was_restored_from_a_copy_is_one_device(stage: Stage) -> None:
    one, other = pair()
    stage.say(one, born("rpi4"), health(), anomaly())
    stage.will(one)
    late = one.event(health())
    stage.say(other, born("rpi4"))
    stage.hear(late)  # lay at the broker
    stage.say(other, *(health() for _ in range(20)))
    assert stage.conflict() is None
    assert stage.device().boot_id == "boot-b"


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chance=st.randoms(use_true_random=False), counts=st.booleans())
def test_stragglers_restarts_lost_connections_and_clock_steps_are_never_taken_for_two_devices(
    database: Database, chance: random.Random, counts: bool
) -> None:
    name = f"press-{secrets.token_hex(6)}"
    device = Machine(name=name)
    enrol_directly(database, device)
    stage = Stage(database)
    outbox: list[Event] = []
    for number in range(1, 6):
        device.restart(f"boot-{number}", number if counts else 0)
        outbox += [
            device.event(data, at=chance.uniform(0, 2e9)) for data in (born("rpi4"), health(), anomaly())
        ]
        for _ in range(
            chance.randrange(4)
        ):  # a connection: some of the outbox in any order, and it breaks or holds
            chance.shuffle(outbox)
            some = chance.randrange(len(outbox) + 1)
            stage.hear(*outbox[:some], *chance.sample(outbox[:some], k=some // 2))
            outbox = [*outbox[some:], device.event(health(), at=chance.uniform(0, 2e9))]
            if chance.random() < 0.7:
                stage.will(device)
    stage.hear(*outbox)
    with database.read() as session:
        assert session.get(IdentityConflict, name) is None


def test_the_conflict_is_shown_by_the_api_and_selects_devices(fleet: Fleet, machine: Machine) -> None:
    other = Machine(name=machine.name, key=machine.key, boot="boot-2", number=3)
    machine.number = 3
    enrol_directly(fleet.database, machine)
    stage = Stage(fleet.database)
    for device in (machine, other) * 3:
        stage.say(device, born("rpi4"))
    view = fleet.call("GET", f"/v1/devices/{machine.name}").json()
    assert view["identity_conflict"].startswith(f"two devices use the identity {machine.name}: boots boot-1")
    chosen = fleet.call("GET", "/v1/devices", params={"query": "identity_conflict==true"}).json()["items"]
    assert [(one["id"], one["identity_conflict"]) for one in chosen] == [
        (machine.name, view["identity_conflict"])
    ]
    boots = fleet.call("GET", f"/v1/devices/{machine.name}/boots").json()
    assert [(one["boot_id"], one["number"], one["hardware"]) for one in boots] == [
        ("boot-1", 3, "rpi4"),
        ("boot-2", 3, "rpi4"),
    ]


class Clone:
    """A device as the agent is one at the broker: clean session, retained will, connects again whenever it was thrown out."""

    def __init__(self, site: MosquittoSite, device: Machine) -> None:
        self._device = device
        will = device.event(Death(reason=DeathReason.LOST), sequence=0)
        self._client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id=device.name, protocol=paho.MQTTv311
        )
        self._client.tls_set_context(site.broker.client_tls(site.certificate(device.name)))
        self._client.will_set(device_topic(TENANT, device.name, Kind.DEATH), encode(will), qos=1, retain=True)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._speak
        self._client.connect("127.0.0.1", site.broker.port)
        self._client.loop_start()

    def _speak(self, *_: object) -> None:
        event = self._device.event(health())
        self._client.publish(device_topic(TENANT, self._device.name, Kind.HEALTH), encode(event), qos=1)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.mark.slow
def test_two_clients_that_throw_each_other_out_at_mosquitto_are_named(
    tmp_path: Path, database_url: str
) -> None:
    with ExitStack() as stack:
        site = MosquittoSite(tmp_path, database_url)
        stack.callback(site.close)
        one, other = pair(12, 7)
        site.add_devices(one)
        site.start()
        api = stack.enter_context(site.fleet())
        wait_until(lambda: api.call("GET", "/healthz").json()["broker_connected"], "the fleet")
        for device in (one, other):
            stack.callback(Clone(site, device).close)
        view = wait_until(
            lambda: api.call("GET", "/v1/devices/press-1").json()["identity_conflict"], "the conflict"
        )
        assert "boots boot-a" in str(view)
        assert api.call("GET", "/metrics").status_code == 200
