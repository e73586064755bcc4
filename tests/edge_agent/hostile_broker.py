"""Brokers that are none: each lets a device in, answers its pings, and then does something that no broker should."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, Self

__all__ = ["HostileBroker", "packet", "publish"]

CONNACK: Final = b"\x20\x02\x00\x00"
PINGREQ, PUBLISH, SUBSCRIBE = 0xC0, 0x30, 0x80


def packet(first: int, body: bytes, claimed: int | None = None) -> bytes:
    """An MQTT packet; `claimed` is a length that is not the body's."""
    length, head = len(body) if claimed is None else claimed, bytearray([first])
    while True:
        length, digit = divmod(length, 128)
        head.append(digit | (128 if length else 0))
        if not length:
            return bytes(head) + body


def publish(
    topic: str, payload: bytes, *, qos: int = 0, number: int = 1, claimed: int | None = None
) -> bytes:
    """A message from the broker; of a larger one than it really sends, where `claimed` says so."""
    name = topic.encode()
    body = len(name).to_bytes(2) + name + (number.to_bytes(2) if qos else b"") + payload
    return packet(PUBLISH | qos << 1, body, claimed)


class HostileBroker:
    """Serves one device at a time; `misbehave(line, first, body)` is called with every packet of the device's.

    It counts connections and what the device sent; with `is_deaf` it reads nothing once the device is in.
    """

    def __init__(
        self,
        misbehave: Callable[[socket.socket, int, bytes], None],
        *,
        greet: Callable[[socket.socket], None] = lambda line: None,
        is_deaf: bool = False,
    ) -> None:
        self._misbehave, self._greet, self._is_deaf = misbehave, greet, is_deaf
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(0.2)
        self._is_over = threading.Event()
        self.connections = 0
        self.bytes_read = 0
        self.published: list[bytes] = []
        self.subscribed: list[bytes] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self._server.getsockname()[1]}"

    def close(self) -> None:
        self._is_over.set()
        self._thread.join()
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _serve(self) -> None:
        while not self._is_over.is_set():
            with contextlib.suppress(OSError):
                line, _ = self._server.accept()
                with line:
                    line.settimeout(0.2)
                    self.connections += 1
                    self._talk(line)

    def _talk(self, line: socket.socket) -> None:
        for first, body in self._packets(line):
            if first & 0xF0 == 0x10:
                line.sendall(CONNACK)
                self._greet(line)
                while self._is_deaf and not self._is_over.is_set():
                    time.sleep(0.05)
            elif first == PINGREQ:
                line.sendall(b"\xd0\x00")
            elif first & 0xF0 == SUBSCRIBE:
                self.subscribed.append(body)
                line.sendall(packet(0x90, body[:2] + b"\x01" * body[2:].count(b"fedge/")))
            elif first & 0xF0 == PUBLISH:
                self.published.append(body)
            self._misbehave(line, first, body)

    def _packets(self, line: socket.socket) -> Iterator[tuple[int, bytes]]:
        waiting = bytearray()
        while not self._is_over.is_set():
            try:
                chunk = line.recv(65536)
            except TimeoutError:
                self._misbehave(line, 0, b"")
                continue
            if not chunk:
                return
            self.bytes_read += len(chunk)
            waiting += chunk
            while (end := _end_of_packet(waiting)) is not None:
                head, stop = end
                yield waiting[0], bytes(waiting[head:stop])
                del waiting[:stop]


def _end_of_packet(data: bytearray) -> tuple[int, int] | None:
    """Where the body of the first packet begins and ends, once all of it is there."""
    length = shift = 0
    for place, digit in enumerate(data[1:5], 1):
        length |= (digit & 127) << shift
        shift += 7
        if not digit & 128:
            return (place + 1, place + 1 + length) if len(data) >= place + 1 + length else None
    return None
