"""The services' MQTT client against a real Mosquitto, and against peers that are none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port
from mosquitto_broker import MosquittoBroker
from waiting import PATIENCE_S, slowness

from service.mqtt_client import BrokerGoneError, BrokerRefusedError, MqttClient
from service.mqtt_packets import publish


def client(port: int, name: str = "fleet", **how: Any) -> MqttClient:
    return MqttClient(
        "127.0.0.1", port, client_id=name, **{"tls": None, "keepalive_s": 20, "timeout_s": 60.0} | how
    )


def run(story: Coroutine[Any, Any, None]) -> None:
    """A story that comes to no end fails."""

    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S * slowness()):
            await story

    asyncio.run(bounded())


async def taken(receiver: MqttClient, count: int) -> list[bytes]:
    heard: list[bytes] = []
    while len(heard) < count:
        heard += [message.payload for message in await receiver.take()]
    return heard


def test_messages_of_both_qualities_arrive_in_order_over_tls_and_what_was_retained_says_so(
    tmp_path: Path,
) -> None:
    async def story(broker: MosquittoBroker) -> None:
        tls = broker.client_tls(broker.certificates.service("fleet"))
        async with client(broker.port, tls=tls) as one:
            await one.publish("kept", b"before", qos=1, retain=True)
            await one.subscribe(["t/+", "kept"])
            (kept,) = await one.take()
            assert (kept.payload, kept.retained, kept.qos) == (b"before", True, 1)
            async with asyncio.TaskGroup() as tasks:
                for number in range(300):  # more than either end has under way
                    tasks.create_task(one.publish("t/1", b"%d" % number, qos=1))
                heard = await taken(one, 300)
            assert heard == [b"%d" % number for number in range(300)]
            await one.publish_all(
                [("t/2", b"x" * 100_000)] + [("t/2", b"%d" % number) for number in range(2000)]
            )
            heard = await taken(one, 2001)
            assert heard[1:] == [b"%d" % number for number in range(2000)]
            await one.unsubscribe("t/+")
            await one.publish("t/1", b"unheard", qos=1)
            await one.publish("kept", b"heard", qos=1)
            assert [message.payload for message in await one.take()] == [b"heard"]

    with MosquittoBroker(tmp_path, knows_clients=True) as broker:
        run(story(broker))


def test_a_broker_that_is_killed_ends_what_waits_and_whatever_is_asked_later(tmp_path: Path) -> None:
    async def story(broker: MosquittoBroker) -> None:
        async with client(broker.port) as one:
            waiting = asyncio.create_task(one.take())
            await one.publish("t", b"", qos=1)
            broker.kill()
            with pytest.raises(BrokerGoneError):
                await waiting
            with pytest.raises(BrokerGoneError):
                await one.publish("t", b"", qos=1)

    with MosquittoBroker(tmp_path, tls=False) as broker:
        run(story(broker))


def test_who_is_not_there_and_who_refuses_are_told_apart(tmp_path: Path) -> None:
    async def connect(port: int) -> None:
        async with client(port):
            pass

    with pytest.raises(BrokerGoneError) as gone:
        run(connect(free_port()))
    assert not isinstance(gone.value, BrokerRefusedError)
    with (
        MosquittoBroker(
            tmp_path, tls=False, configure=lambda port: f"listener {port} 127.0.0.1\nallow_anonymous false"
        ) as broker,
        pytest.raises(BrokerRefusedError, match="with code 5"),
    ):
        run(connect(broker.port))


async def with_peer(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], **how: Any
) -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, client(server.sockets[0].getsockname()[1], **how) as one:
        await one.take()


async def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(100)
    writer.write(b"\x20\x02\x00\x00")


@pytest.mark.parametrize(
    "noise",
    [
        b"\x30\xff\xff\xff\x7f",
        b"\x30\xff\xff\xff\xff\x01",
        b"\x36\x02\x00\x01",
        b"\x40\x00",
        publish(b"\xff", b""),
    ],
)
def test_a_peer_that_speaks_something_else_ends_the_session_and_nothing_more(noise: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await welcome(reader, writer)
        writer.write(noise)
        await writer.drain()
        writer.close()

    with pytest.raises(BrokerGoneError):
        run(with_peer(answer))


def test_a_peer_that_answers_nothing_is_given_up() -> None:
    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    with pytest.raises(BrokerGoneError, match="has not answered"):
        run(with_peer(silent, timeout_s=0.05))


def test_a_peer_that_falls_silent_is_given_up_after_one_and_a_half_keepalives() -> None:
    async def falls_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await welcome(reader, writer)
        await reader.read()

    with pytest.raises(BrokerGoneError, match="silent for"):
        run(with_peer(falls_silent, keepalive_s=1))


def test_a_broker_is_not_listened_to_while_enough_waits_unless_somebody_waits_for_its_answer() -> None:
    """What is not read the broker holds, or drops; a confirmation may lie behind it."""
    messages, many = [publish(b"t", b"%d" % number) for number in range(100_000)], 100_000

    async def talks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await welcome(reader, writer)
        writer.write(b"".join(messages))
        request = b""
        while b"asked" not in request:
            request += await reader.read(1000)
        writer.write(b"\x40\x02" + request[-len(b"..asked") : -len(b"asked")])
        await reader.read()

    async def story() -> None:
        server = await asyncio.start_server(talks, "127.0.0.1", 0)
        async with server, client(server.sockets[0].getsockname()[1]) as one:
            heard = [int(message.payload) for message in await one.take()]
            for _ in range(1000):  # turns in which it could have read everything
                await asyncio.sleep(0)
            heard += [int(message.payload) for message in one.take_now()]
            assert len(heard) < many / 2
            await one.publish("t", b"asked", qos=1)
            heard += [int(message.payload) for message in one.take_now()]
            assert heard == list(range(many))

    run(story())
