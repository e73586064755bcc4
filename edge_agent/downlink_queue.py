"""What arrived and waits for the agent's loop: bounded by bytes per topic, so that a flood on one topic drowns no other.

A topic that is full gives up its oldest messages: of what is retained the newest counts, and an acknowledgement that is lost
costs one more delivery. Any thread may put, one takes.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Final

from edge_agent.link import Message
from protocol.limits import MAX_PAYLOAD_BYTES

__all__ = ["DownlinkQueue"]

BYTES_PER_TOPIC: Final = 2 * MAX_PAYLOAD_BYTES
"""Two of the largest messages, or all acknowledgements of some minutes."""
_MESSAGE_BYTES: Final = 500
"""What an empty message takes of memory."""


class DownlinkQueue:
    """Messages in the order in which they came; only those of topics that were subscribed to."""

    def __init__(self, topics: tuple[str, ...]) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Message] = deque()
        self._bytes = dict.fromkeys(topics, 0)

    def put(self, message: Message) -> None:
        """Keep a message; the oldest of its topic go where they would be too many."""
        with self._lock:
            if message.topic not in self._bytes:
                return
            self._waiting.append(message)
            self._bytes[message.topic] += _size(message)
            while self._bytes[message.topic] > BYTES_PER_TOPIC:
                oldest = next(m for m in self._waiting if m.topic == message.topic)
                if oldest is message:
                    break
                self._waiting.remove(oldest)
                self._bytes[message.topic] -= _size(oldest)

    def take(self) -> list[Message]:
        """Everything that waits, oldest first."""
        with self._lock:
            taken = list(self._waiting)
            self._waiting.clear()
            self._bytes = dict.fromkeys(self._bytes, 0)
            return taken


def _size(message: Message) -> int:
    return len(message.payload) + _MESSAGE_BYTES
