"""A real Mosquitto with the files of deploy/mosquitto: the fleet's passwords open it, each device has its own topics."""

from __future__ import annotations

import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from fleet_world import Machine, enrol_directly
from free_ports import free_port
from paho.mqtt.enums import CallbackAPIVersion
from structlog.testing import capture_logs
from waiting import wait_until

from fleet.auth.broker_passwords import BrokerAccounts, hash_password
from fleet.migrations.upgrade import open_storage
from fleet.storage.base import Database
from fleet.storage.device_tables import Device, DeviceState
from protocol.messages.kinds import Kind
from protocol.topics import DOWNLINK_KINDS, UPLINK_KINDS, device_topic, training_topic

DEPLOYED = Path(__file__).parents[2] / "deploy" / "mosquitto"
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
PASSWORDS = {"d-1": "first", "d-2": "second", "aggregator": "third", "fleet": "fourth"}
SENTINEL = "the end"

needs_mosquitto = pytest.mark.skipif(
    MOSQUITTO is None, reason="mosquitto is not installed: apt-get install mosquitto"
)


class Broker:
    """Mosquitto on loopback with the deployed configuration; only its listener and paths are the test's."""

    def __init__(self, folder: Path) -> None:
        self.port, self.passwords, self.pid_file = free_port(), folder / "passwords", folder / "broker.pid"
        acl = folder / "acl"
        shutil.copy(DEPLOYED / "acl", acl)
        # Mosquitto gives up root for a user that must read these, as /etc/mosquitto/fedge lets it.
        acl.chmod(0o644)
        settings = (DEPLOYED / "fedge.conf").read_text().partition("\nlistener ")[0]
        for key, path in (("password_file", self.passwords), ("acl_file", acl), ("pid_file", self.pid_file)):
            settings, replaced = re.subn(rf"(?m)^{key} .*$", f"{key} {path}", settings)
            assert replaced == 1
        settings = settings.replace("persistence true", "persistence false")
        config = folder / "mosquitto.conf"
        config.write_text(f"{settings}\nuser root\nlistener {self.port} 127.0.0.1\n")
        self.log = folder / "mosquitto.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(MOSQUITTO), "-c", str(config)], stdout=log, stderr=subprocess.STDOUT
            )

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)


