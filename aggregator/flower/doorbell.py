"""The bell between the asker and the devices: nobody polls a database to learn that nothing has happened.

Only a hint. The database stays the truth, so a ring that is lost (a restart) costs a moment and never a message.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable

__all__ = ["Doorbell"]


class Doorbell:
    """Rings both ways: a node hears that there is a question for it, the asker that something came back.

    Only a hint that saves polling; the database stays the truth, so a lost ring costs a moment and never a message.
    """

    def __init__(self) -> None:
        self._asked: set[int] = set()
        self._sleepers: dict[int, set[asyncio.Event]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._answered = threading.Event()

    def ring_nodes(self, node_ids: Iterable[int]) -> None:
        """From any thread: there is a question for each of these nodes."""
        with self._lock:
            self._asked.update(node_ids)
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._wake)

    async def wait_for_question(self, node_id: int, timeout_s: float) -> None:
        """On the server's loop: return when a question for the node may be there, or after `timeout_s`."""
        event = asyncio.Event()
        with self._lock:
            self._loop = asyncio.get_running_loop()
            if node_id in self._asked:
                self._asked.discard(node_id)
                return
            self._sleepers.setdefault(node_id, set()).add(event)
        try:
            await asyncio.wait_for(event.wait(), timeout_s)
        except TimeoutError:
            pass  # an empty pull: the device comes back
        finally:
            with self._lock:
                self._sleepers[node_id].discard(event)
                if not self._sleepers[node_id]:
                    del self._sleepers[node_id]

    def ring_asker(self) -> None:
        """A part of an answer has been stored."""
        self._answered.set()

    def wait_for_answer(self, timeout_s: float) -> None:
        """Return when something has been stored since the last call, or after `timeout_s`."""
        self._answered.wait(timeout_s)
        self._answered.clear()

    def _wake(self) -> None:
        with self._lock:
            for node_id in self._asked & self._sleepers.keys():
                self._asked.discard(node_id)
                for event in self._sleepers[node_id]:
                    event.set()
