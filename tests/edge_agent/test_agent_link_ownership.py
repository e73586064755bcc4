"""One thread owns the connection to the broker: shown on every call of paho's client and of its TLS socket."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from agent_world import DEVICE
from fake_link import publish
from mosquitto_broker import MosquittoBroker
from paho.mqtt.enums import CallbackAPIVersion
from waiting import wait_until

from edge_agent import pinned_tls
from edge_agent.bounded_client import BoundedClient
from edge_agent.mqtt_link import MqttLink
from edge_agent.settings import MqttSettings
from edge_agent.telemetry import Identity, last_will, subscriptions
from protocol.messages.kinds import Kind
from protocol.topics import device_topic

pytestmark = pytest.mark.slow

IDENTITY = Identity(tenant="demo", device=DEVICE, family="pump", boot_id="b1")
TOPIC = device_topic("demo", DEVICE, Kind.HEALTH)
ACK_TOPIC = device_topic("demo", DEVICE, Kind.ACK)


class Witness:
    """Which threads touched what."""

    def __init__(self) -> None:
        self.threads: dict[str, set[str]] = defaultdict(set)

    def note(self, what: str) -> None:
        self.threads[what].add(threading.current_thread().name)

    def strangers(self) -> dict[str, set[str]]:
        return {what: names - {"mqtt-link"} for what, names in self.threads.items() if names != {"mqtt-link"}}


@pytest.fixture
def witness(monkeypatch: pytest.MonkeyPatch) -> Witness:
    """Every attribute of the link's own client, and every call of its TLS socket, is noted with its thread."""
    seen = Witness()

    class WatchedClient(BoundedClient):
        def __getattribute__(self, name: str) -> Any:
            seen.note(f"client.{name}")
            return super().__getattribute__(name)

    class WatchedSocket(pinned_tls._DatedSocket):
        def __getattribute__(self, name: str) -> Any:
            seen.note(f"socket.{name}")
            return super().__getattribute__(name)

    monkeypatch.setattr("edge_agent.mqtt_link.BoundedClient", WatchedClient)
    monkeypatch.setattr(pinned_tls._PinnedContext, "sslsocket_class", WatchedSocket)
    return seen


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[MosquittoBroker]:
    with MosquittoBroker(tmp_path, knows_clients=True, settings=["log_type all"]) as made:
        yield made


BROKEN = ("Protocol error", "protocol error", "malformed", "bad record", "bad length", "decryption failed")

PROBE = "Client <unknown>"


def complaints(broker: MosquittoBroker) -> list[str]:
    """What the broker says of connections whose TLS or MQTT was broken; one that merely ended is not among them.

    Nor is one that never said who it is: whether the broker listens is tried by dialling it and hanging up.
    """
    lines = broker.log.read_text().splitlines()
    return [line for line in lines if any(words in line for words in BROKEN) and PROBE not in line]


class Fleet:
    """A subscriber of its own, not watched; answers each message with one downlink."""

    def __init__(self, broker: MosquittoBroker) -> None:
        self.heard: list[bytes] = []
        self._subscribed = threading.Event()
        self._client = PLAIN_CLIENT(CallbackAPIVersion.VERSION2, client_id="fleet")
        context = broker.client_tls(broker.certificates.service("fleet"))
        self._client.tls_set_context(context)
        self._client.on_message = self._on_message
        self._client.on_connect = lambda c, *_: c.subscribe("fedge/v1/demo/+/+", 1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        assert self._subscribed.wait(60)

    def _on_message(self, client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        if message.topic == TOPIC:
            self.heard.append(bytes(message.payload))
            client.publish(ACK_TOPIC, message.payload, qos=1)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


PLAIN_CLIENT = mqtt.Client


def _link(broker: MosquittoBroker, *, wake: Any = lambda: None) -> MqttLink:
    return MqttLink(
        MqttSettings(url=broker.url, ca_file=broker.ca_file, reconnect_max_s=0.05),
        client_id=DEVICE,
        certificate=broker.certificates.connection(DEVICE),
        will=last_will(IDENTITY, 1.8e9),
        subscriptions=subscriptions(IDENTITY),
        wake=wake,
    )


def test_under_load_only_the_owner_touches_the_client_and_its_tls_socket_and_nothing_is_lost(
    broker: MosquittoBroker, witness: Witness
) -> None:
    fleet = Fleet(broker)
    link = _link(broker)
    wanted = {b"%d-%d:" % (sender, n) + b"x" * 3000 for sender in range(3) for n in range(300)}
    answered: set[bytes] = set()

    def send(sender: int) -> None:
        for message in sorted(m for m in wanted if m.startswith(b"%d-" % sender)):
            while not publish(link, TOPIC, message):
                pause.wait(0.001)

    pause = threading.Event()
    try:
        wait_until(lambda: link.is_connected, "the connection")
        senders = [threading.Thread(target=send, args=(n,), daemon=True) for n in range(3)]
        for sender in senders:
            sender.start()

        def all_answered() -> bool:
            answered.update(m.payload for m in link.take_messages())
            return answered >= wanted

        wait_until(all_answered, "the last answer", progress=lambda: len(answered))
    finally:
        link.close(10.0)
        fleet.close()
    assert set(fleet.heard) == wanted
    assert {"socket.send", "socket.recv", "client.publish", "client.disconnect"} <= set(witness.threads)
    assert witness.strangers() == {}
    assert link.connections == 1
    assert complaints(broker) == []


def test_forty_connections_that_publish_at_once_all_hold_until_we_end_them(broker: MosquittoBroker) -> None:
    # As an agent does after an outage: the link wakes its loop, and the whole outbox is published in the same moment.
    for _ in range(40):
        is_up = threading.Event()
        link = _link(broker, wake=is_up.set)
        is_up.wait()
        taken = sum(publish(link, TOPIC, b"x" * 2000) for _ in range(60))
        link.close(30.0)
        assert (taken, link.connections) == (60, 1)
    log = broker.log.read_text()
    assert complaints(broker) == []
    assert log.count(f"Received PUBLISH from {DEVICE}") == 40 * 60
    assert log.count(f"Received DISCONNECT from {DEVICE}") == 40
    assert log.count("Sending PUBLISH to") == 0, "no will was sent: every connection ended in good order"


def test_a_cut_connection_comes_back_and_the_link_says_no_meanwhile(broker: MosquittoBroker) -> None:
    link = _link(broker)
    try:
        for n in range(1, 4):
            wait_until(lambda n=n: link.connections == n and link.is_connected, f"connection {n}")
            assert publish(link, TOPIC, b"x")
            broker.kill()
            wait_until(lambda: not link.is_connected, "the loss to be noticed")
            assert not publish(link, TOPIC, b"x")
            broker.start()
    finally:
        link.close(5.0)
    assert complaints(broker) == []
