"""Gathers arriving messages into batches and has each stored in one transaction on a worker thread.

A commit costs an fsync however much is in it, so what arrives within `batch_wait_s` shares one. The queue is bounded:
when the disk cannot keep up, new messages are dropped and counted. Nothing is lost by that, since a device forgets an
event only when it is acknowledged, and a dropped one never is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError

from fleet.ingest.judging import Arrival
from fleet.ingest.store import BatchResult
from fleet.metrics import FleetMetrics
from fleet.mqtt.outgoing import Outgoing
from protocol.messages.kinds import Kind

__all__ = ["BatchStore", "Intake"]

STORE_RETRY_S: Final = 1.0
"""Pause after the database refused a batch (disk full, locked), so as not to spin while it lasts."""

_MOVES_ROLLOUTS: Final = frozenset({Kind.BIRTH, Kind.DEATH, Kind.HEALTH, Kind.REPORT})
_log = structlog.get_logger()


class BatchStore(Protocol):
    """The durable end: `fleet.ingest.store.EventStore`."""

    def store(self, arrivals: list[Arrival]) -> BatchResult:
        """Store a batch in one transaction."""


class Intake:
    """The queue between the connection and the store."""

    def __init__(
        self,
        store: BatchStore,
        outgoing: Outgoing,
        metrics: FleetMetrics,
        *,
        batch_events: int,
        batch_wait_s: float,
        queued_events: int,
        wake_rollouts: Callable[[], None],
    ) -> None:
        self._store = store
        self._outgoing = outgoing
        self._metrics = metrics
        self._batch_events = batch_events
        self._batch_wait_s = batch_wait_s
        self._wake_rollouts = wake_rollouts
        self._queue: asyncio.Queue[Arrival] = asyncio.Queue(maxsize=queued_events)

    def offer(self, arrival: Arrival) -> None:
        """Take a message, or drop and count it when too many wait."""
        try:
            self._queue.put_nowait(arrival)
        except asyncio.QueueFull:
            self._metrics.overflowed.inc()

    async def run(self) -> None:
        """Store batches until canceled."""
        while True:
            batch = await self._gather()
            try:
                result = await asyncio.to_thread(self._store.store, batch)
            except SQLAlchemyError as error:
                _log.error("batch_not_stored", events=len(batch), error=str(error).splitlines()[0])
                await asyncio.sleep(STORE_RETRY_S)
                continue
            self._outgoing.acknowledge(result.acks)
            if not _MOVES_ROLLOUTS.isdisjoint(result.stored):
                self._wake_rollouts()

    async def _gather(self) -> list[Arrival]:
        batch = [await self._queue.get()]
        self._drain_into(batch)
        if len(batch) < self._batch_events and self._batch_wait_s:
            await asyncio.sleep(self._batch_wait_s)
            self._drain_into(batch)
        return batch

    def _drain_into(self, batch: list[Arrival]) -> None:
        while len(batch) < self._batch_events and not self._queue.empty():
            batch.append(self._queue.get_nowait())
