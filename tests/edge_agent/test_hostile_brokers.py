"""Whatever a broker does, a real agent detects on, stays small, and says what is wrong."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from agent_world import (
    DEVICE,
    TENANT,
    faulty,
    health_of_status,
    healthy,
    make_bundle,
    running_agent,
    status_of,
    write_device,
)
from hostile_broker import HostileBroker, publish
from sealing_world import OTHER_KEY, fleet_message
from waiting import wait_until

from edge_agent.health import memory_pss_bytes
from protocol.messages.payloads import Ack, BootAck

pytestmark = pytest.mark.slow
ACK_TOPIC, DESIRED_TOPIC = f"fedge/v1/demo/{DEVICE}/ack", f"fedge/v1/demo/{DEVICE}/desired"
LARGEST_PSS = 60_000_000
FLOOD_S = 4.0
MB = 1_000_000


def puback(line: socket.socket, first: int, body: bytes) -> None:
    """Acknowledge from memory, as a broker does that has no fleet behind it."""
    if first & 0xF0 == 0x30:
        start = 2 + int.from_bytes(body[:2])
        line.sendall(b"\x40\x02" + body[start : start + 2])


def nothing(_line: socket.socket, _first: int, _body: bytes) -> None:
    """Answer pings, and nothing else."""


def _flood(data: bytes) -> Callable[[socket.socket], None]:
    def greet(line: socket.socket) -> None:
        line.settimeout(1.0)
        until_s = time.monotonic() + FLOOD_S
        with contextlib.suppress(OSError):
            while time.monotonic() < until_s:
                line.sendall(data)
        line.settimeout(0.2)

    return greet


def _retained(size: int) -> Callable[[socket.socket, int, bytes], None]:
    """A message of `size` bytes to whoever subscribes to its topic, delivered whole if it is read."""

    def answer(line: socket.socket, first: int, body: bytes) -> None:
        puback(line, first, body)
        if first & 0xF0 == 0x80 and DESIRED_TOPIC.encode() in body:
            line.settimeout(5.0)
            line.sendall(publish(DESIRED_TOPIC, b"", claimed=size))
            for _ in range(size // 65536):
                line.sendall(b"x" * 65536)

    return answer


def _slowly(line: socket.socket, first: int, body: bytes) -> None:
    puback(line, first, body)
    if first == 0:  # every fifth of a second, a byte of a message that never ends
        line.sendall(publish(DESIRED_TOPIC, b"", claimed=100_000)[:1] if not body else b"x")


def _claims(first: int, last: int) -> bytes:
    ack = Ack(boots=(BootAck(boot_id="b", ranges=((first, last),)),))
    # bad seals: each costs a signature to check, which is the most that a broker can ask for
    text = fleet_message(ack, tenant=TENANT, device=DEVICE, key=OTHER_KEY)
    return publish(ACK_TOPIC, text)


BROKERS: dict[str, Callable[[], HostileBroker]] = {
    "answers pings and never acknowledges": lambda: HostileBroker(nothing),
    "acknowledges from memory": lambda: HostileBroker(puback),
    "never reads once the device is in": lambda: HostileBroker(nothing, is_deaf=True),
    "endless downlinks": lambda: HostileBroker(
        puback, greet=_flood(publish(DESIRED_TOPIC, b"x" * 1000) * 100)
    ),
    "endless acknowledgements": lambda: HostileBroker(puback, greet=_flood(_claims(1, 1 << 52) * 200)),
    "endless messages of QoS 2": lambda: HostileBroker(
        puback, greet=_flood(publish(DESIRED_TOPIC, b"x" * 1000, qos=2) * 100)
    ),
    "endless pings, and never reads": lambda: HostileBroker(
        nothing, greet=_flood(b"\xc0\x00" * 5000), is_deaf=True
    ),
    "a retained message of 200 MB": lambda: HostileBroker(_retained(200 * MB)),
    "a packet that is no message, of 200 MB": lambda: HostileBroker(
        puback, greet=lambda line: line.sendall(b"\x90\xff\xff\xff\x5f")
    ),
    "one byte now and then": lambda: HostileBroker(_slowly),
}


QUICK = {"answers pings and never acknowledges", "a retained message of 200 MB"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.long) for name in sorted(BROKERS)]
)
def test_whatever_a_broker_does_the_agent_detects_and_stays_small(tmp_path: Path, name: str) -> None:
    rows = np.concatenate([healthy(100), *([faulty(20), healthy(40, 9) * 0.5] * 2)])
    with BROKERS[name]() as broker:
        config = write_device(tmp_path, rows=rows, speed=50.0, mqtt_url=broker.url, bundle=make_bundle())
        with running_agent(config) as agent:
            rollup = Path(f"/proc/{agent.pid}/smaps_rollup")
            wait_until(lambda: bool(status_of(config).get("commissioned")), "commissioning")
            wait_until(lambda: broker.connections > 0, "the connection")
            before, began_s = int(str(health_of_status(config)["windows"])), time.monotonic()
            largest = 0
            while time.monotonic() - began_s < FLOOD_S:
                largest = max(largest, memory_pss_bytes(rollup))
                time.sleep(0.1)
            assert agent.poll() is None
            wait_until(lambda: int(str(health_of_status(config)["windows"])) > before + 100, "windows")
            wait_until(lambda: int(str(health_of_status(config)["anomalies"])) >= 1, "an anomaly")
            assert largest < LARGEST_PSS
        log = (tmp_path / "agent.log").read_text()
        assert "Traceback" not in log
        assert len(log) < 20_000
        print(
            f"{name}: {largest / 1e6:.1f} MB PSS, {broker.connections} connections, {broker.bytes_read} bytes"
        )


@pytest.mark.long
def test_a_topic_with_a_message_that_is_too_large_is_left_out_and_the_rest_goes_on(tmp_path: Path) -> None:
    with HostileBroker(_retained(200 * MB)) as broker:
        config = write_device(
            tmp_path, rows=healthy(300), speed=50.0, mqtt_url=broker.url, bundle=make_bundle()
        )
        with running_agent(config):
            wait_until(lambda: len(broker.published) > 2, "messages of the device")
            wait_until(lambda: len(broker.subscribed) >= 2, "the second connection")
            assert DESIRED_TOPIC.encode() in broker.subscribed[0]
            assert DESIRED_TOPIC.encode() not in broker.subscribed[1]
            assert ACK_TOPIC.encode() in broker.subscribed[1]
        assert "sends a message of 200.0 MB on" in (tmp_path / "agent.log").read_text()
