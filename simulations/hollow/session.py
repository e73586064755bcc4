"""One MQTT 3.1.1 session over mutual TLS in some kilobytes, ten thousand of them on one asyncio loop.

asyncio's own TLS keeps a buffer of 256 KiB for each connection, whatever goes over it; so the loop only says here when a
socket is readable, and OpenSSL is asked directly. No task, no future and no full buffer belongs to a session that is at rest.
OpenSSL reads from memory: from a socket it would ask the kernel three times for each word of the broker.

::

    dial ─► TLS ─► CONNECT ─► CONNACK ─► SUBSCRIBE ─► SUBACK ─► hear, send … lost
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from protocol.limits import MAX_PAYLOAD_BYTES
from service.mqtt_packets import (
    CONNACK,
    DISCONNECT,
    PINGREQ,
    PUBACK,
    PUBLISH,
    SUBACK,
    PacketError,
    PacketReader,
    Published,
    connect,
    puback,
    publish,
    read_publish,
    subscribe,
)

__all__ = ["Broker", "Session"]

READ_BYTES: Final = 32 * 1024
WELCOME_S: Final = 60.0
"""How long a broker to which ten thousand come at once may take for one of them."""

UNSENT_BYTES: Final = 1024 * 1024
"""A broker that takes nothing while so much waits has stalled; the session is given up, and what waits is sent again."""


class Broker:
    """Dials a broker in the name of any device.

    Args:
        host, port, ca_file: of the broker.
        keepalive_s: after one and a half of these without a word the broker gives a session up.
    """

    def __init__(self, host: str, port: int, ca_file: Path, *, keepalive_s: int) -> None:
        self._address, self._keepalive_s = (host, port), keepalive_s
        # One for all: a connection takes what the context shows at the moment it is made, and keeps that.
        self._tls = ssl.create_default_context(cafile=str(ca_file))
        # Nobody comes back on an old ticket, and each would be kept for ten thousand.
        self._tls.options |= ssl.OP_NO_TICKET

    async def dial(
        self,
        client_id: str,
        shown: Path,
        *,
        will: tuple[str, bytes],
        filters: Sequence[str],
        hear: Callable[[Published], None],
        lost: Callable[[], None],
    ) -> Session:
        """Connect, and subscribe with QoS 1.

        Args:
            client_id: the device.
            shown: PEM of its connection key and certificate.
            will: topic and payload of what the broker says when the device is lost.
            filters: what it listens to.
            hear: gets each message; it is acknowledged already.
            lost: called once when the connection has broken.

        Raises:
            OSError: the broker is not there, refuses, or does not answer within `WELCOME_S`.
        """
        try:
            async with asyncio.timeout(WELCOME_S):
                line = await self._connected(shown)
                session = Session(line, hear, lost)
                try:
                    await session.begin(connect(client_id, keepalive_s=self._keepalive_s, will=will), CONNACK)
                    await session.begin(subscribe(1, filters), SUBACK)
                except BaseException:
                    session.abandon()
                    raise
                return session
        except (TimeoutError, PacketError) as error:
            raise ConnectionError(
                f"no welcome for {client_id}: {error or f'{WELCOME_S:g} s passed'}"
            ) from None

    async def _connected(self, shown: Path) -> _Line:
        loop = asyncio.get_running_loop()
        plain = socket.socket(socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET)
        plain.setblocking(False)  # noqa: FBT003 - the standard library's own signature
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(plain, self._address)
            self._tls.load_cert_chain(shown)
            line = _Line(plain, self._tls, self._address[0])
            while not line.is_greeted():
                await loop.sock_sendall(plain, line.to_send())
                line.come(await loop.sock_recv(plain, READ_BYTES))
            await loop.sock_sendall(plain, line.to_send())
        except BaseException:
            plain.close()
            raise
        return line


class _Line:
    """TLS over a socket, in memory: what has come goes in, what is to leave comes out."""

    __slots__ = ("_in", "_out", "_tls", "plain")

    def __init__(self, plain: socket.socket, context: ssl.SSLContext, name: str) -> None:
        self.plain, self._in, self._out = plain, ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=name)

    def is_greeted(self) -> bool:
        """Go on with the handshake; whether it is over."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def come(self, received: bytes) -> None:
        """Take what the socket gave; raises ConnectionResetError for its end."""
        if not received:
            raise ConnectionResetError("the broker hung up")
        self._in.write(received)

    def read(self) -> bytes:
        """All that can be read of what has come; raises OSError where it ends."""
        parts = []
        while self._in.pending or self._tls.pending():
            try:
                part = self._tls.read(READ_BYTES)
            except ssl.SSLWantReadError:
                break
            if not part:
                raise ConnectionResetError("the broker hung up")
            parts.append(part)
        return b"".join(parts)

    def write(self, data: bytes) -> bytes:
        """`data` as it goes over the socket."""
        self._tls.write(data)
        return self._out.read()

    def to_send(self) -> bytes:
        """What TLS itself has to say."""
        return self._out.read()


