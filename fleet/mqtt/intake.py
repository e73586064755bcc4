"""Gathers arriving messages into batches and has each stored in one transaction on a worker thread.

::

    broker ─► rate of its device ─► fair queue ─► batch ─► store ─► commit ─► acknowledgements
                    ├► counted, named, not acknowledged      └► database away: the batch waits until it writes again
                    └► far beyond it: silenced at the broker

A commit costs an fsync however much is in it, so what arrives within `batch_wait_s` shares one; while more waits than one takes,
the next takes more, as long as that takes no longer than others who write may wait. The queue is bounded: when the disk cannot
keep up, messages are dropped and counted, of the device that has most of them first. Nothing is lost by that, since a device
forgets an event only when it is acknowledged, and a dropped one never is. A copy of what still waits is no second piece of work:
beyond its capacity the fleet goes on storing at its capacity, and is only late.

Who reads shares an interpreter with who stores. So while enough waits, what comes is read as fast as it is stored and hardly faster:
the broker holds the rest, and drops what it cannot hold for less than we could.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError

from fleet.ingest.batch_result import BatchResult
from fleet.ingest.judging import Arrival
from fleet.ingest.rates import TokenBuckets
from fleet.metrics import FleetMetrics
from fleet.mqtt.fair_queue import FairQueue, Place
from fleet.mqtt.outgoing import Outgoing
from fleet.settings import MqttSettings
from fleet.storage.outages import DatabaseAwayError, why_not_stored
from protocol.messages.kinds import Kind

__all__ = ["BatchStore", "Intake"]

STORE_RETRY_S: Final = 1.0
"""Pause before a database that takes nothing is asked again."""

STORE_ATTEMPTS: Final = 3
"""How often a batch is tried by a database that takes other writes."""

FIRST_BATCH: Final = 500
BATCH_S: Final = 0.2
"""How long a transaction may take: others write too. One that took longer halves the next, one that took half of it doubles it. Not
below `FIRST_BATCH`: half of the cost of fewer is that of a transaction, and a machine that is slow would become slower by that."""

BATCH_BYTES: Final = 8 * 1024 * 1024
"""Payload bytes in one transaction: what a database keeps of it in memory is a few times as much."""

ENOUGH: Final = 3
"""Batches that wait, beyond which reading more makes nobody faster."""

READY_S: Final = 0.25
"""How long nothing is read at most while enough waits: the broker also says what is no event."""

DEVICES_REMEMBERED: Final = 20_000
"""Devices whose rate is known at a time; some 5 MB."""

TELL_LIMITED_S: Final = 60.0
"""How often it is written down which devices send too fast."""

_MOVES_ROLLOUTS: Final = frozenset({Kind.REPORT})
"""Health, of which there is most, is looked at in a rollout's own time."""
_log = structlog.get_logger()


class BatchStore(Protocol):
    """The durable end: `fleet.ingest.store.EventStore`."""

    def store(self, arrivals: list[Arrival]) -> BatchResult:
        """Store a batch in one transaction."""

    def check_writable(self) -> None:
        """Raises SQLAlchemyError while nothing can be stored."""

    def note_limited(self, limited: dict[str, int], now: float) -> None:
        """Write down which devices sent too fast, and how many messages of them were not taken."""


