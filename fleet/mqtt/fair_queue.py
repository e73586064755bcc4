"""A bounded queue in which nobody can take the room, or the turn, of the others.

Messages wait in a line of their own for each device; a batch takes one of each line in turn. When there is no room the
longest line gives way, so a device that floods displaces only itself.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from fleet.ingest.judging import Arrival

__all__ = ["FairQueue"]


class FairQueue:
    """Holds at most `most` messages. Not for several threads.

    Args:
        most: messages held.
    """

    def __init__(self, most: int) -> None:
        self._most, self._size = most, 0
        self._lines: OrderedDict[str, deque[Arrival]] = OrderedDict()
        # by length, so that the longest line is found without looking at all of them
        self._by_length: dict[int, OrderedDict[str, None]] = {}
        self._longest = 0

    def __len__(self) -> int:
        """How many messages wait."""
        return self._size

    def put(self, device: str, arrival: Arrival) -> bool:
        """Let a message wait; whether no message had to give way for it, or it for the others.

        Args:
            device: whose line it joins.
            arrival: the message.
        """
        had_room = self._size < self._most
        if not had_room:
            length = len(self._lines.get(device, ()))
            if length >= self._longest:
                return False
            loser = next(iter(self._by_length[self._longest]))
            self._lines[loser].pop()  # the newest of it: what waits longest is what its device waits for
            self._resize(loser, -1)
        self._lines.setdefault(device, deque()).append(arrival)
        self._resize(device, 1)
        return had_room

    def take(self, most: int) -> list[Arrival]:
        """At most so many messages, one of each device in turn, each device's in the order in which they came."""
        batch: list[Arrival] = []
        while self._lines and len(batch) < most:
            device, line = next(iter(self._lines.items()))
            batch.append(line.popleft())
            self._lines.move_to_end(device)
            self._resize(device, -1)
        return batch

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