class Client:
    """One connection that remembers how it was greeted and what it was told."""

    def __init__(self, port: int, user: str | None, password: str | None = None) -> None:
        self.greetings: list[str] = []
        self.heard: list[tuple[str, str]] = []
        self._subscribed = 0
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv311)
        if user is not None:
            self._client.username_pw_set(user, password)
        self._client.on_connect = lambda *a: self.greetings.append(str(a[3]))
        self._client.on_message = lambda _c, _d, m: self.heard.append((m.topic, m.payload.decode()))
        self._client.on_subscribe = self._count
        self._client.connect("127.0.0.1", port)
        self.turn(lambda: bool(self.greetings))

    def _count(self, *_: object) -> None:
        self._subscribed += 1

    def turn(self, done: Callable[[], bool], timeout_s: float = 10.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < deadline, "the broker did not answer in time"
            self._client.loop(0.02)

    def subscribe(self, topic: str) -> None:
        before = self._subscribed
        self._client.subscribe(topic, qos=1)
        self.turn(lambda: self._subscribed > before)

    def publish(self, topic: str, text: str) -> None:
        sent = self._client.publish(topic, text, qos=1)
        self.turn(sent.is_published)

    def topics_until_sentinel(self) -> list[str]:
        self.turn(lambda: any(text == SENTINEL for _, text in self.heard))
        return [topic for topic, text in self.heard if text != SENTINEL]

    def close(self) -> None:
        self._client.disconnect()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_storage(f"sqlite:///{tmp_path}/fleet.sqlite")
    enrol_directly(database, Machine(name="d-1"), Machine(name="d-2"))
    with database.write() as session:
        for name in ("d-1", "d-2"):
            device = session.get_one(Device, name)
            device.broker_password_hash = hash_password(PASSWORDS[name], secrets.token_bytes(12))
    yield database
    database.close()


def accounts_of(database: Database, folder: Path, **changes: object) -> BrokerAccounts:
    for name in ("fleet", "aggregator"):
        (folder / f"{name}.password").write_text(PASSWORDS[name])
    return BrokerAccounts(
        database,
        file=folder / "passwords",
        services={name: folder / f"{name}.password" for name in ("fleet", "aggregator")},
        random_bytes=secrets.token_bytes,
        broker_pid_file=folder / "broker.pid",
        **changes,  # type: ignore[arg-type] # the test's own keyword
    )


@pytest.fixture
def connect(database: Database, tmp_path: Path) -> Iterator[Callable[..., Client]]:
    accounts_of(database, tmp_path).rewrite()
    with ExitStack() as stack:
        broker = Broker(tmp_path)
        stack.callback(broker.close)
        wait_until(lambda: "running" in broker.log.read_text(), f"Mosquitto (see {broker.log})")

        def connect(user: str | None, password: str | None = None) -> Client:
            client = Client(broker.port, user, PASSWORDS.get(user or "") if password is None else password)
            stack.callback(client.close)
            return client

        yield connect


@needs_mosquitto
def test_only_who_is_in_the_password_file_gets_in(connect: Callable[..., Client]) -> None:
    for user in PASSWORDS:
        assert connect(user).greetings == ["Success"]
    for user, password in ((None, None), ("d-1", "second"), ("stranger", "first")):
        assert connect(user, password).greetings == ["Not authorized"]


@needs_mosquitto
def test_a_device_speaks_on_its_own_uplink_topics_only(connect: Callable[..., Client]) -> None:
    fleet, device = connect("fleet"), connect("d-1")
    fleet.subscribe("fedge/v1/#")
    own = [device_topic("acme", "d-1", kind) for kind in sorted(UPLINK_KINDS)]
    forbidden = [
        *(device_topic("acme", "d-2", kind) for kind in sorted(UPLINK_KINDS)),
        *(device_topic("acme", "d-1", kind) for kind in sorted(DOWNLINK_KINDS)),
        training_topic("acme", "motor"),
    ]
    for topic in own + forbidden:
        device.publish(topic, "x")
    fleet.publish("fedge/v1/sentinel", SENTINEL)
    assert fleet.topics_until_sentinel() == own


@needs_mosquitto
def test_a_device_hears_its_own_orders_and_the_invitations_of_the_aggregator(
    connect: Callable[..., Client],
) -> None:
    fleet, aggregator, device = connect("fleet"), connect("aggregator"), connect("d-1")
    device.subscribe("fedge/v1/#")
    own = [device_topic("acme", "d-1", kind) for kind in sorted(DOWNLINK_KINDS)]
    others = [device_topic("acme", "d-2", kind) for kind in (*sorted(DOWNLINK_KINDS), Kind.ANOMALY)]
    for topic in own + others:
        fleet.publish(topic, "x")
    aggregator.publish(device_topic("acme", "d-1", Kind.DESIRED), "an order that is not the aggregator's")
    aggregator.publish(training_topic("acme", "motor"), "x")
    aggregator.publish(training_topic("acme", "press"), SENTINEL)
    assert device.topics_until_sentinel() == [*own, training_topic("acme", "motor")]


@needs_mosquitto
def test_a_revoked_device_is_out_as_soon_as_the_fleet_has_told_the_broker(
    connect: Callable[..., Client], database: Database, tmp_path: Path
) -> None:
    assert connect("d-2").greetings == ["Success"]
    with database.write() as session:
        session.get_one(Device, "d-2").state = DeviceState.REVOKED
    accounts_of(database, tmp_path).rewrite()
    wait_until(lambda: connect("d-2").greetings == ["Not authorized"], "Mosquitto to have read the file")
    assert connect("d-1").greetings == ["Success"]


def test_a_broker_of_another_user_that_cannot_be_told_is_not_passed_over_in_silence(
    database: Database, tmp_path: Path
) -> None:
    def refuse(_pid: int, number: int) -> None:
        assert number == signal.SIGHUP
        raise PermissionError(1, "Operation not permitted")

    def gone(_pid: int, _number: int) -> None:
        raise ProcessLookupError(3, "No such process")

    (tmp_path / "broker.pid").write_text("4711\n")
    with capture_logs() as logs:
        accounts_of(database, tmp_path, send_signal=gone).rewrite()
    assert logs == []  # it reads the file when it starts
    with capture_logs() as logs:
        accounts_of(database, tmp_path, send_signal=refuse).rewrite()
    assert [line["event"] for line in logs] == ["broker_not_told"]
    assert "fedge-broker-reload.path" in logs[0]["hint"]
    assert "d-2:$7$" in (tmp_path / "passwords").read_text()