class Session:
    """A connection that stands. Not for several threads; `Broker.dial` makes one."""

    __slots__ = (
        "_awaited",
        "_hear",
        "_identifier",
        "_line",
        "_loop",
        "_lost",
        "_reader",
        "_unsent",
        "broker_acks",
    )

    def __init__(self, line: _Line, hear: Callable[[Published], None], lost: Callable[[], None]) -> None:
        self._line: _Line | None = line
        self._hear, self._lost = hear, lost
        self._loop = asyncio.get_running_loop()
        self._reader = PacketReader(MAX_PAYLOAD_BYTES + 8192)
        self._unsent = b""
        self._identifier = 0
        self._awaited: tuple[int, asyncio.Future[bytes]] | None = None
        self.broker_acks = 0
        self._loop.add_reader(line.plain, self._readable)

    @property
    def is_open(self) -> bool:
        """Whether anything can be sent."""
        return self._line is not None

    async def begin(self, packet: bytes, answer: int) -> None:
        """Send CONNECT or SUBSCRIBE and wait for its answer of this type; raises OSError for a refusal."""
        self._awaited = answer, self._loop.create_future()
        self._send(packet)
        try:
            body = await self._awaited[1]
        finally:
            self._awaited = None
        # CONNACK: a code of 0; SUBACK: behind the identifier one byte a filter, 128 for one that is refused
        if body[1] if answer == CONNACK else 0x80 in body[2:]:
            raise ConnectionRefusedError(f"the broker refuses: {body.hex()}")

    def publish(self, topic: bytes, payload: bytes, *, retain: bool = False) -> bool:
        """Send with QoS 1; False where the connection is broken."""
        self._identifier = self._identifier % 65535 + 1
        return self._send(publish(topic, payload, identifier=self._identifier, retain=retain))

    def ping(self) -> None:
        """Say that this end lives."""
        self._send(PINGREQ)

    def hang_up(self) -> None:
        """End in good order: no last will is said."""
        self._send(DISCONNECT)
        self._close()

    def abandon(self) -> None:
        """Vanish without a word, as a device does whose power goes: the broker says the last will."""
        self._close()

    def _send(self, data: bytes) -> bool:
        if self._line is None:
            return False
        try:
            data = self._line.write(data)
            if self._unsent:
                self._unsent += data
                if len(self._unsent) > UNSENT_BYTES:
                    self._break()
                return self._line is not None
            sent = self._line.plain.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._break()
            return False
        if sent < len(data):
            self._unsent = data[sent:]
            self._loop.add_writer(self._line.plain, self._writable)
        return True

    def _writable(self) -> None:
        if self._line is None:
            return
        try:
            self._unsent = self._unsent[self._line.plain.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self._break()
            return
        if not self._unsent:
            self._loop.remove_writer(self._line.plain)

    def _readable(self) -> None:
        if self._line is None:
            return
        # All that has come, and not one TLS record a turn of the loop: each word of the broker is a record of its own, and the
        # fleet's would wait behind the broker's for as many turns as the device has said things.
        try:
            self._line.come(self._line.plain.recv(READ_BYTES))
            self._take(self._reader.feed(self._line.read()))
        except BlockingIOError:
            return
        except (OSError, PacketError):
            self._break()

    def _take(self, packets: list[tuple[int, bytes]]) -> None:
        heard = []
        for head, body in packets:
            kind = head >> 4
            if kind == PUBLISH:
                heard.append(read_publish(head, body))
            elif kind == PUBACK:
                self.broker_acks += 1
            elif self._awaited is not None and kind == self._awaited[0] and not self._awaited[1].done():
                self._awaited[1].set_result(body)
        if identifiers := [message.identifier for message in heard if message.qos]:
            self._send(puback(identifiers))
        for message in heard:
            self._hear(message)

    def _break(self) -> None:
        was_open = self._line is not None
        self._close()
        if self._awaited is not None and not self._awaited[1].done():
            self._awaited[1].set_exception(ConnectionResetError("the broker hung up"))
        elif was_open:
            self._lost()

    def _close(self) -> None:
        line, self._line = self._line, None
        if line is None:
            return
        self._loop.remove_reader(line.plain)
        self._loop.remove_writer(line.plain)
        with contextlib.suppress(OSError):
            line.plain.close()
