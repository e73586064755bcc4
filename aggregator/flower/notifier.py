"""Wakes who waits, asker and devices: nobody polls to learn that nothing has happened.

Only a hint. The message store stays the truth, so a notification that is lost (a restart) costs a moment and never a message.

Invariant: at most one pull per node waits. A newer one (the device lost its connection, or its learner was killed and
started again) dismisses the older, which would otherwise take the next question to a place where nobody listens.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from functools import partial

__all__ = ["Notifier"]


class Notifier:
    """Wakes both sides: a node hears that there is a question for it, the asker that something came back."""

    def __init__(self) -> None:
        self._asked: set[int] = set()
        self._sleepers: dict[int, asyncio.Future[bool]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._answered = threading.Event()

    def notify_nodes(self, node_ids: Iterable[int]) -> None:
        """From any thread: there is a question for each of these nodes."""
        with self._lock:
            self._asked.update(node_ids)
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._wake)

    async def wait_for_question(self, node_id: int, timeout_s: float) -> bool:
        """On the server's loop: wait until a question may be there, at most `timeout_s`.

        Returns:
            False where a newer call for the same node, or `dismiss`, took this one's place: it must not pull.
        """
        self.dismiss(node_id)
        loop = asyncio.get_running_loop()
        with self._lock:
            self._loop = loop
            if node_id in self._asked:
                self._asked.discard(node_id)
                return True
            sleeper: asyncio.Future[bool] = loop.create_future()
            self._sleepers[node_id] = sleeper
        timer = loop.call_later(timeout_s, partial(_settle, sleeper, may_pull=True))
        try:
            return await sleeper
        finally:
            timer.cancel()
            with self._lock:
                if self._sleepers.get(node_id) is sleeper:
                    del self._sleepers[node_id]

    def dismiss(self, node_id: int) -> None:
        """On the server's loop: send away the call that waits for this node, if there is one."""
        with self._lock:
            sleeper = self._sleepers.pop(node_id, None)
        if sleeper is not None:
            _settle(sleeper, may_pull=False)

    def notify_asker(self) -> None:
        """A part of an answer has been stored."""
        self._answered.set()

    def wait_for_answer(self, timeout_s: float) -> None:
        """Return when something has been stored since the last call, or after `timeout_s`."""
        self._answered.wait(timeout_s)
        self._answered.clear()

    def _wake(self) -> None:
        with self._lock:
            waiting = self._asked & self._sleepers.keys()
            self._asked -= waiting
            woken = [self._sleepers.pop(node_id) for node_id in waiting]
        for sleeper in woken:
            _settle(sleeper, may_pull=True)


def _settle(sleeper: asyncio.Future[bool], *, may_pull: bool) -> None:
    if not sleeper.done():
        sleeper.set_result(may_pull)
