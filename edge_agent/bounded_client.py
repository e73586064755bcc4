"""paho's client on a socket that bounds what a broker can make it hold, and counts what left.

paho collects a packet of up to 256 MB before anybody may look at it, and keeps every message of QoS 2 until the broker
releases it. The socket here reads packet headers along with paho: a packet that is too large, or of a kind that no broker
sends to a client of QoS 1, ends the connection before it is collected. Of a message that is too large the topic is read
first, so that the link can do without that topic.

It relies on one habit of paho's: a header is read byte by byte and a body by its exact rest, so that what one call of
`recv` gives never reaches into the next packet. Source: OASIS MQTT 3.1.1, section 2.2; paho-mqtt 2.1 and 2.2.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from typing import Final

import paho.mqtt.client as mqtt

from edge_agent.errors import EdgeAgentError
from protocol.limits import MAX_PAYLOAD_BYTES

__all__ = ["BoundedClient", "BoundedSocket", "BrokerMisbehavesError", "TooLargeDownlinkError"]

MOST_PACKET_BYTES: Final = 2 * MAX_PAYLOAD_BYTES
"""Of an incoming message: twice what may be said, so that what is only a little too large is told by its content."""
_MOST_CONTROL_BYTES: Final = 1024
"""Of any other packet; an acknowledgement of our subscriptions takes ten."""
_MOST_TOPIC_BYTES: Final = 512
_PUBLISH: Final = 0x30
_QOS_2: Final = 0x04


class BrokerMisbehavesError(EdgeAgentError):
    """The broker said what no broker says to a client like this one; the connection is over."""


class TooLargeDownlinkError(BrokerMisbehavesError):
    """A message for this device is too large. `topic` is where it was published."""

    def __init__(self, topic: str, size: int) -> None:
        super().__init__(
            f"the broker sends a message of {size / 1e6:.1f} MB on {topic}; at most {MOST_PACKET_BYTES / 1e6:.1f} MB are read: clear it there"
        )
        self.topic = topic


class BoundedSocket:
    """What paho needs of a socket, around a connected one."""

    def __init__(self, inner: socket.socket | ssl.SSLSocket) -> None:
        self._inner = inner
        self._command: int | None = None
        self._length = self._shift = self._left = 0
        self._head: bytearray | None = None
        self.bytes_sent = self.packets_read = 0
        self.alert = ""
        """What the broker's TLS said when it ended the connection; paho would swallow it."""

    def recv(self, count: int) -> bytes:
        """As `socket.recv`; raises `BrokerMisbehavesError` before a packet is collected that must not be."""
        if self._head is not None:
            return self._recv_topic(count, self._head)
        try:
            data = self._inner.recv(count)
        except ssl.SSLError as error:
            if not isinstance(error, ssl.SSLWantReadError | ssl.SSLWantWriteError):
                self.alert = error.reason or str(error)
            raise
        if self._left:
            self._left -= len(data)
        elif data:
            self._read_header(data[0])
        return data

    def send(self, data: bytes | bytearray) -> int:
        """As `socket.send`."""
        sent = self._inner.send(data)
        self.bytes_sent += sent
        return sent

    def pending(self) -> int:
        """Bytes that TLS has decrypted already, which no longer show at the socket."""
        return self._inner.pending() if isinstance(self._inner, ssl.SSLSocket) else 0

    def fileno(self) -> int:
        """As `socket.fileno`."""
        return self._inner.fileno()

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001 - the standard library's own signature
        """As `socket.setblocking`."""
        self._inner.setblocking(flag)

    def close(self) -> None:
        """As `socket.close`."""
        self._inner.close()

    def _read_header(self, byte: int) -> None:
        if self._command is None:
            self._command, self._length, self._shift = byte, 0, 0
            self.packets_read += 1
            if byte & 0xF0 == _PUBLISH and byte & _QOS_2:
                raise BrokerMisbehavesError("the broker sends a message of QoS 2, which nobody subscribed to")
            return
        self._length |= (byte & 127) << self._shift
        self._shift += 7
        if byte & 128:
            if self._shift == 28:
                raise BrokerMisbehavesError(
                    "the broker sends a packet whose length has five digits; four are the most"
                )
            return
        is_message = self._command & 0xF0 == _PUBLISH
        self._command, self._left = None, self._length
        if self._length <= (MOST_PACKET_BYTES if is_message else _MOST_CONTROL_BYTES):
            return
        if not is_message:
            raise BrokerMisbehavesError(
                f"the broker sends a packet of {self._length} bytes that is no message"
            )
        self._head = bytearray()

    def _recv_topic(self, count: int, head: bytearray) -> bytes:
        data = self._inner.recv(min(count, 2 + _MOST_TOPIC_BYTES - len(head)))
        head += data
        if len(head) >= 2 and len(head) >= min(2 + int.from_bytes(head[:2]), 2 + _MOST_TOPIC_BYTES):
            raise TooLargeDownlinkError(
                head[2 : 2 + int.from_bytes(head[:2])].decode(errors="replace"), self._length
            )
        if data:
            raise BlockingIOError
        return b""


class BoundedClient(mqtt.Client):
    """`mqtt.Client` whose sockets are bounded."""

    @property
    def line(self) -> BoundedSocket | None:
        """The socket of the present connection."""
        sock = self.socket()
        return sock if isinstance(sock, BoundedSocket) else None

    def hang_up(self, wait_s: float) -> None:
        """Say goodbye and let the broker close first, for up to `wait_s`.

        paho closes at once. What the broker was just saying would then reset the connection, the goodbye would be lost on
        its way, and the broker would speak this device's will. A second descriptor keeps the connection until it is over.
        """
        if (line := self.line) is None:
            return
        with socket.socket(fileno=os.dup(line.fileno())) as kept, contextlib.suppress(OSError):
            self.disconnect()
            kept.shutdown(socket.SHUT_WR)
            until_s = time.monotonic() + wait_s
            while (left_s := until_s - time.monotonic()) > 0:
                kept.settimeout(left_s)
                if not kept.recv(65536):
                    return

    def _create_socket(self) -> BoundedSocket:
        return BoundedSocket(super()._create_socket())  # type: ignore[arg-type] # the connected socket, plain or TLS
