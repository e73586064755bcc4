"""Whom a rollout tells to run its release, and when: slices of a group, windows, quarantine, who joins later.

Pure, part of `decisions`. A device is told at most once an attempt, only when its group has begun, and never more devices in
a minute than the plan's rate; a group that has begun is a queue, and what is told is what the queue gives.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

from fleet.rollouts.agenda import Entry, first
from fleet.rollouts.evidence import has_limits
from fleet.rollouts.executions import NO_MORE_ATTEMPTS, Figures, Mark, mark_of
from fleet.rollouts.pacing import Gift, held_until, next_gift_at, recent_gifts, slice_now
from fleet.rollouts.progress import NOBODY, Observations, Rollout, Running
from fleet.rollouts.states import RolloutState
from fleet.rollouts.steps import AllowAttempts, Decision, GiveRelease, Hold, Join, MoveExecution
from fleet.rollouts.targets import group_of_joiner
from fleet.rollouts.windows import Cron, check_time_zone, opens_at
from protocol.messages.kinds import InstallStatus
from protocol.names import DeviceId

__all__ = ["give_slice", "next_slice_at", "shut_out", "take_in"]

ELSEWHERE_S: Final = 30.0
"""Until it is asked again whether the rollout that has a device now has ended without giving it anything."""

_REVOKED = "the device was revoked"


def take_in(decision: Decision, observations: Observations) -> None:
    """Put devices that match only now into the group that the draw gives them."""
    if not decision.rollout.takes_in:
        return
    for device in sorted(set(observations.joined) - decision.rollout.executions.keys()):
        rollout = decision.rollout
        sizes = [rollout.index.number(group.number) for group in rollout.groups]
        decision.do(
            Join(device=device, group=group_of_joiner(rollout.id, device, rollout.plan.groups, sizes))
        )


def give_slice(decision: Decision, observations: Observations) -> bool:
    """Tell as many devices of the queue as may be told now; whether there is anything that the group must know."""
    if decision.rollout.state not in {RolloutState.RUNNING, RolloutState.COMPLETED}:
        return False
    turns = _Turns(decision, observations)
    gifts = recent_gifts(decision.rollout.index.gifts, decision.now)
    left = slice_now(decision.rollout.plan.rate, gifts, _succeeded(decision.rollout), decision.now)
    while turns.told < left and (entries := decision.take_waiting(left - turns.told)):
        turns.take(entries)
    decision.note_gifts((*gifts, Gift(decision.now, turns.told)) if turns.told else gifts)
    return turns.has_learnt or turns.told > 0


def next_slice_at(rollout: Rollout, now: float) -> float | None:
    """When `give_slice` may tell the next device by time alone, Unix seconds; None where nobody waits."""
    waiting = first(rollout.index.queue)
    if waiting is None or rollout.state not in {RolloutState.RUNNING, RolloutState.COMPLETED}:
        return None
    gifts = recent_gifts(rollout.index.gifts, now)
    return max(waiting.at, next_gift_at(rollout.plan.rate, gifts, _succeeded(rollout), now))


def shut_out(decision: Decision, device: DeviceId) -> None:
    """See to it that nobody waits for a device that was revoked: it is told nothing, and is no evidence any more."""
    execution = decision.rollout.executions[device]
    ends = {InstallStatus.QUEUED, InstallStatus.IN_PROGRESS, InstallStatus.DEFERRED}
    if decision.rollout.state is not RolloutState.COMPLETED:
        ends |= {InstallStatus.SUCCEEDED}
    if execution.state in ends and execution.returned_at is None:
        decision.do(MoveExecution(device=device, state=InstallStatus.CANCELED, reason=_REVOKED))
    elif mark_of(decision.rollout.plan, execution) in {Mark.WAITS, Mark.HELD}:
        decision.do(AllowAttempts(device=device, attempts=NO_MORE_ATTEMPTS, reason=_REVOKED))


def _succeeded(rollout: Rollout) -> int:
    return rollout.index.number(states={InstallStatus.SUCCEEDED})


class _Turns:
    """Whose turn it is. The records of a slice are asked once, and of each time zone once when its windows open.

    Attributes:
        told: how many devices were told.
        has_learnt: whether a device turned out to be shut out, or in quarantine.
    """

    def __init__(self, decision: Decision, observations: Observations) -> None:
        self.told, self.has_learnt = 0, False
        self._decision, self._records, self._plan = decision, observations.records, decision.rollout.plan
        self._crons = [(Cron.parse(window.cron), window.duration_s) for window in self._plan.schedule.windows]
        self._opens: dict[str | None, float] = {}

    def take(self, entries: list[Entry]) -> None:
        """Tell these devices, or put them back for later."""
        executions, now = self._decision.rollout.executions, self._decision.now
        waiting = {
            entry.device: entry
            for entry in entries
            if mark_of(self._plan, executions[entry.device]) in {Mark.WAITS, Mark.HELD}
        }
        quarantine = self._plan.quarantine
        running = self._records.running(waiting)
        recent = self._records.recent(waiting) if has_limits(self._plan) else {}
        # one that is under way has its devices to itself; whoever is over and still gives comes after it
        is_over = self._decision.rollout.state is RolloutState.COMPLETED
        elsewhere = self._records.elsewhere(waiting) if is_over else {}
        failures = self._records.failures(waiting, now - quarantine.penalty_s) if quarantine else {}
        for device, entry in waiting.items():
            known = running.get(device, NOBODY)
            until = held_until(quarantine, failures.get(device, ()), now) if quarantine else None
            if known.is_revoked:
                shut_out(self._decision, device)
                self.has_learnt = True
            elif device in elsewhere:
                self._decision.put_back([entry._replace(at=now + ELSEWHERE_S)])
            elif until is not None:
                self._hold(entry, until)
            elif (opens := self._opens_at(known.time_zone)) > now:
                self._decision.put_back([entry._replace(at=opens)])
            else:
                self._give(device, known, recent.get(device))

    def _hold(self, entry: Entry, until: float) -> None:
        self._decision.put_back([entry._replace(at=until)])
        if self._decision.rollout.executions[entry.device].held_until == until:
            return
        ends = datetime.fromtimestamp(until, UTC).strftime("%Y-%m-%d %H:%M UTC")
        self._decision.do(
            Hold(
                device=entry.device,
                until=until,
                reason=f"it failed too often lately: in quarantine until {ends}",
            )
        )
        self.has_learnt = True

    def _opens_at(self, time_zone: str | None) -> float:
        if not self._crons:
            return 0.0
        if time_zone not in self._opens:
            self._opens[time_zone] = opens_at(self._crons, self._zone(time_zone), self._decision.now)
        return self._opens[time_zone]

    def _zone(self, time_zone: str | None) -> ZoneInfo:
        # a label that is no time zone came from before labels were checked: the plan's is what is left
        for name in (time_zone, self._plan.schedule.time_zone):
            with suppress(ValueError, OSError):
                check_time_zone(name or "")
                return ZoneInfo(name or "")
        return ZoneInfo("UTC")

    def _give(self, device: DeviceId, known: Running, recent: Figures | None) -> None:
        execution = self._decision.rollout.executions[device]
        # what it ran before is what it ran before the first attempt, never the release that failed; and going back to
        # the release itself would be no way out of it
        previous = known.returnable if known.returnable != self._plan.release else None
        is_again = execution.is_given
        self._decision.do(
            GiveRelease(
                device=device,
                previous=execution.previous if is_again else previous,
                before=execution.before if is_again else recent,
            )
        )
        self.told += 1