class Intake:
    """The queue between the connection and the store.

    Args:
        store: where batches go.
        outgoing: gets the acknowledgements.
        metrics: counts what had to be dropped.
        settings: sizes and rates.
        wake_rollouts: called when something a rollout may wait for was stored.
        silence: called with a device that goes on sending far faster than it may, once or often.
    """

    def __init__(
        self,
        store: BatchStore,
        outgoing: Outgoing,
        metrics: FleetMetrics,
        settings: MqttSettings,
        *,
        wake_rollouts: Callable[[], None],
        silence: Callable[[str], None] = lambda _device: None,
    ) -> None:
        self._store = store
        self._outgoing = outgoing
        self._metrics = metrics
        self._settings = settings
        self._wake_rollouts = wake_rollouts
        self._queue = FairQueue(settings.queued_events)
        self._at_once = min(FIRST_BATCH, settings.batch_events)
        self._filled, self._taken = asyncio.Event(), asyncio.Event()
        self._events = TokenBuckets(
            settings.device_events_per_s, settings.device_burst_events, most=DEVICES_REMEMBERED
        )
        self._bytes = TokenBuckets(
            settings.device_bytes_per_s, settings.device_burst_bytes, most=DEVICES_REMEMBERED
        )
        # what comes again and again after it was not taken: no agent does that, each waits for acknowledgements
        self._patience = TokenBuckets(
            settings.device_events_per_s, settings.device_burst_events, most=DEVICES_REMEMBERED
        )
        # a thread of its own: those of the loop may all wait, for the same lock or a slow question
        self._thread = ThreadPoolExecutor(1, "ingest")
        self._silence = silence
        self._limited: Counter[str] = Counter()
        self._told_at = 0.0
        self._waits_since: float | None = None  # the oldest event of the batch that is being stored
        metrics.waiting.set_function(lambda: len(self._queue))
        metrics.oldest_waiting.set_function(self._oldest_s)

    def offer(self, arrival: Arrival) -> None:
        """Take a message, or drop and count it: its device sends too fast, or too many wait."""
        device = _device_of(arrival.topic)
        if not self._may_send(device, arrival):
            self._limited[device] += 1
            if not self._patience.take(device, 1.0, arrival.received_at):
                self._silence(device)
            return
        match self._queue.put(device, arrival):
            case Place.DROPPED:
                self._metrics.overflowed.inc()
            case Place.COPY:
                self._metrics.repeated.inc()
        self._filled.set()

    async def ready(self) -> None:
        """Wait until it makes sense to read more; at least one turn of the loop."""
        self._taken.clear()
        if len(self._queue) < min(ENOUGH * self._at_once, self._settings.queued_events):
            await asyncio.sleep(0)  # what comes without end must not keep the loop from the rest
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_S):
                await self._taken.wait()

    async def run(self) -> None:
        """Store batches until canceled."""
        while True:
            await self._until_filled()
            batch = self._queue.take(self._at_once, BATCH_BYTES)
            self._taken.set()
            began = time.monotonic()
            self._waits_since = min(arrival.received_at for arrival in batch)
            result = await self._store_for_certain(batch)
            self._pace(len(batch), time.monotonic() - began)
            if result is not None:
                self._outgoing.acknowledge(result.acks)
                self._metrics.stored_seconds.observe(self._oldest_s())
                self._metrics.acknowledged_at.set(time.time())
                self._outgoing.announce(result.commanded, Kind.COMMANDS)
                self._outgoing.announce(result.desiring)
                self._limited.update(result.postponed)
                if not _MOVES_ROLLOUTS.isdisjoint(result.stored):
                    self._wake_rollouts()
                await self._tell_limited(batch[-1].received_at)
            self._waits_since = None

    def _oldest_s(self) -> float:
        """How long the oldest event of the batch under way has waited, seconds; asked for by other threads too."""
        since = self._waits_since
        return 0.0 if since is None else max(0.0, time.time() - since)

    def _pace(self, stored: int, seconds: float) -> None:
        """Make the next batch as large as time allows; one that was not full says nothing."""
        if seconds > BATCH_S:
            self._at_once = max(self._at_once // 2, min(FIRST_BATCH, self._settings.batch_events))
        elif stored >= self._at_once and seconds < BATCH_S / 2:
            self._at_once = min(2 * self._at_once, self._settings.batch_events)

    def _may_send(self, device: str, arrival: Arrival) -> bool:
        now, size = arrival.received_at, len(arrival.payload)
        if arrival.retained:  # kept by the broker, one of each topic
            return True
        if not self._events.take(device, 1.0, now):
            self._metrics.limited.labels("events").inc()
            return False
        if not self._bytes.take(device, min(size, self._settings.device_burst_bytes), now):
            self._metrics.limited.labels("bytes").inc()
            return False
        return True

    async def _until_filled(self) -> None:
        """Wait for a message, and a little longer for others that share its commit."""
        if not self._queue:
            self._filled.clear()
            await self._filled.wait()
        if len(self._queue) < self._at_once and self._settings.batch_wait_s:
            await asyncio.sleep(self._settings.batch_wait_s)

    async def _store_for_certain(self, batch: list[Arrival]) -> BatchResult | None:
        """Store a batch, after the database is back should it be away; None for one that it does not take even then."""
        for _ in range(STORE_ATTEMPTS):
            try:
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._thread, self._store.store, batch)
            except DatabaseAwayError:
                pass  # it has been told
            except SQLAlchemyError as error:
                _log.error("batch_not_stored", events=len(batch), error=why_not_stored(error))
            await self._until_writable()
        # not acknowledged, so its devices send it again; those behind it shall not wait
        _log.error("batch_given_back", events=len(batch))
        return None

    async def _until_writable(self) -> None:
        """Ask the database until it writes again."""
        self._metrics.storing.set(0)
        while True:
            await asyncio.sleep(STORE_RETRY_S)
            try:
                await asyncio.to_thread(self._store.check_writable)
            except SQLAlchemyError:
                continue
            self._metrics.storing.set(1)
            return

    async def _tell_limited(self, now: float) -> None:
        if not self._limited or abs(now - self._told_at) < TELL_LIMITED_S:
            return
        limited, self._limited, self._told_at = dict(self._limited), Counter(), now
        try:
            await asyncio.to_thread(self._store.note_limited, limited, now)
        except SQLAlchemyError as error:
            self._limited.update(limited)
            if not isinstance(error, DatabaseAwayError):
                _log.error("limited_devices_not_noted", error=why_not_stored(error))


def _device_of(topic: str) -> str:
    """The level of a topic that names its device; judged later."""
    levels = topic.split("/", 4)
    return levels[3] if len(levels) > 3 else ""
