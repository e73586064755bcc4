"""A bad road between two programs: each message that travels it may be cut, lost, doubled, held back or changed by a rule.

::

    device ──TLS or plain──► Road ──TLS or plain──► broker, or fleet
                               │ rule(message) → what travels on; raise `Cut` to end the connection there

On a road of MQTT a message is one control packet; on any other road it is what one read gave. The rule runs in the thread of
its connection, so it may also wait. A road can be closed (`is_open`), and its connections cut at any moment.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Self

__all__ = ["Cut", "Message", "Packet", "Road", "as_it_is"]

_DIAL_TIMEOUT_S: Final = 10.0
_READ_BYTES: Final = 65536


class Packet(IntEnum):
    """MQTT's control packets (OASIS MQTT 3.1.1, table 2.1); OTHER on a road that is not MQTT's."""

    OTHER = 0
    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    SUBSCRIBE = 8
    SUBACK = 9
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message: the `connection`-th connection's `number`-th in its direction, both from 1."""

    connection: int
    number: int
    from_device: bool
    packet: Packet
    content: bytes

    @property
    def topic(self) -> str:
        """Of a PUBLISH; "" of others."""
        if self.packet is not Packet.PUBLISH:
            return ""
        begin = next(at for at in range(1, 5) if not self.content[at] & 0x80) + 1
        length = int.from_bytes(self.content[begin : begin + 2], "big")
        return self.content[begin + 2 : begin + 2 + length].decode(errors="replace")


class Cut(Exception):  # noqa: N818 - what the rule says, not an error
    """End the connection; what is given travels on before."""

    def __init__(self, first: bytes = b"") -> None:
        super().__init__()
        self.first = first


Rule = Callable[[Message], list[bytes]]


def as_it_is(message: Message) -> list[bytes]:
    """The rule of a good road."""
    return [message.content]


@dataclass
class Road:
    """A road to `port` of loopback; a context manager.

    Attributes:
        port: where it leads.
        served: how it speaks to devices; None is plain.
        dialled: how it speaks to the broker, asked for each connection; None is plain.
        is_mqtt: whether it knows messages.
        rule: see `Rule`; may be replaced while messages travel.
        is_open: False: nobody gets through.
        listen: the port that devices dial; 0 picks one.
        connections: how many were made.
        bytes_up, bytes_down: what was carried; `sent` says of which kind of message, upwards.
    """

    port: int
    served: ssl.SSLContext | None = None
    dialled: Callable[[], ssl.SSLContext] | None = None
    is_mqtt: bool = True
    rule: Rule = as_it_is
    is_open: bool = True
    listen: int = 0
    connections: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    sent: Counter[str] = field(default_factory=Counter)
    _lines: set[socket.socket] = field(default_factory=set)

    def __enter__(self) -> Self:
        self._server = socket.create_server(("127.0.0.1", self.listen), backlog=128)
        self.listen = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, name="road", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_open = False
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()

    def close(self) -> None:
        """Nobody gets through any more."""
        self.is_open = False
        self.cut()

    def cut(self) -> None:
        """End every connection now, in the middle of whatever it says."""
        for line in list(self._lines):
            _hang_up(line)

    def _accept(self) -> None:
        while True:
            try:
                device, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._join, args=(device, self.connections), daemon=True).start()

    def _join(self, device: socket.socket, connection: int) -> None:
        if not self.is_open:
            _hang_up(device)
            return
        try:
            device.settimeout(_DIAL_TIMEOUT_S)
            if self.served is not None:
                device = self.served.wrap_socket(device, server_side=True)
            broker = socket.create_connection(("127.0.0.1", self.port), _DIAL_TIMEOUT_S)
            if self.dialled is not None:
                broker = self.dialled().wrap_socket(broker, server_hostname="127.0.0.1")
        except OSError:  # nobody there, or no TLS: the device sees what it would see
            _hang_up(device)
            return
        self._lines |= {device, broker}
        try:
            self._carry(device, broker, connection)
        finally:
            self._lines -= {device, broker}
            for line in (device, broker):
                _hang_up(line)
                line.close()

    def _carry(self, device: socket.socket, broker: socket.socket, connection: int) -> None:
        """Both directions in one thread: a TLS connection has one owner."""
        others = {device: broker, broker: device}
        waiting = {device: bytearray(), broker: bytearray()}
        numbers = {device: 0, broker: 0}
        with contextlib.suppress(OSError, ValueError):  # one of them has hung up, or was cut
            while True:
                for source in _readable(device, broker):
                    chunk = source.recv(_READ_BYTES)
                    if not chunk:
                        return
                    waiting[source] += chunk
                    for content in _messages(waiting[source], is_mqtt=self.is_mqtt):
                        numbers[source] += 1
                        message = Message(
                            connection=connection,
                            number=numbers[source],
                            from_device=source is device,
                            packet=_kind(content) if self.is_mqtt else Packet.OTHER,
                            content=content,
                        )
                        if not self._pass_on(message, others[source]):
                            return

    def _pass_on(self, message: Message, target: socket.socket) -> bool:
        """What the rule makes of a message; False where it ends the connection."""
        try:
            for part in self.rule(message):
                self._count(message, len(part))
                target.sendall(part)
        except Cut as cut:
            target.sendall(cut.first)
            return False
        return True

    def _count(self, message: Message, size: int) -> None:
        if message.from_device:
            self.bytes_up += size
            self.sent[message.topic.rpartition("/")[2] or message.packet.name] += size
        else:
            self.bytes_down += size


def _kind(content: bytes) -> Packet:
    try:
        return Packet(content[0] >> 4)
    except ValueError:
        return Packet.OTHER


def _readable(device: socket.socket, broker: socket.socket) -> list[socket.socket]:
    """Which of the two has something to say; waits until one has."""
    lines = [device, broker]
    if pending := [line for line in lines if isinstance(line, ssl.SSLSocket) and line.pending()]:
        return pending
    return select.select(lines, [], [])[0]


def _messages(waiting: bytearray, *, is_mqtt: bool) -> Iterator[bytes]:
    """Take whole messages off the front of what has arrived."""
    while size := _packet_bytes(waiting) if is_mqtt else len(waiting):
        if len(waiting) < size:
            return
        yield bytes(waiting[:size])
        del waiting[:size]


def _packet_bytes(content: bytearray) -> int:
    """Length of the first packet, 0 while it cannot be told. Section 2.2.3 of OASIS MQTT 3.1.1."""
    length = 0
    for at, byte in enumerate(content[1:5]):
        length |= (byte & 0x7F) << (7 * at)
        if not byte & 0x80:
            return 2 + at + length
    return 0


def _hang_up(line: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # The plain socket's own: the TLS one's would take the TLS object away from the thread that is using it.
        socket.socket.shutdown(line, socket.SHUT_RDWR)
