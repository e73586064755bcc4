"""A bounded queue in which nobody can take the room, or the turn, of the others.

Messages wait in a line of their own for each device; a batch takes one of each line in turn. When there is no room the
longest line gives way, so a device that floods displaces only itself.

A device that hears nothing says the same once more. While the first still waits, the copy is let go: whatever the wait,
what is stored is new, and a queue that holds half a minute of work never fills with what it holds already.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from enum import Enum, auto
from typing import Final

from fleet.ingest.judging import Arrival
from protocol.messages.kinds import Kind

__all__ = ["FairQueue", "Place"]

_DEATH: Final = f"/{Kind.DEATH.value}"
"""A last will is the same text each time, and is news each time."""


class Place(Enum):
    """What became of a message that was to wait."""

    TAKEN = auto()
    COPY = auto()  # the same waits already
    DROPPED = auto()  # it, or another one for it


class FairQueue:
    """Holds at most `most` messages. Not for several threads.

    Args:
        most: messages held.
    """

    def __init__(self, most: int) -> None:
        self._most, self._size = most, 0
        self._lines: OrderedDict[str, deque[Arrival]] = OrderedDict()
        self._waiting: set[tuple[str, bytes]] = set()
        # by length, so that the longest line is found without looking at all of them
        self._by_length: dict[int, OrderedDict[str, None]] = {}
        self._longest = 0

    def __len__(self) -> int:
        """How many messages wait."""
        return self._size

    def put(self, device: str, arrival: Arrival) -> Place:
        """Let a message wait, unless the same waits already; who has most waiting gives way where there is no room.

        Args:
            device: whose line it joins.
            arrival: the message.
        """
        said = (arrival.topic, arrival.payload)
        if said in self._waiting:
            return Place.COPY
        had_room = self._size < self._most
        if not had_room:
            length = len(self._lines.get(device, ()))
            if length >= self._longest:
                return Place.DROPPED
            loser = next(iter(self._by_length[self._longest]))
            # the newest of it: what waits longest is what its device waits for
            self._forget(self._lines[loser].pop())
            self._resize(loser, -1)
        self._lines.setdefault(device, deque()).append(arrival)
        if not arrival.topic.endswith(_DEATH):
            self._waiting.add(said)
        self._resize(device, 1)
        return Place.TAKEN if had_room else Place.DROPPED

    def take(self, most: int, most_bytes: int) -> list[Arrival]:
        """At most so many messages, one of each device in turn, each device's in the order in which they came.

        Args:
            most: messages.
            most_bytes: payload bytes; the first message is taken whatever it has.
        """
        batch: list[Arrival] = []
        size = 0
        while self._lines and len(batch) < most:
            device, line = next(iter(self._lines.items()))
            size += len(line[0].payload)
            if batch and size > most_bytes:
                break
            arrival = line.popleft()
            self._forget(arrival)
            batch.append(arrival)
            self._lines.move_to_end(device)
            self._resize(device, -1)
        return batch

    def _forget(self, arrival: Arrival) -> None:
        self._waiting.discard((arrival.topic, arrival.payload))

    def _resize(self, device: str, change: int) -> None:
        """Note that the line of a device has become longer or shorter by one."""
        self._size += change
        length = len(self._lines[device])
        before = length - change
        if before:
            same = self._by_length[before]
            del same[device]
            if not same:
                del self._by_length[before]
        if length:
            self._by_length.setdefault(length, OrderedDict())[device] = None
        else:
            del self._lines[device]
        if length > self._longest or (before == self._longest and before not in self._by_length):
            self._longest = length
