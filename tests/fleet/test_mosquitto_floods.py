"""One device that floods a real Mosquitto: what it costs the broker, and what the others notice."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fleet_world import Machine, health
from mosquitto_site import Client, MosquittoSite
from waiting import wait_until

from fleet.broker_door import dynamic_security
from protocol.messages.envelope import decode, encode
from protocol.messages.kinds import Kind
from protocol.messages.payloads import Ack
from protocol.topics import device_topic, uplink_filter

pytestmark = pytest.mark.slow
TENANT = "demo"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[MosquittoSite]:
    made = MosquittoSite(tmp_path, f"sqlite:///{tmp_path}/fleet.sqlite")
    yield made
    made.close()


def text(content: bytes) -> bytes:
    return struct.pack(">H", len(content)) + content


def packet(first: int, body: bytes) -> bytes:
    """An MQTT packet."""
    length, head = len(body), bytearray([first])
    while True:
        length, digit = divmod(length, 128)
        head.append(digit | (128 if length else 0))
        if not length:
            return bytes(head) + body


class Flooder:
    """Speaks MQTT as fast as a socket takes it; reads what comes only where it is told to."""

    def __init__(self, site: MosquittoSite, name: str) -> None:
        own = site.broker.certificates.service(name) if name == "fleet" else site.certificate(name)
        raw = socket.create_connection(("127.0.0.1", site.broker.port))
        self._line = site.broker.client_tls(own).wrap_socket(raw, server_hostname="127.0.0.1")
        self._line.sendall(packet(0x10, text(b"MQTT") + b"\x04\x02\x00\x00" + text(name.encode())))
        assert self._line.recv(4) == b"\x20\x02\x00\x00"
        self.is_over = threading.Event()
        self._number = 0

    def subscribe(self, *topics: str) -> None:
        wanted = b"".join(text(topic.encode()) + b"\x01" for topic in topics)
        self._line.sendall(packet(0x82, struct.pack(">H", self._next()) + wanted))

    def publish(self, topic: str, content: bytes, *, qos: int, times: int = 1) -> None:
        self._line.sendall(
            b"".join(
                packet(
                    0x30 | qos << 1,
                    text(topic.encode()) + (struct.pack(">H", self._next()) if qos else b"") + content,
                )
                for _ in range(times)
            )
        )

    def _next(self) -> int:
        self._number = self._number % 60_000 + 1
        return self._number

    def flood(self, say: Callable[[], None]) -> None:
        """Say it until the broker hangs up or the test has seen enough."""

        def read() -> None:
            with contextlib.suppress(OSError):
                while self._line.recv(65_536):
                    pass

        def write() -> None:
            with contextlib.suppress(OSError):
                while not self.is_over.is_set():
                    say()
            self.is_over.set()

        for work in (read, write):
            threading.Thread(target=work, daemon=True).start()

    def close(self) -> None:
        self.is_over.set()
        with contextlib.suppress(OSError, ssl.SSLError):
            self._line.close()


def test_large_messages_that_the_fleet_does_not_read_cost_a_bounded_memory_and_others_are_still_taken(
    site: MosquittoSite,
) -> None:
    site.start()
    fleet = Flooder(site, "fleet")  # it hears, and never reads
    fleet.subscribe(uplink_filter(TENANT, Kind.HEALTH))
    flooder, said = Flooder(site, "d-1"), threading.Event()
    topic = device_topic(TENANT, "d-1", Kind.HEALTH)
    left = iter(range(2500))

    def say() -> None:
        if next(left, None) is None:
            said.set()
            flooder.is_over.wait()
        else:
            flooder.publish(topic, b"x" * 131_072, qos=1)

    flooder.flood(say)
    wait_until(said.is_set, "the flood of 330 MB")
    other = site.connect("d-2")
    other.publish(device_topic(TENANT, "d-2", Kind.HEALTH), "still taken")
    assert not other.is_lost
    assert site.broker.memory_mb() < 200
    flooder.close()
    fleet.close()


def is_acknowledged(client: Client, sequence: int) -> bool:
    acks = [decode(said.encode(), Kind.ACK).data for topic, said in client.heard if topic.endswith("/ack")]
    return any(
        first <= sequence <= last
        for ack in acks
        if isinstance(ack, Ack)
        for boot in ack.boots
        for first, last in boot.ranges
    )


def test_a_device_that_floods_is_silenced_and_others_are_acknowledged_and_after_a_while_it_is_heard_again(
    site: MosquittoSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic_security, "SILENCE_S", 10.0)
    honest = Machine(name="d-2")
    site.add_devices(honest, Machine(name="d-1"))
    site.start()
    health_topic, ack_topic = (device_topic(TENANT, "d-2", kind) for kind in (Kind.HEALTH, Kind.ACK))
    with site.fleet() as fleet:
        wait_until(lambda: fleet.call("GET", "/healthz").json()["broker_connected"], "the fleet")
        flooder, device = Flooder(site, "d-1"), site.connect("d-2")
        device.subscribe(ack_topic)
        # more than may come at once, and as much again: the fleet's patience
        for _ in range(60):
            flooder.publish(device_topic(TENANT, "d-1", Kind.HEALTH), b"x", qos=0, times=100)
        flooder.flood(lambda: flooder.is_over.wait(0.1) or flooder.publish("x", b"", qos=0))
        event = honest.event(health())
        device.publish(health_topic, encode(event).decode())
        device.turn(lambda: is_acknowledged(device, event.sequence), "the acknowledgement")
        assert not device.is_lost
        wait_until(flooder.is_over.is_set, "the flooder to be thrown out")
        again = site.connect("d-1")
        assert again.subscribe(device_topic(TENANT, "d-1", Kind.ACK)) == "Unspecified error"
        again.turn(lambda: again.is_lost, "the silence to end")
        assert site.connect("d-1").subscribe(device_topic(TENANT, "d-1", Kind.ACK)) == "Granted QoS 1"
