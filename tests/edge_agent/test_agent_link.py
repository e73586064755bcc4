"""The MQTT link against a real broker: absent, present, lost, refusing."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from agent_broker import ListeningFleet, agents_broker
from agent_world import DEVICE
from fake_link import publish
from free_ports import free_port
from mosquitto_broker import LocalCertificates, MosquittoBroker
from waiting import wait_until

from edge_agent.link import Message
from edge_agent.mqtt_link import MqttLink
from edge_agent.settings import MqttSettings
from edge_agent.telemetry import Identity, last_will, subscriptions
from protocol.messages.envelope import Event, encode
from protocol.messages.kinds import AgentState, DeathReason, Kind
from protocol.messages.payloads import Ack, Death, Health
from runtime.errors import SettingsError

IDENTITY = Identity(tenant="demo", device=DEVICE, family="pump", boot_id="b1")
HEALTH_TOPIC = f"fedge/v1/demo/{DEVICE}/health"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[MosquittoBroker]:
    made = agents_broker(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def connect() -> Iterator[Callable[..., MqttLink]]:
    links: list[MqttLink] = []

    def made(
        url: str,
        *,
        ca_file: Path | None = None,
        certificate: Path | None = None,
        wake: Callable[[], None] = lambda: None,
        reconnect_max_s: float = 0.3,
    ) -> MqttLink:
        link = MqttLink(
            MqttSettings(url=url, ca_file=ca_file, keepalive_s=2, reconnect_max_s=reconnect_max_s),
            client_id=DEVICE,
            certificate=certificate,
            will=last_will(IDENTITY, 1.8e9),
            subscriptions=subscriptions(IDENTITY),
            wake=wake,
        )
        links.append(link)
        return link

    yield made
    for link in links:
        link.close(1.0)


def _health(sequence: int = 1) -> bytes:
    data = Health(state=AgentState.WATCHING, release=None, uptime_s=1.0)
    return encode(Event(source=DEVICE, boot_id="b1", sequence=sequence, time=1.8e9, data=data))


def test_a_broker_that_appears_later_is_found_and_both_directions_work(
    broker: MosquittoBroker, connect: Callable[..., MqttLink]
) -> None:
    woken = threading.Event()
    link = connect(
        broker.url, ca_file=broker.ca_file, certificate=broker.certificates.connection(DEVICE), wake=woken.set
    )
    assert not publish(link, HEALTH_TOPIC, _health())
    broker.start()
    fleet = ListeningFleet(broker)
    try:
        wait_until(lambda: link.is_connected, "the connection")
        assert woken.is_set()
        assert publish(link, HEALTH_TOPIC, _health())
        wait_until(lambda: len(fleet.of(Kind.HEALTH)) == 1, "the health message")
        fleet.tell(Kind.ACK, Ack(boots=()))
        arrived: list[Message] = []

        def an_empty_ack_came() -> bool:
            arrived.extend(link.take_messages())
            return any(b'"boots":[]' in m.payload for m in arrived)

        wait_until(an_empty_ack_came, "the downlink")
        assert {m.topic for m in arrived} == {f"fedge/v1/demo/{DEVICE}/ack"}
    finally:
        fleet.close()


def test_a_broker_that_restarts_is_found_again_and_the_connection_counted(
    broker: MosquittoBroker, connect: Callable[..., MqttLink]
) -> None:
    broker.start()
    link = connect(broker.url, ca_file=broker.ca_file, certificate=broker.certificates.connection(DEVICE))
    wait_until(lambda: link.connections == 1, "the first connection")
    broker.stop()
    wait_until(lambda: not link.is_connected, "the loss to be noticed")
    broker.start()
    wait_until(lambda: link.connections == 2 and link.is_connected, "the second connection")


def test_a_device_that_is_not_known_is_told_to_look_whether_it_is_enrolled(
    broker: MosquittoBroker,
    connect: Callable[..., MqttLink],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    caplog.set_level(logging.DEBUG, "edge_agent")
    broker.start()
    strangers = LocalCertificates(tmp_path / "strangers").connection(DEVICE)
    link = connect(broker.url, ca_file=broker.ca_file, certificate=strangers)
    wait_until(lambda: "enrolled, and not revoked?" in caplog.text, "the complaint")
    assert not link.is_connected


def test_a_broker_that_refuses_in_turns_in_two_ways_does_not_fill_the_log(
    connect: Callable[..., MqttLink], caplog: pytest.LogCaptureFixture
) -> None:
    # As Mosquitto does with a revoked device: sometimes it says why, sometimes it only hangs up.
    attempts = 0
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        link = connect(f"mqtt://127.0.0.1:{server.getsockname()[1]}")
        while attempts < 6:
            visitor, _ = server.accept()
            with visitor:
                visitor.recv(1024)
                if attempts % 2 == 0:
                    visitor.sendall(b"\x20\x02\x00\x05")  # CONNACK: not authorised
                    visitor.recv(1024)
            attempts += 1
        link.close(1.0)
    assert caplog.text.count("refused this device") == 1
    assert caplog.text.count("broker_unreachable") <= 3


def test_a_broker_that_accepts_and_hangs_up_is_left_longer_and_longer_and_told_once(
    connect: Callable[..., MqttLink], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where two devices have one name: each throws the other out as soon as it is in.
    caplog.set_level(logging.DEBUG, "edge_agent")
    attempts: list[int] = []

    def noted(attempt: int, **_: float) -> float:
        attempts.append(attempt)
        return 0.01

    monkeypatch.setattr("edge_agent.reconnection.backoff_s", noted)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        link = connect(f"mqtt://127.0.0.1:{server.getsockname()[1]}", reconnect_max_s=600.0)
        for _ in range(5):
            visitor, _address = server.accept()
            with visitor:
                visitor.recv(1024)
                visitor.sendall(b"\x20\x02\x00\x00")
                visitor.recv(1024)
        link.close(1.0)
    assert attempts[:4] == [1, 2, 3, 4]
    assert caplog.text.count("broker_connected") == 1
    assert caplog.text.count("broker_lost") <= 2


def test_no_broker_is_told_in_one_line(
    connect: Callable[..., MqttLink], caplog: pytest.LogCaptureFixture
) -> None:
    link = connect(f"mqtt://127.0.0.1:{free_port()}")
    wait_until(lambda: "broker_unreachable" in caplog.text, "the complaint")
    assert "goes on and keeps trying" in caplog.text
    link.close(1.0)
    assert caplog.text.count("broker_unreachable") == 1


def test_a_clean_close_sends_what_was_published_last_and_no_will(
    broker: MosquittoBroker, connect: Callable[..., MqttLink]
) -> None:
    broker.start()
    fleet = ListeningFleet(broker)
    try:
        link = connect(broker.url, ca_file=broker.ca_file, certificate=broker.certificates.connection(DEVICE))
        wait_until(lambda: link.is_connected, "the connection")
        data = Death(reason=DeathReason.SHUTDOWN)
        farewell = encode(Event(source=DEVICE, boot_id="b1", sequence=7, time=1.8e9, data=data))
        publish(link, f"fedge/v1/demo/{DEVICE}/death", farewell, retain=True)
        link.close(2.0)
        wait_until(lambda: len(fleet.of(Kind.DEATH)) == 1, "the farewell")
        assert [e.sequence for e in fleet.of(Kind.DEATH)] == [7]
    finally:
        fleet.close()


def test_a_ca_file_that_is_none_is_one_clear_error(tmp_path: Path, connect: Callable[..., MqttLink]) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(
            SettingsError, match=r"mqtt\.ca_file .*cannot be used: .*must be the PEM of the CA"
        ):
            connect("mqtts://broker.example", ca_file=tmp_path / name)


def test_a_broker_that_acknowledges_nothing_fills_a_bounded_queue_and_the_link_then_says_no(
    connect: Callable[..., MqttLink],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = connect(f"mqtt://127.0.0.1:{server.getsockname()[1]}")
        visitor, _ = server.accept()
        with visitor:
            visitor.recv(1024)
            visitor.sendall(b"\x20\x02\x00\x00")  # CONNACK: welcome
            wait_until(lambda: link.is_connected, "the connection")
            taken = 0
            while publish(link, HEALTH_TOPIC, b"x") and taken < 1000:
                taken += 1
            assert 64 <= taken <= 64 + 20
            assert not publish(link, HEALTH_TOPIC, b"x")
            link.close(0.1)  # waits for acknowledgements no longer than it was told to
        assert not link._thread.is_alive()


def test_what_waits_for_a_broker_that_acknowledges_nothing_is_bounded_in_bytes(
    connect: Callable[..., MqttLink],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = connect(f"mqtt://127.0.0.1:{server.getsockname()[1]}")
        visitor, _ = server.accept()
        with visitor:
            visitor.recv(1024)
            visitor.sendall(b"\x20\x02\x00\x00")
            wait_until(lambda: link.is_connected, "the connection")
            assert publish(link, HEALTH_TOPIC, b"x" * 100_000)
            wait_until(lambda: link._in_flight, "the first one to leave")
            taken = 1
            while publish(link, HEALTH_TOPIC, b"x" * 100_000) and taken < 100:
                taken += 1
            assert taken <= 4, "one under way, the rest in the queue"
            link.close(0.1)


@pytest.mark.parametrize("poison", [b"\x30\x01\x00", b"\xf0\x00", b"\x90\x03\x00\x01\x55", b""])
def test_a_broker_that_talks_nonsense_costs_one_connection_and_not_the_link(
    connect: Callable[..., MqttLink], poison: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not poison:  # the library itself may stumble, too
        failures = iter([KeyError("a defect of paho's")])
        original = mqtt.Client.loop_read

        def stumbling(client: mqtt.Client, max_packets: int = 1) -> mqtt.MQTTErrorCode:
            if (failure := next(failures, None)) is not None:
                raise failure
            return original(client, max_packets)

        monkeypatch.setattr(mqtt.Client, "loop_read", stumbling)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        link = connect(f"mqtt://127.0.0.1:{server.getsockname()[1]}")
        for _ in range(2):  # the second visit shows that the link lives
            visitor, _address = server.accept()
            with visitor:
                visitor.settimeout(60)
                visitor.recv(1024)
                visitor.sendall(b"\x20\x02\x00\x00" + poison)
                with contextlib.suppress(OSError):  # the link may have hung up already
                    visitor.shutdown(socket.SHUT_WR)
                    while visitor.recv(1024):
                        pass
        link.close(1.0)
        assert not link._thread.is_alive()


def test_a_goodbye_arrives_although_the_broker_is_still_talking(connect: Callable[..., MqttLink]) -> None:
    # Bytes that meet a closed socket reset the connection; the broker would lose the goodbye and speak the will.
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = connect(f"mqtt://127.0.0.1:{server.getsockname()[1]}")
        visitor, _ = server.accept()
        with visitor:
            visitor.recv(1024)
            visitor.sendall(b"\x20\x02\x00\x00")
            wait_until(lambda: link.is_connected, "the connection")
            closing = threading.Thread(target=link.close, args=(5.0,))
            closing.start()
            wait_until(lambda: visitor.recv(4096, socket.MSG_PEEK).endswith(b"\xe0\x00"), "the goodbye")
            for _ in range(3):
                visitor.sendall(b"\xd0\x00")
                closing.join(0.05)
            assert visitor.recv(4096).endswith(b"\xe0\x00")
        closing.join()
        assert not link._thread.is_alive()
