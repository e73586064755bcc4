"""Keeps every unfinished rollout moving: asks for a decision whenever something is new or due, and stores it.

One task of the service's event loop; the work itself runs on a worker thread, because it reads and writes the
database. Rollouts under way are held in memory, and a look costs what is new: reports, health where it may matter, who was shut
out (`fleet.rollouts.news`), and what is due by `Rollout.index.due_at`. A decision is taken without the write lock, and stored
only if the rollout has the version under which it was read: somebody else's word makes it be read anew. Nothing is in
memory alone: killed at any point, an engine, this one or another process's, continues from the database, and it announces
every desired state at its start.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from fleet.desired import DesiredPublisher
from fleet.rollouts.decisions import decide
from fleet.rollouts.looking import Looking
from fleet.rollouts.memory import Memory
from fleet.rollouts.news import News
from fleet.rollouts.observations import RolloutNews, observe
from fleet.rollouts.others import taken_elsewhere
from fleet.rollouts.sham import reactivate_controls
from fleet.rollouts.steps import Command, MoveGroup, MoveRollout
from fleet.rollouts.store import is_unchanged, write_decision
from fleet.storage.base import Database
from fleet.storage.device_tables import Desired
from fleet.storage.outages import DatabaseAwayError
from fleet.storage.rollout_tables import DesiredCounter
from protocol.messages.kinds import Kind

__all__ = ["RolloutEngine"]

TICK_S: Final = 0.25
"""Longest wait for what no event announces: another process's word, a device that was shut out, health where it matters."""

REST: Final = 1.0
"""Rest after a round, in rounds: events come in crowds and are gathered, and half of a core is left to everybody else."""

RETRY_S: Final = 1.0
"""Until it is asked again what every device shall run, by an engine that has just begun."""

_log = structlog.get_logger(__name__)


class RolloutEngine:
    """Moves rollouts on, one round after the other, for as long as the service lives, or leads.

    Args:
        database: the fleet's.
        publisher: told which devices have a new desired state, after the commit.
        now: Unix seconds.
        tick_s: longest pause between rounds, seconds: for what no event announces.
        offline_after_s: silence after which a device counts as offline to the gates, seconds.
    """

    def __init__(
        self,
        database: Database,
        publisher: DesiredPublisher,
        *,
        now: Callable[[], float] = time.time,
        tick_s: float = TICK_S,
        offline_after_s: float = 120.0,
    ) -> None:
        self._offline_after_s = offline_after_s
        self._looking = Looking(database, offline_after_s=offline_after_s, woken=None)
        self._database = database
        self._publisher = publisher
        self._now = now
        self._tick_s = tick_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()
        self._memory = Memory()

    def wake(self) -> None:
        """Something a rollout may wait for has happened: look soon. From any thread; before `run` without effect."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._woken.set)

    async def run(self) -> None:
        """Run until canceled. An error in one rollout is logged and neither stops the others nor the engine."""
        self._loop = asyncio.get_running_loop()
        self._memory = Memory()  # another process may have led since
        while not await asyncio.to_thread(self.announce_all):
            await asyncio.sleep(RETRY_S)
        self._looking = Looking(self._database, offline_after_s=self._offline_after_s, woken=self.wake)
        try:
            await self._go_round()
        finally:
            self._looking.stop()

    async def _go_round(self) -> None:
        assert self._loop is not None, "it runs"  # noqa: S101 - a fault of ours
        while True:
            self._woken.clear()
            began = self._loop.time()
            await asyncio.to_thread(self.advance_all)
            await asyncio.sleep(min((self._loop.time() - began) * REST, 5.0))
            # not wait_for: in Python 3.11 it swallows a cancellation that comes together with the wake-up
            with suppress(TimeoutError):
                async with asyncio.timeout(self._memory.wait_s(self._now(), self._tick_s)):
                    await self._woken.wait()

    def announce_all(self) -> bool:
        """Announce every device that ever had a desired state: what was stored before a crash may never have been sent.

        Also those whose desired state was taken away since: their retained message must go. The latest first.

        Returns:
            Whether the database said whose that is.
        """
        latest_first = (
            select(DesiredCounter.device)
            .outerjoin(Desired, Desired.device == DesiredCounter.device)
            .order_by(Desired.set_at.desc(), DesiredCounter.device)
        )
        try:
            with self._database.read() as session:
                devices = list(session.scalars(latest_first))
        except SQLAlchemyError as error:
            _tell("desired_states_not_announced", error)
            return False
        self._publisher.announce(devices)
        return True

    def advance_all(self) -> int:
        """One round over all rollouts with news; how many of them changed."""
        # a round that outlives its leadership must not touch what the next one remembers
        memory = self._memory
        try:
            with self._database.read() as session:
                news = memory.look(session)
        except SQLAlchemyError as error:
            _tell("rollouts_not_read", error)
            self._memory = Memory()  # what was read and not acted upon is read again
            return 0
        # the latest first: of several dynamic rollouts it has a device that matches them all
        return sum(self._advance_safely(memory, rollout, news) for rollout in news.versions)

    def _advance_safely(self, memory: Memory, rollout_id: str, news: News) -> bool:
        now = self._now()
        if memory.is_put_off(rollout_id, now):
            return False
        try:
            return self.advance(memory, rollout_id, news)
        except Exception as error:  # noqa: BLE001 - a plan that nobody can read any more, figures nobody thought of: the others go on
            _tell("rollout_not_advanced", error, rollout=rollout_id)
            memory.put_off(rollout_id, now)
            return False

    def advance(self, memory: Memory, rollout_id: str, news: News) -> bool:
        """Decide on one rollout if it has news, store what follows and announce it; whether anything changed."""
        now = self._now()
        held = memory.held(rollout_id, news)
        own = held and memory.own_news(held, news, now)
        if own is None and self._looking.is_over(rollout_id):
            own = RolloutNews()
        if own is None and (held or memory.is_at_rest(rollout_id, news, now)):
            if held:
                memory.let_go(held, now)
            return False
        with self._database.read() as session:
            if held and own:
                observations = memory.observe(session, held, own, now)
            else:
                held = memory.load(session, rollout_id, now)
                observations = observe(session, held.rollout, now)
            look = self._looking.ask(held.rollout, now)
            decision = decide(held.rollout, replace(observations, look=look), now)
        if decision.steps:
            with self._database.write() as session:
                is_ours = is_unchanged(session, rollout_id, held.version)
                if not is_ours or taken_elsewhere(session, decision):
                    memory.drop(
                        rollout_id
                    )  # somebody else wrote it, or has a device of it: the next look reads it anew
                    return True
                devices = write_decision(session, decision)
                told = reactivate_controls(session, decision)
            held.version += 1
            self._publisher.announce(devices)
            if told:
                self._publisher.announce(told, Kind.COMMANDS)
        held.rollout = decision.rollout
        for command in decision.commands:
            _log_milestone(rollout_id, command)
        memory.let_go(held, now)
        return bool(decision.steps)


def _tell(event: str, error: Exception, **fields: str) -> None:
    """Log what nobody foresaw, with its traceback; a database that is away has been told."""
    if not isinstance(error, DatabaseAwayError):
        _log.error(event, exc_info=error, **fields)


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
