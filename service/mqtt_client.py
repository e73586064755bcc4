"""A cloud service's session at an MQTT 3.1.1 broker, on asyncio: thousands of messages a second, each for some microseconds.

What has come is cut into packets at once, acknowledged in one write, and handed over as it waits; what is said at one time leaves
in one write. A client library that reads byte by byte, locks, and calls back for each message costs ten times the message.

::

    broker ─► read ─► packets ─┬─► messages, which wait for `take`     (acknowledged at once: what counts is the fleet's own word)
                               └─► PUBACK, SUBACK: who waits for them
    say ─► one write ─► broker

Invariant: one loop owns the session, and nothing of it may be called from another thread. When the connection breaks, whoever waits
for anything gets a `BrokerGoneError`, and so does whoever asks later.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Final, Self

from service.mqtt_packets import (
    CONNACK,
    DISCONNECT,
    PINGREQ,
    PUBACK,
    PUBLISH,
    SUBACK,
    UNSUBACK,
    PacketError,
    PacketReader,
    Published,
    connect,
    puback,
    publish,
    read_identifier,
    read_publish,
    subscribe,
    unsubscribe,
)

__all__ = ["BrokerGoneError", "BrokerRefusedError", "MqttClient"]

LARGEST_PACKET: Final = 1024 * 1024
"""A broker of ours takes none from a device that is a fifth as large; its own plugin answers in pages."""

READ_BYTES: Final = 256 * 1024

MOST_WAITING: Final = 500
"""Messages that were not taken, beyond which nothing is read while nobody waits for an answer: the broker holds the rest, or drops it."""


class BrokerGoneError(ConnectionError):
    """The broker is not there, was silent for too long, or hung up: connect again."""


class BrokerRefusedError(BrokerGoneError):
    """The broker is there and says no: to this client, or to a subscription. Its access rules must know the client."""


class MqttClient:
    """One session, clean; use as an asynchronous context manager, once.

    Args:
        host, port: the broker.
        client_id: who this is.
        tls: None: in clear.
        keepalive_s: so long without a word, and half as long again, and either end gives the other up.
        timeout_s: how long the broker may take for an answer.

    Raises:
        BrokerGoneError: from every method.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        client_id: str,
        tls: ssl.SSLContext | None,
        keepalive_s: int,
        timeout_s: float,
    ) -> None:
        self._host, self._port, self._client_id, self._tls = host, port, client_id, tls
        self._keepalive_s, self._timeout_s = keepalive_s, timeout_s
        self._packets = PacketReader(LARGEST_PACKET)
        self._messages: deque[Published] = deque()
        self._come, self._taken = asyncio.Event(), asyncio.Event()
        self._answers: dict[tuple[int, int], asyncio.Future[bytes]] = {}
        self._identifier = 0
        self._broken: BrokerGoneError | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._heard_at = 0.0

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(self._timeout_s):
                self._reader, self._writer = await asyncio.open_connection(
                    self._host, self._port, ssl=self._tls, limit=2 * READ_BYTES
                )
        except (OSError, TimeoutError) as error:
            raise BrokerGoneError(f"no connection: {error or 'the broker does not answer'}") from None
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._ping())]
        try:
            await self._greet()
        except BaseException:
            await self._close()
            raise
        return self

    async def _greet(self) -> None:
        greeting = connect(self._client_id, keepalive_s=self._keepalive_s)
        answer = await self._ask((CONNACK, 0), greeting)
        if answer[1]:
            raise BrokerRefusedError(f"the broker refuses {self._client_id!r} with code {answer[1]}")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._broken is None:
            self._writer.write(DISCONNECT)
        await self._close()

    async def subscribe(self, filters: Iterable[str]) -> None:
        """Hear what matches, with QoS 1. Raises BrokerRefusedError where the broker lets this client hear one of them not."""
        wanted, identifier = list(filters), self._next_identifier()
        answer = await self._ask((SUBACK, identifier), subscribe(identifier, wanted))
        refused = [one for one, granted in zip(wanted, answer[2:], strict=False) if granted & 0x80]
        if refused:
            raise BrokerRefusedError(f"the broker refuses the subscription to {', '.join(refused)}")

    async def unsubscribe(self, topic_filter: str) -> None:
        """Hear it no more; what was on its way has come when this returns."""
        identifier = self._next_identifier()
        await self._ask((UNSUBACK, identifier), unsubscribe(identifier, topic_filter))

    async def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> None:
        """Say one thing; with `qos` 1 until the broker has confirmed it."""
        if qos:
            identifier = self._next_identifier()
            packet = publish(topic.encode(), payload, identifier=identifier, retain=retain)
            await self._ask((PUBACK, identifier), packet)
        else:
            await self._write(publish(topic.encode(), payload, retain=retain))

    async def publish_all(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Say many things with QoS 0, topic and payload each, in one write."""
        await self._write(b"".join([publish(topic.encode(), payload) for topic, payload in messages]))

    async def take(self) -> list[Published]:
        """All that has come and was not taken, in its order; waits until there is something."""
        while not self._messages:
            if self._broken is not None:
                raise self._broken
            self._come.clear()
            await self._come.wait()
        return self.take_now()

    def take_now(self) -> list[Published]:
        """The same without waiting; perhaps nothing."""
        taken = list(self._messages)
        self._messages.clear()
        self._taken.set()
        return taken

    async def messages(self) -> AsyncIterator[Published]:
        """One after the other, for as long as the connection lasts."""
        while True:
            for message in await self.take():
                yield message

    async def _ask(self, key: tuple[int, int], packet: bytes) -> bytes:
        """Send a packet and wait for its answer: what stands in it."""
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._answers[key] = answer
        self._taken.set()  # whoever reads must go on, for it may lie behind what waits
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._write(packet)
                return await answer
        except TimeoutError:
            raise BrokerGoneError(f"the broker has not answered for {self._timeout_s:g} s") from None
        finally:
            self._answers.pop(key, None)

    async def _write(self, data: bytes) -> None:
        if self._broken is not None:
            raise self._broken
        try:
            self._writer.write(data)
            async with asyncio.timeout(self._timeout_s):
                await self._writer.drain()
        except TimeoutError:
            raise BrokerGoneError(f"the broker has taken nothing for {self._timeout_s:g} s") from None
        except OSError as error:
            raise self._broken or BrokerGoneError(f"the connection broke: {error}") from None

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        self._heard_at = loop.time()
        try:
            while received := await self._reader.read(READ_BYTES):
                self._heard_at = loop.time()
                self._hear(self._packets.feed(received))
                while len(self._messages) > MOST_WAITING and not self._answers:
                    self._taken.clear()
                    await self._taken.wait()
                    self._heard_at = loop.time()
            self._break(BrokerGoneError("the broker hung up"))
        except (OSError, PacketError) as error:
            self._break(BrokerGoneError(f"the connection broke: {error}"))

    def _hear(self, packets: list[tuple[int, bytes]]) -> None:
        to_confirm: list[int] = []
        for head, body in packets:
            kind = head >> 4
            if kind == PUBLISH:
                message = read_publish(head, body)
                self._messages.append(message)
                if message.qos:
                    to_confirm.append(message.identifier)
            else:
                identifier = 0 if kind == CONNACK or len(body) < 2 else read_identifier(body)
                waiting = self._answers.get((kind, identifier))
                if waiting is not None and len(body) > 1 and not waiting.done():
                    waiting.set_result(body)
        if to_confirm:
            self._writer.write(puback(to_confirm))
        if self._messages:
            self._come.set()

    async def _ping(self) -> None:
        loop, pause_s = asyncio.get_running_loop(), self._keepalive_s / 2
        while self._broken is None:
            await asyncio.sleep(pause_s)
            is_read = len(self._messages) <= MOST_WAITING
            if is_read and loop.time() - self._heard_at > 1.5 * self._keepalive_s:
                self._break(BrokerGoneError(f"the broker was silent for {1.5 * self._keepalive_s:g} s"))
                return
            self._writer.write(PINGREQ)

    def _break(self, error: BrokerGoneError) -> None:
        if self._broken is None:
            self._broken = error
        for waiting in self._answers.values():
            if not waiting.done():
                waiting.set_exception(self._broken)
        self._come.set()

    def _next_identifier(self) -> int:
        while True:
            self._identifier = self._identifier % 65535 + 1
            taken = ((kind, self._identifier) in self._answers for kind in (PUBACK, SUBACK, UNSUBACK))
            if not any(taken):
                return self._identifier

    async def _close(self) -> None:
        self._break(BrokerGoneError("this end hung up"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._writer.close()
        # a broker that does not say goodbye is not waited for
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                await self._writer.wait_closed()
