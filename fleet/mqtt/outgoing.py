"""What waits to be published: acknowledgements and retained messages, each at most once per device.

Bounded by the number of devices, not by time: while the broker is slow or away, acknowledgements of a device merge into
one, and a device whose desired state changed many times is named once. So nothing here can fill the memory, and
nothing that waits is out of date. May be filled from any thread; is emptied by the event loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping

from fleet.ingest.sequences import merge
from protocol.limits import MAX_RANGES
from protocol.messages.kinds import Kind
from protocol.messages.payloads import Ack, BootAck

__all__ = ["Outgoing"]

PendingRanges = dict[str, tuple[tuple[int, int], ...]]


class Outgoing:
    """The waiting acknowledgements and retained messages. Construct inside the running loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._acks: dict[str, PendingRanges] = {}
        self._retained: set[tuple[Kind, str]] = set()
        self.acks_waiting = asyncio.Event()
        self.retained_waiting = asyncio.Event()

    def acknowledge(self, acks: Mapping[str, Ack]) -> None:
        """Queue acknowledgements by device; the events they name are on disk."""
        with self._lock:
            for device, ack in acks.items():
                boots = self._acks.setdefault(device, {})
                for boot in ack.boots:
                    boots[boot.boot_id] = merge((*boots.get(boot.boot_id, ()), *boot.ranges), ())
        if acks:
            self._loop.call_soon_threadsafe(self.acks_waiting.set)

    def announce(self, devices: Iterable[str], kind: Kind = Kind.DESIRED) -> None:
        """Queue these devices' retained messages of a kind (the `DesiredPublisher` port)."""
        with self._lock:
            self._retained.update((kind, device) for device in devices)
            waiting = bool(self._retained)
        if waiting:
            self._loop.call_soon_threadsafe(self.retained_waiting.set)

    def take_acks(self) -> dict[str, tuple[Ack, ...]]:
        """Empty the waiting acknowledgements: per device one message, more where one would be too large."""
        self.acks_waiting.clear()
        with self._lock:
            waiting, self._acks = self._acks, {}
        return {device: tuple(_ack_messages(boots)) for device, boots in waiting.items()}

    def take_retained(self) -> list[tuple[Kind, str]]:
        """Empty what waits: the kind of message and its device."""
        self.retained_waiting.clear()
        with self._lock:
            waiting, self._retained = self._retained, set()
        return sorted(waiting)


def _ack_messages(boots: PendingRanges) -> Iterable[Ack]:
    entries: list[BootAck] = []
    room = MAX_RANGES
    for boot_id, ranges in boots.items():
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
