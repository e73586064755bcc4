"""Keeps every unfinished rollout moving: asks for a decision whenever something may have changed, and stores it.

One task of the service's event loop; the work itself runs on a worker thread, because it reads and writes the
database. A decision is first taken on a read-only snapshot; only when there is something to do is it taken again inside
the writing transaction, so an idle engine never blocks the ingest. The engine holds no state of its own: killed at any
point it continues from the database, and it announces every desired state at its start.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from fleet.desired import DesiredPublisher
from fleet.errors import FleetError
from fleet.rollouts.decisions import decide
from fleet.rollouts.observations import observe
from fleet.rollouts.steps import Command, Decision, MoveGroup, MoveRollout
from fleet.rollouts.store import find_rollout, watched_rollouts, write_decision
from fleet.storage.base import Database
from fleet.storage.outages import DatabaseAwayError
from fleet.storage.rollout_tables import DesiredCounter

__all__ = ["RolloutEngine"]

TICK_S: Final = 0.25
"""Longest wait for what no event announces: the end of a soak, a timeout."""

REST: Final = 4.0
"""Rest after a round, in rounds: a fleet whose round takes long gets at most a fifth of one core for rollouts."""

_log = structlog.get_logger(__name__)


class RolloutEngine:
    """Moves rollouts on, one round after the other, for as long as the service lives.

    Args:
        database: the fleet's; the engine keeps nothing of its own.
        publisher: told which devices have a new desired state, after the commit.
        now: Unix seconds.
        tick_s: longest pause between rounds, seconds: for what no event announces.
    """

    def __init__(
        self,
        database: Database,
        publisher: DesiredPublisher,
        *,
        now: Callable[[], float] = time.time,
        tick_s: float = TICK_S,
    ) -> None:
        self._database = database
        self._publisher = publisher
        self._now = now
        self._tick_s = tick_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Something a rollout may wait for has happened: look soon. From any thread; before `run` without effect."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._woken.set)

    async def run(self) -> None:
        """Run until canceled. An error in one rollout is logged and neither stops the others nor the engine."""
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self.announce_all)
        while True:
            self._woken.clear()
            began = self._loop.time()
            await asyncio.to_thread(self.advance_all)
            took_s = self._loop.time() - began
            # events come in crowds: the rest after a round gathers them
            await asyncio.sleep(min(took_s * REST, 5.0))
            # not wait_for: in Python 3.11 it swallows a cancellation that comes together with the wake-up
            with suppress(TimeoutError):
                async with asyncio.timeout(self._tick_s):
                    await self._woken.wait()

    def announce_all(self) -> None:
        """Announce every device that ever had a desired state: what was stored before a crash may never have been sent.

        Also those whose desired state was taken away since: their retained message must go.
        """
        try:
            with self._database.read() as session:
                devices = list(session.scalars(select(DesiredCounter.device)))
        except DatabaseAwayError:
            return  # it has been told, as below
        except SQLAlchemyError:
            _log.exception("desired_states_not_announced")
            return
        self._publisher.announce(devices)

    def advance_all(self) -> int:
        """One round over all unfinished rollouts; how many of them changed."""
        try:
            with self._database.read() as session:
                rollouts = watched_rollouts(session)
        except DatabaseAwayError:
            return 0
        except SQLAlchemyError:
            _log.exception("rollouts_not_read")
            return 0
        return sum(self._advance_safely(rollout_id) for rollout_id in rollouts)

    def _advance_safely(self, rollout_id: str) -> bool:
        try:
            return self.advance(rollout_id)
        except DatabaseAwayError:
            return False
        except (FleetError, SQLAlchemyError):
            _log.exception("rollout_not_advanced", rollout=rollout_id)
            return False

    def advance(self, rollout_id: str) -> bool:
        """Decide on one rollout, store what follows and announce it; whether anything changed.

        Most rounds find nothing: those only read, and never wait for a writer.
        """
        with self._database.read() as session:
            if not self._decide(session, rollout_id).steps:
                return False
        with self._database.write() as session:
            decision = self._decide(session, rollout_id)
            devices = write_decision(session, decision)
        self._publisher.announce(devices)
        for command in decision.commands:
            _log_milestone(rollout_id, command)
        return bool(decision.steps)

    def _decide(self, session: Session, rollout_id: str) -> Decision:
        rollout, _ = find_rollout(session, rollout_id)
        now = self._now()
        return decide(rollout, observe(session, rollout, now), now)


def _log_milestone(rollout_id: str, command: Command) -> None:
    match command:
        case MoveRollout():
            _log.info("rollout_moved", rollout=rollout_id, state=command.state, reason=command.reason)
        case MoveGroup():
            _log.info(
                "rollout_group_moved",
                rollout=rollout_id,
                group=command.number,
                state=command.state,
                reason=command.reason,
            )
        case _:
            pass
