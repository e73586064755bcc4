"""The scheduler where training runs are asked for, worked off and watched: two threads around the coordinator.

::

    person (API) ───┐
    program (API) ──┤
    drift trigger ──┼─► start_run ─► store ─► worker thread ─► Coordinator.advance, one run at a time
    schedule ───────┘

The worker takes up unfinished runs first, so a restart after a kill goes on by itself. The watcher asks the fleet for drift
and lets `aggregator.triggers` decide. A fleet that is away is waited for and said once, not once a look.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from aggregator.errors import FleetError, RosterError, RunConflictError, UnknownRunError
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.run_store import RunStore
from aggregator.rounds.runs import RunState, TrainingRun
from aggregator.triggers import DriftSummary, RunHistory, decide_trigger, is_resting
from protocol.names import FamilyName, RunId

__all__ = ["Asked", "DriftSource", "Looking", "RunDriver", "RunScheduler"]

JOIN_S: Final = 5.0
"""How long a stopping service waits for its threads; what they have committed is safe anyway."""

DISK_RETRY_S: Final = 10.0
"""Between two attempts to go on with a run that the disk would not take."""

_log = structlog.get_logger()


class DriftSource(Protocol):
    """Where the watcher sees drift; the fleet client implements it."""

    def drift(self, family: FamilyName) -> DriftSummary:
        """The family's drift now; raises FleetError."""


class Looking(Protocol):
    """What looks now and then; `aggregator.doorkeeper.Doorkeeper` implements it."""

    def look(self) -> None:
        """One look; raises FleetError, RosterError."""


class RunDriver(Protocol):
    """What takes a run as far as it goes; the coordinator implements it."""

    def advance(self, run_id: str) -> TrainingRun:
        """See `aggregator.rounds.coordinator.Coordinator.advance`."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What came of a program's wish: the run that serves it (None: there is none), whether it `is_new`, and why."""

    reason: str
    run: TrainingRun | None = None
    is_new: bool = False


