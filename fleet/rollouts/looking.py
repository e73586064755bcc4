"""Looks of the gates, in a thread of their own: one takes seconds for a large fleet, and other rollouts go on meanwhile.

A look is about a rollout as it was when the look was begun. What comes of it is taken when the rollout is decided about the next
time; whether it still fits is the decision's question.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from fleet.rollouts.gate_evidence import look_if_due
from fleet.rollouts.progress import LookTaken, Rollout
from fleet.storage.base import Database

__all__ = ["Looking"]


class Looking:
    """Looks at rollouts, one after the other.

    Args:
        database: the fleet's; each look reads a snapshot of its own.
        offline_after_s: silence after which a device counts as offline, seconds.
        woken: told when a look is over, from another thread. None: whoever asks waits for it.
    """

    def __init__(
        self, database: Database, *, offline_after_s: float, woken: Callable[[], None] | None
    ) -> None:
        self._database, self._offline_after_s, self._woken = database, offline_after_s, woken
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gates")
        self._begun: dict[str, Future[LookTaken | None]] = {}

    def ask(self, rollout: Rollout, now: float) -> LookTaken | None:
        """The look at `rollout` that is over, if one is; begins the one that is due at Unix second `now`.

        Raises:
            Exception: whatever ended the look; the next question begins it again.
        """
        if self._woken is None:
            return self._look(rollout, now)
        begun = self._begun.get(rollout.id)
        if begun is not None:
            if not begun.done():
                return None
            del self._begun[rollout.id]
            return begun.result()
        if rollout.due_look(now) is not None:
            self._begun[rollout.id] = begun = self._thread.submit(self._look, rollout, now)
            begun.add_done_callback(lambda _: self._woken and self._woken())
        return None

    def is_over(self, rollout_id: str) -> bool:
        """Whether a look at a rollout has ended and nobody has asked what came of it."""
        begun = self._begun.get(rollout_id)
        return begun is not None and begun.done()

    def stop(self) -> None:
        """Begin none any more; one that is under way ends by itself, and nobody hears of it."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _look(self, rollout: Rollout, now: float) -> LookTaken | None:
        if rollout.due_look(now) is None:
            return None
        with self._database.read() as session:
            return look_if_due(session, rollout, now, offline_after_s=self._offline_after_s)
