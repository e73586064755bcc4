"""The packets of MQTT 3.1.1 that a client needs, as bytes: many may be cut from one read and joined into one write.

Bytes in, bytes out: no socket, no clock, no state but the end of a packet that has not come yet. A client library that
calls back for each message costs more than the message itself where there are thousands a second.

Source: MQTT 3.1.1, OASIS, 29 October 2014, sections 2 and 3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

__all__ = [
    "CONNACK",
    "DISCONNECT",
    "PINGREQ",
    "PUBACK",
    "PUBLISH",
    "SUBACK",
    "UNSUBACK",
    "PacketError",
    "PacketReader",
    "Published",
    "connect",
    "puback",
    "publish",
    "read_identifier",
    "read_publish",
    "subscribe",
    "unsubscribe",
]

CONNACK, PUBLISH, PUBACK, SUBACK, UNSUBACK = 2, 3, 4, 9, 11
"""Types of packets from a broker that say something: the high four bits of the first byte."""

PINGREQ: Final = b"\xc0\x00"
DISCONNECT: Final = b"\xe0\x00"

_PROTOCOL: Final = b"\x00\x04MQTT\x04"
_CLEAN, _WILL, _WILL_RETAIN = 0x02, 0x04, 0x20
_LONGEST_LENGTH: Final = 4


class PacketError(Exception):
    """The peer sent what no packet of MQTT 3.1.1 is, or one that is too large: hang up."""


class Published(NamedTuple):
    """A message from the broker. `identifier` is 0 with `qos` 0; with 1 it must be acknowledged."""

    topic: str
    payload: bytes
    qos: int
    retained: bool
    identifier: int


class PacketReader:
    """Cuts a stream into packets.

    Args:
        largest: bytes of a packet behind its length; what announces more is refused before it is kept.
    """

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._rest = b""

    def feed(self, received: bytes) -> list[tuple[int, bytes]]:
        """The packets that are whole now: the first byte of each, and what stands behind its length.

        Raises:
            PacketError: see there.
        """
        data = self._rest + received if self._rest else received
        packets: list[tuple[int, bytes]] = []
        at, size = 0, len(data)
        while at + 1 < size:
            length, start = data[at + 1], at + 2
            if length > 127:
                found = _long_length(data, at + 1)
                if found is None:
                    break
                length, start = found
            if length > self._largest:
                raise PacketError(f"a packet of {length} bytes; at most {self._largest} are taken")
            end = start + length
            if end > size:
                break
            packets.append((data[at], data[start:end]))
            at = end
        self._rest = data[at:] if at else data
        return packets


def connect(client_id: str, *, keepalive_s: int, will: tuple[str, bytes] | None = None) -> bytes:
    """CONNECT with a clean session; `will` is topic and payload, QoS 1 and retained."""
    flags, last = _CLEAN, b""
    if will is not None:
        flags |= _WILL | 0x08 | _WILL_RETAIN
        last = _text(will[0]) + struct.pack(">H", len(will[1])) + will[1]
    body = _PROTOCOL + struct.pack(">BH", flags, keepalive_s) + _text(client_id) + last
    return b"\x10" + _length(len(body)) + body


def subscribe(identifier: int, filters: Iterable[str]) -> bytes:
    """SUBSCRIBE to these filters with QoS 1."""
    body = struct.pack(">H", identifier) + b"".join(_text(one) + b"\x01" for one in filters)
    return b"\x82" + _length(len(body)) + body


def unsubscribe(identifier: int, topic_filter: str) -> bytes:
    """UNSUBSCRIBE from this filter."""
    body = struct.pack(">H", identifier) + _text(topic_filter)
    return b"\xa2" + _length(len(body)) + body


def publish(topic: bytes, payload: bytes, *, identifier: int = 0, retain: bool = False) -> bytes:
    """PUBLISH, of QoS 1 with an `identifier` (1 to 65535), else of QoS 0; `topic` is UTF-8."""
    head = b"\x30"[0] | (0x02 if identifier else 0) | (0x01 if retain else 0)
    middle = struct.pack(">H", identifier) if identifier else b""
    length = 2 + len(topic) + len(middle) + len(payload)
    return b"".join((bytes((head,)), _length(length), struct.pack(">H", len(topic)), topic, middle, payload))


def puback(identifiers: Sequence[int]) -> bytes:
    """A PUBACK for each of these, one behind the other."""
    return b"".join([b"\x40\x02" + one.to_bytes(2, "big") for one in identifiers])


def read_publish(head: int, body: bytes) -> Published:
    """Read a packet of type `PUBLISH`; raises PacketError."""
    qos = (head >> 1) & 3
    end = 2 + int.from_bytes(body[:2], "big")
    start = end + 2 if qos else end
    if len(body) < start or qos > 1:
        raise PacketError(f"a message of {len(body)} bytes and QoS {qos} is none that was subscribed to")
    try:
        topic = body[2:end].decode()
    except UnicodeDecodeError as error:
        raise PacketError(f"a topic that is no UTF-8: {error}") from None
    return Published(topic, body[start:], qos, bool(head & 1), int.from_bytes(body[end:start], "big"))


def read_identifier(body: bytes) -> int:
    """The identifier that a PUBACK or SUBACK begins with; raises PacketError."""
    if len(body) < 2:
        raise PacketError(f"an answer of {len(body)} bytes has no identifier")
    return int.from_bytes(body[:2], "big")


def _long_length(data: bytes, at: int) -> tuple[int, int] | None:
    """A length of several bytes at `at`, and where it ends; None where it has not come yet."""
    value = 0
    for index in range(_LONGEST_LENGTH):
        if at + index >= len(data):
            return None
        byte = data[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise PacketError("a length of more than four bytes")


def _length(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack(">H", len(encoded)) + encoded
