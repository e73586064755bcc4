"""What waits to be published: acknowledgements and retained messages, each at most once per device.

Bounded by the number of devices, not by time: while the broker is slow or away, acknowledgements of a device merge into
one, and a device whose desired state changed many times is named once. So nothing here can fill the memory, and
nothing that waits is out of date. May be filled from any thread; is emptied by the event loop.

What was decided just now goes before what is only said again. A word that is under way is not handed out a second time
until it is settled: so the words to a device leave in the order in which they are read, whoever seals them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from fleet.ingest.sequences import Range, merge
from fleet.mqtt.held import WordKey
from protocol.limits import MAX_RANGES, MAX_REFUSED
from protocol.messages.kinds import Kind
from protocol.messages.payloads import Ack, BootAck, RefusedEvent

__all__ = ["Outgoing"]

REFUSED_AT_ONCE: Final = 64
"""Refused events in one message: with a reason of 200 characters each, whatever these are, they fit a payload."""


@dataclass(kw_only=True)
class _Waiting:
    """What one device may forget: ranges by boot, and refused events by (boot, sequence)."""

    ranges: dict[str, tuple[Range, ...]] = field(default_factory=dict)
    refused: dict[tuple[str, int], RefusedEvent] = field(default_factory=dict)


class Outgoing:
    """The waiting acknowledgements and retained messages. Construct inside the running loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._acks: dict[str, _Waiting] = {}
        # dictionaries, for their order: who waits longest goes first
        self._news: dict[WordKey, None] = {}
        self._again: dict[WordKey, None] = {}
        self._under_way: set[WordKey] = set()
        self.acks_waiting = asyncio.Event()
        self.retained_waiting = asyncio.Event()

    def acknowledge(self, acks: Mapping[str, Ack]) -> None:
        """Queue acknowledgements by device; the events they name are on disk."""
        with self._lock:
            for device, ack in acks.items():
                waiting = self._acks.setdefault(device, _Waiting())
                for boot in ack.boots:
                    waiting.ranges[boot.boot_id] = merge(
                        (*waiting.ranges.get(boot.boot_id, ()), *boot.ranges), ()
                    )
                for event in ack.refused:
                    # those that find no room come again, and are told then
                    if len(waiting.refused) < MAX_REFUSED:
                        waiting.refused[event.boot_id, event.sequence] = event
        if acks:
            self._loop.call_soon_threadsafe(self.acks_waiting.set)

    def announce(self, devices: Iterable[str], kind: Kind = Kind.DESIRED) -> None:
        """Queue these devices' retained messages of a kind (the `DesiredPublisher` port)."""
        with self._lock:
            for device in devices:
                self._news[kind, device] = None
                self._again.pop((kind, device), None)
            waiting = bool(self._news)
        if waiting:
            self._loop.call_soon_threadsafe(self.retained_waiting.set)

    def say_again(self, words: Iterable[WordKey]) -> None:
        """Queue words that have not changed, behind all that have."""
        with self._lock:
            self._again.update((word, None) for word in words if word not in self._news)
        self._loop.call_soon_threadsafe(self.retained_waiting.set)

    def take_acks(self) -> dict[str, tuple[Ack, ...]]:
        """Empty the waiting acknowledgements: per device one message, more where one would be too large."""
        self.acks_waiting.clear()
        with self._lock:
            waiting, self._acks = self._acks, {}
        return {device: tuple(_ack_messages(one)) for device, one in waiting.items()}

    def take_news(self, most: int) -> list[WordKey]:
        """At most `most` words that have changed, to publish now; each is under way until it is settled."""
        return self._take(self._news, most)

    def take_again(self, most: int) -> list[WordKey]:
        """The same of words that have not changed: none while one that has waits."""
        return [] if self._news else self._take(self._again, most)

    def _take(self, waiting: dict[WordKey, None], most: int) -> list[WordKey]:
        with self._lock:
            taken = list(islice((word for word in waiting if word not in self._under_way), most))
            for word in taken:
                del waiting[word]
            self._under_way.update(taken)
            if not taken:  # what still waits is under way: settling it wakes us
                self.retained_waiting.clear()
        return taken

    def settle(self, words: Iterable[WordKey], *, unsaid: Iterable[WordKey] = ()) -> None:
        """What was taken is published, or it ended otherwise; `unsaid` of it goes to the front of what waits."""
        with self._lock:
            self._under_way.difference_update(words)
            self._news = dict.fromkeys(unsaid) | self._news
            waiting = bool(self._news or self._again)
        if waiting:
            self.retained_waiting.set()


def _ack_messages(waiting: _Waiting) -> Iterable[Ack]:
    """As few messages as there can be, none of them too large; the refused ones apart from the ranges."""
    entries: list[BootAck] = []
    room = MAX_RANGES
    for boot_id, ranges in waiting.ranges.items():
        start = 0
        while start < len(ranges):
            part = ranges[start : start + room]
            entries.append(BootAck(boot_id=boot_id, ranges=part))
            start, room = start + len(part), room - len(part)
            if room == 0:
                yield Ack(boots=tuple(entries))
                entries, room = [], MAX_RANGES
    if entries:
        yield Ack(boots=tuple(entries))
    refused = tuple(waiting.refused.values())
    for start in range(0, len(refused), REFUSED_AT_ONCE):
        yield Ack(boots=(), refused=refused[start : start + REFUSED_AT_ONCE])
