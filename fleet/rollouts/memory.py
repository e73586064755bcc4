"""The rollouts that an engine holds in memory, and which of them a look concerns.

Held are rollouts under way, and those that are over but for some devices while these have news. Of the others is only known
whose report or health would wake them. A rollout is read anew where its version is not the one under which it was read.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from sqlalchemy.orm import Session

from fleet.rollouts.news import News, NewsReader
from fleet.rollouts.observations import RolloutNews, observe_news, wants_health
from fleet.rollouts.progress import Observations, Rollout
from fleet.rollouts.states import OCCUPYING, OPEN
from fleet.rollouts.store import find_rollout, watched_rollouts

__all__ = ["Held", "Memory"]

IDLE_S: Final = 600.0
"""A rollout that is over but for devices which are away is held for so long after its last news."""

RETRY_S: Final = 5.0
"""A rollout that could not be advanced is read anew so much later."""

JOINERS_SHARE: Final = 20.0
"""Rest after a search for devices that match a dynamic rollout now, in searches: a large fleet is searched less often."""


@dataclass(kw_only=True)
class Held:
    """A rollout in memory, as the database has it under `version`; `used_at` is when it last had news, by our clock."""

    rollout: Rollout
    version: int
    used_at: float
    joiners_at: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Resting:
    """What is known of a rollout that is not held: its version, and the devices that it waits for, whose health wakes it.

    Any report wakes it, too, unless it waits for nobody: then it is over, and nothing can follow but by a person's word.
    """

    version: int
    devices: frozenset[str] = frozenset()
    due_at: float | None = None


class Memory:
    """What an engine knows between two rounds. Of one thread at a time."""

    def __init__(self) -> None:
        self._news = NewsReader()
        self._held: dict[str, Held] = {}
        self._resting: dict[str, Resting] = {}
        self._failed_at: dict[str, float] = {}
        self._is_new = True

    def look(self, session: Session) -> News:
        """What is new; `session` is a snapshot. The first look also finds which rollouts need none."""
        held, resting = self._held.values(), self._resting.values()
        wanted = any(wants_health(one.rollout) for one in held) or any(one.devices for one in resting)
        news = self._news.read(session, wants_health=wanted)
        if self._is_new:
            watched = set(watched_rollouts(session))
            self._resting = {
                rollout: Resting(version=version)
                for rollout, version in news.versions.items()
                if rollout not in watched
            }
            self._is_new = False
        for gone in (self._held.keys() | self._resting.keys()) - news.versions.keys():
            self.drop(gone)
        return news

    def wait_s(self, now: float, most: float) -> float:
        """Until something is due, and at most `most`, seconds."""
        due = [one.rollout.index.due_at for one in self._held.values()]
        first = min((at for at in due if at is not None), default=float("inf"))
        return max(0.0, min(most, first - now))

    def held(self, rollout_id: str, news: News) -> Held | None:
        """A rollout as it is in memory; None where it is not, or where somebody else has written it since."""
        held = self._held.get(rollout_id)
        return held if held is not None and held.version == news.versions[rollout_id] else None

    def load(self, session: Session, rollout_id: str, now: float) -> Held:
        """Read a rollout, and hold it from now on."""
        rollout, record = find_rollout(session, rollout_id)
        # who was woken by a device will be again soon; at the start many are read of which nobody is heard
        used_at = now if rollout_id in self._resting else now - IDLE_S
        self._held[rollout_id] = held = Held(rollout=rollout, version=record.version, used_at=used_at)
        self._resting.pop(rollout_id, None)
        return held

    def observe(self, session: Session, held: Held, own: RolloutNews, now: float) -> Observations:
        """What a decision is told of `own` news."""
        began = time.monotonic()
        observations = observe_news(session, held.rollout, own, now)
        if own.asks_joiners:
            held.joiners_at = now + (time.monotonic() - began) * JOINERS_SHARE
        held.used_at = now
        return observations

    def own_news(self, held: Held, news: News, now: float) -> RolloutNews | None:
        """What of `news` is about a rollout; None where nothing is, and nothing is due."""
        rollout, due_at = held.rollout, held.rollout.index.due_at
        healthy = news.healthy if wants_health(rollout) else ()
        own = RolloutNews(
            executions=news.reports.get(rollout.id, ()),
            healthy=[device for device in healthy if device in rollout.executions],
            revoked=[device for device in news.revoked if device in rollout.executions],
            asks_joiners=rollout.takes_in and not 0 < held.joiners_at - now < IDLE_S,
        )
        is_due = due_at is not None and due_at <= now
        return own if is_due or own.executions or own.healthy or own.revoked or own.asks_joiners else None

    def is_at_rest(self, rollout_id: str, news: News, now: float) -> bool:
        """Whether a rollout that is not held needs no look."""
        resting = self._resting.get(rollout_id)
        if resting is None or resting.version != news.versions[rollout_id]:
            return False
        if resting.due_at is not None and resting.due_at <= now:
            return False
        if resting.devices and rollout_id in news.reports:
            return False
        return resting.devices.isdisjoint(news.healthy | news.revoked)

    def let_go(self, held: Held, now: float) -> None:
        """Hold a rollout no longer that is over, or that only waits for devices which are away."""
        rollout, devices = held.rollout, frozenset[str]()
        if rollout.state in OCCUPYING or rollout.takes_in:
            return
        if not rollout.is_over:
            if 0 <= now - held.used_at < IDLE_S:
                return
            devices = frozenset(
                e.device for e in rollout.executions.values() if e.is_returning or e.state in OPEN
            )
        self.drop(rollout.id)
        due_at = None if rollout.is_over else rollout.index.due_at
        self._resting[rollout.id] = Resting(version=held.version, devices=devices, due_at=due_at)

    def drop(self, rollout_id: str) -> None:
        """Forget a rollout: where it is still there, the next look reads all of it."""
        self._held.pop(rollout_id, None)
        self._resting.pop(rollout_id, None)

    def put_off(self, rollout_id: str, now: float) -> None:
        """A rollout could not be advanced at Unix second `now`."""
        self.drop(rollout_id)
        self._failed_at[rollout_id] = now

    def is_put_off(self, rollout_id: str, now: float) -> bool:
        """Whether it is too early to try a rollout again that could not be advanced."""
        return 0 <= now - self._failed_at.get(rollout_id, float("-inf")) < RETRY_S
