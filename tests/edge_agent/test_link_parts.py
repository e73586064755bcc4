"""The parts of the link without a network: pauses, the queue of what arrives, the socket that bounds."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hostile_broker import packet, publish

from edge_agent.bounded_client import (
    MOST_PACKET_BYTES,
    BoundedSocket,
    BrokerMisbehavesError,
    TooLargeDownlinkError,
)
from edge_agent.downlink_queue import BYTES_PER_TOPIC, DownlinkQueue
from edge_agent.link import Message
from edge_agent.reconnection import Reconnection

pytestmark = pytest.mark.edge


def _reconnection() -> Reconnection:
    return Reconnection("mqtt://b", "pump-07", maximum_s=5.0, draw=lambda: 1.0)


@pytest.mark.parametrize("held_s", [0.0, 6.0, 59.0])
def test_a_broker_that_drops_a_device_soon_is_left_longer_and_longer(held_s: float) -> None:
    reconnection = _reconnection()
    now_s, pauses = 0.0, []
    for _ in range(9):
        reconnection.connected(now_s)
        now_s += held_s
        reconnection.lost("it hung up")
        pauses.append(reconnection.pause_s(now_s, was_reached=True))
        now_s += pauses[-1]
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    trouble = reconnection.trouble(now_s)
    assert (
        "the last 9 connections to the broker did not last (the connection was lost: it hung up)" in trouble
    )
    assert "use the name pump-07?" in trouble


def test_a_connection_that_lasted_begins_the_count_anew_and_ends_the_trouble() -> None:
    reconnection = _reconnection()
    for attempt in range(5):
        reconnection.connected(float(attempt))
        reconnection.pause_s(float(attempt), was_reached=True)
    reconnection.connected(10.0)
    assert reconnection.trouble(11.0)
    assert reconnection.trouble(71.0) == ""
    assert reconnection.pause_s(71.0, was_reached=True) == 0.5


def test_a_broker_that_cannot_be_reached_is_tried_every_few_seconds_and_one_that_refuses_is_not() -> None:
    reconnection = _reconnection()
    assert [reconnection.pause_s(0.0, was_reached=False) for _ in range(9)][-3:] == [5.0, 5.0, 5.0]
    assert [reconnection.pause_s(0.0, was_reached=True) for _ in range(9)][-2:] == [30.0, 30.0]
    assert reconnection.pause_s(0.0, was_reached=False) == 0.5


def test_a_flood_on_one_topic_drowns_no_other_and_the_newest_stays() -> None:
    queue = DownlinkQueue(("ack", "desired"))
    queue.put(Message(topic="desired", payload=b"wish"))
    for number in range(10_000):
        queue.put(Message(topic="ack", payload=b"%d" % number))
        queue.put(Message(topic="stranger", payload=b"x"))
    taken = queue.take()
    assert taken[0].payload == b"wish"
    assert taken[-1].payload == b"9999"
    assert len(taken) < BYTES_PER_TOPIC / 500 + 2
    assert {m.topic for m in taken} == {"ack", "desired"}
    queue.put(Message(topic="ack", payload=b"x" * (2 * BYTES_PER_TOPIC)))
    assert len(queue.take()) == 1, "a single one is never too much"


@pytest.fixture
def ends() -> Iterator[tuple[BoundedSocket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    yield BoundedSocket(ours), theirs
    ours.close()
    theirs.close()


def _read_as_paho(line: BoundedSocket) -> bytes:
    """One packet: the header byte by byte, the body by its exact rest."""
    line.recv(1)
    length = shift = 0
    while True:
        digit = line.recv(1)[0]
        length |= (digit & 127) << shift
        shift += 7
        if not digit & 128:
            break
    body = b""
    while len(body) < length:
        try:
            chunk = line.recv(length - len(body))
        except BlockingIOError:
            continue
        assert chunk
        body += chunk
    return body


def test_packets_of_lawful_size_pass_unchanged_one_after_the_other(
    ends: tuple[BoundedSocket, socket.socket],
) -> None:
    line, broker = ends
    for size in (0, 1, 100, 20_000):
        broker.sendall(publish("a/b", b"x" * size, qos=1) + packet(0xD0, b""))
        assert _read_as_paho(line).endswith(b"x" * size)
        assert _read_as_paho(line) == b""
    assert line.packets_read == 8
    assert line.send(b"12345") == 5
    assert line.bytes_sent == 5


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_of_a_message_that_is_too_large_only_its_topic_is_read(
    ends: tuple[BoundedSocket, socket.socket], step: int
) -> None:
    line, broker = ends
    start = publish("fedge/v1/demo/pump-07/desired", b"x" * 20, claimed=200_000_000)
    for place in range(0, len(start), step):
        broker.sendall(start[place : place + step])
    with pytest.raises(TooLargeDownlinkError, match=r"200.0 MB on fedge/v1/demo/pump-07/desired") as caught:
        _read_as_paho(line)
    assert caught.value.topic == "fedge/v1/demo/pump-07/desired"


@pytest.mark.parametrize(
    "data",
    [
        publish("t", b"x", qos=2),
        packet(0x90, b"", claimed=MOST_PACKET_BYTES),
        packet(0x40, b"", claimed=1025),
        publish("t" * 600, b"", claimed=MOST_PACKET_BYTES + 1),
        b"\x30\xff\xff\xff\xff\x7f",
    ],
)
def test_what_no_broker_says_ends_the_connection_before_it_is_collected(
    ends: tuple[BoundedSocket, socket.socket], data: bytes
) -> None:
    line, broker = ends
    broker.sendall(data + b"x" * 2000)
    with pytest.raises(BrokerMisbehavesError):
        _read_as_paho(line)