class RunScheduler:
    """Starts, drives and cancels runs.

    Args:
        store: where runs are kept.
        families: settings by name.
        driver: takes a run through its states.
        drift: where the watcher sees drift.
        stopping: set by `stop`; the driver looks at it too.
        now: Unix seconds.
        new_id: makes an identifier of a run, unique for ever.
        door: who shuts out revoked devices.
        watch_every_s: seconds between two looks at drift and schedule, and at the door.
    """

    def __init__(
        self,
        *,
        store: RunStore,
        families: Mapping[str, FamilySettings],
        driver: RunDriver,
        drift: DriftSource,
        door: Looking,
        stopping: threading.Event,
        now: Callable[[], float],
        new_id: Callable[[], str],
        watch_every_s: float,
    ) -> None:
        self.store, self.families, self._driver, self._drift = store, families, driver, drift
        self._door = door
        self._stopping, self._now, self._new_id, self._watch_every_s = stopping, now, new_id, watch_every_s
        self._work = threading.Event()
        self._work.set()
        self._watching_since = now()
        self._is_fleet_away = False
        self._is_door_compared = True
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Take up what is unfinished, and watch."""
        for name, task in (("training-worker", self._work_off), ("training-watcher", self._watch)):
            thread = threading.Thread(target=task, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Stop after the step under way; unfinished runs go on at the next start."""
        self._stopping.set()
        self._work.set()
        for thread in self._threads:
            thread.join(JOIN_S)
        self._threads.clear()

    def start_run(
        self,
        family: str,
        *,
        trigger: str,
        reason: str,
        requested_by: str,
        rounds: int | None = None,
        run_id: str | None = None,
    ) -> TrainingRun:
        """Open a run, under `run_id` where one is given; the worker takes it up at once.

        Raises:
            UnknownRunError: the family is not configured here; the message lists those that are.
            RunConflictError: the family is training already, or `run_id` is taken.
        """
        policy = self.policy_of(family)
        now, identifier = self._now(), run_id or self._new_id()
        run = TrainingRun(
            id=RunId(identifier),
            family=FamilyName(family),
            trigger=trigger,
            reason=reason,
            requested_by=requested_by,
            rounds=policy.rounds.count if rounds is None else rounds,
            state=RunState.INVITING,
            created_at=now,
            updated_at=now,
            # Cohorts are drawn from this; it need not be secret, only another one each time.
            seed=int.from_bytes(identifier.encode()[-4:], "big"),
            detail="waiting for its turn",
        )
        self.store.add(run)
        _log.info("run_started", run=run.id, family=family, trigger=trigger, reason=reason)
        self._work.set()
        return run

    def start_for_program(
        self, family: str, *, reason: str, requested_by: str, run_id: str, rounds: int | None = None
    ) -> Asked:
        """Open a run under `run_id` because a program of somebody's asked for it, unless that would be one too many.

        It asks as often as it likes: under one id there is one run, of one family one at a time, and none before the family has rested.

        Raises:
            UnknownRunError: the family is not configured here.
        """
        rest = self.policy_of(family).trigger
        if (known := self.store.find(run_id)) is not None:
            return Asked(run=known, reason="this was asked for before, under the same key")
        ended = self.store.last_ended_at(FamilyName(family))
        if is_resting(rest, ended, self._now()):
            return Asked(
                reason=f"the last run of family {family!r} ended less than {rest.cooldown_s:g} s ago (trigger.cooldown_s)"
            )
        try:
            run = self.start_run(
                family,
                trigger="program",
                reason=reason,
                requested_by=requested_by,
                rounds=rounds,
                run_id=run_id,
            )
        except RunConflictError as error:
            under_way = next((run for run in self.store.unfinished() if run.family == family), None)
            return Asked(run=under_way, reason=str(error))
        return Asked(run=run, is_new=True, reason="started")

    def policy_of(self, family: str) -> FamilySettings:
        """The settings of a family; raises UnknownRunError, which lists those that are configured."""
        policy = self.families.get(family)
        if policy is None:
            raise UnknownRunError(
                f"family {family[:80]!r} is not configured here; valid are {', '.join(sorted(self.families)) or 'none yet'}"
            )
        return policy

    def look(self) -> None:
        """One look of the watcher at the door, and at every family that may start by itself."""
        self._look_at_door()
        for family, policy in tuple(self.families.items()):
            if not policy.trigger.is_on:
                continue
            try:
                drift = self._drift.drift(FamilyName(family))
            except FleetError as error:
                if not self._is_fleet_away:
                    _log.warning("drift_not_seen", family=family, reason=str(error))
                self._is_fleet_away = True
                continue
            self._is_fleet_away = False
            self._decide(family, policy, drift)

    def _look_at_door(self) -> None:
        try:
            self._door.look()
        except (FleetError, RosterError) as error:
            if self._is_door_compared:
                _log.warning("door_not_compared", reason=str(error))
            self._is_door_compared = False
        else:
            self._is_door_compared = True

    def _decide(self, family: str, policy: FamilySettings, drift: DriftSummary) -> None:
        history = RunHistory(
            is_running=any(run.family == family for run in self.store.unfinished()),
            last_ended_at=self.store.last_ended_at(FamilyName(family)),
        )
        trigger = decide_trigger(
            policy.trigger,
            drift,
            history,
            self._now(),
            watching_since=self._watching_since,
            minimum_devices=policy.cohort.minimum_devices,
        )
        if trigger is None:
            return
        try:
            self.start_run(family, trigger=trigger.kind, reason=trigger.reason, requested_by="aggregator")
        except RunConflictError:
            # A person was faster between our look at the store and now; their run serves as well.
            return

    def _watch(self) -> None:
        while not self._stopping.is_set():
            self.look()
            self._stopping.wait(self._watch_every_s)

    def _work_off(self) -> None:
        while not self._stopping.is_set():
            self._work.wait()
            self._work.clear()
            while not self._stopping.is_set() and (unfinished := self.store.unfinished()):
                self._drive(unfinished[0])

    def _drive(self, run: TrainingRun) -> None:
        try:
            self._driver.advance(run.id)
        except sqlite3.Error as error:
            # A full or failing disk: nothing was committed, so the run waits where it was.
            _log.error("run_not_stored", run=run.id, reason=str(error), retry_s=DISK_RETRY_S)
            self._stopping.wait(DISK_RETRY_S)
