"""The changes that a decision may make, and a decision in the making.

A `Command` makes the next `Rollout` from the one before. What the decision made of the rollout is what the store writes, so
what was believed and what is stored cannot differ.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

from fleet.gates.answers import LookAnswer
from fleet.rollouts.agenda import Entry, add, take_due
from fleet.rollouts.executions import Execution, Figures, deadline
from fleet.rollouts.pacing import Gift
from fleet.rollouts.progress import Rollout
from fleet.rollouts.states import FAILURES, GroupState, RolloutState, check_follows
from protocol.messages.kinds import InstallStatus
from protocol.names import DeviceId

__all__ = [
    "AllowAttempts",
    "Command",
    "ConfirmReturn",
    "Decision",
    "GiveBack",
    "GiveRelease",
    "Hold",
    "Join",
    "Look",
    "MoveExecution",
    "MoveGroup",
    "MoveRollout",
    "OnDevice",
    "Step",
    "StopAwaiting",
    "Withdraw",
]


@dataclass(frozen=True, kw_only=True)
class MoveRollout:
    """The rollout enters `state`; `actor` is a person's token name, or the fleet itself.

    `rollback_to`: the release that a person named for everybody to go back to.
    """

    state: RolloutState
    reason: str
    actor: str = "fleet"
    rollback_to: str | None = None


@dataclass(frozen=True, kw_only=True)
class MoveGroup:
    """Group `number` enters `state`."""

    number: int
    state: GroupState
    reason: str


@dataclass(frozen=True, kw_only=True)
class Look:
    """The gates of group `number` were asked for the `look`-th time; `clears`: they let it pass from now on."""

    number: int
    look: int
    answer: LookAnswer
    clears: bool


@dataclass(frozen=True, kw_only=True)
class Withdraw:
    """The release did harm: a later rollout of it needs `force`."""

    release: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Join:
    """A device that matches the query only now is in `group` from now on."""

    device: DeviceId
    group: int


@dataclass(frozen=True, kw_only=True)
class MoveExecution:
    """A device's execution enters `state`."""

    device: DeviceId
    state: InstallStatus
    reason: str


@dataclass(frozen=True, kw_only=True)
class Hold:
    """The device is not told before Unix second `until`: it failed too often."""

    device: DeviceId
    until: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class AllowAttempts:
    """The device may be told up to `attempts` times in all, whatever the plan says; `NO_MORE_ATTEMPTS`: not again."""

    device: DeviceId
    attempts: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class GiveRelease:
    """The device shall run the rollout's release, under its next counter."""

    device: DeviceId
    previous: str | None
    before: Figures | None


@dataclass(frozen=True, kw_only=True)
class GiveBack:
    """The device shall run `release` again, under its next counter; None: it shall keep what it has.

    `is_awaited`: the rollback is not over before it has confirmed.
    """

    device: DeviceId
    release: str | None
    is_awaited: bool


@dataclass(frozen=True, kw_only=True)
class StopAwaiting:
    """The device is not waited for any longer; its desired state stands, and it goes back when it is heard again."""

    device: DeviceId
    reason: str


@dataclass(frozen=True, kw_only=True)
class ConfirmReturn:
    """The device is back where it was, or has nothing to go back to."""

    device: DeviceId
    reason: str


OnDevice = Join | MoveExecution | Hold | AllowAttempts | GiveRelease | GiveBack | StopAwaiting | ConfirmReturn
Command = MoveRollout | MoveGroup | Look | Withdraw | OnDevice


@dataclass(frozen=True, kw_only=True)
class Step:
    """A command that was applied, and the state that what it changes was in until then; None: it had none."""

    command: Command
    was: str | None


def _apply_to_rollout(
    rollout: Rollout, command: MoveRollout | MoveGroup | Look | Withdraw, now: float
) -> Rollout:
    match command:
        case MoveRollout():
            check_follows(f"rollout {rollout.id}", rollout.state, command.state)
            return replace(
                rollout,
                state=command.state,
                since=now,
                rollback_to=command.rollback_to or rollout.rollback_to,
            )
        case MoveGroup(number=number):
            group = rollout.groups[number]
            check_follows(f"group {number} of {rollout.id}", group.state, command.state)
            moved = replace(group, state=command.state, since=now, reason=command.reason)
        case Look(number=number):
            moved = replace(rollout.groups[number], looks=command.look, is_cleared=command.clears)
        case Withdraw():
            return rollout
        case _:
            assert_never(command)
    return replace(rollout, groups=(*rollout.groups[:number], moved, *rollout.groups[number + 1 :]))


def _apply_to_execution(  # noqa: PLR0911 - one return for each kind
    execution: Execution, command: OnDevice, now: float
) -> Execution:
    match command:
        case Join():
            return execution
        case MoveExecution(state=state):
            check_follows(f"execution on {execution.device}", execution.state, state)
            failed = state in FAILURES and execution.returned_at is None
            return replace(
                execution,
                state=state,
                reason=command.reason,
                since=now,
                is_unheard=state is InstallStatus.TIMED_OUT and execution.state is InstallStatus.QUEUED,
                failed_at=now if failed else execution.failed_at,
            )
        case Hold(until=until):
            return replace(execution, held_until=until, reason=command.reason)
        case AllowAttempts(attempts=attempts):
            return replace(execution, allowed=attempts)
        case GiveRelease():
            if execution.state is not InstallStatus.QUEUED:
                check_follows(f"execution on {execution.device}", execution.state, InstallStatus.QUEUED)
            return replace(
                execution,
                state=InstallStatus.QUEUED,
                since=now,
                reason="",
                attempt=execution.attempt + 1,
                given_at=now,
                previous=command.previous,
                before=command.before,
                is_unheard=False,
                held_until=None,
            )
        case GiveBack():
            return replace(
                execution, returns=execution.returns + 1, returned_at=now, is_awaited=command.is_awaited
            )
        case StopAwaiting():
            return replace(execution, is_awaited=False)
        case ConfirmReturn():
            return replace(execution, restored_at=now)
        case _:
            assert_never(command)


class Decision:
    """A decision in the making: each command is applied at once, so later steps see what earlier ones did.

    The rollout that was handed in stays as it was. What the decision is worth is what stands in `steps`: without any, nothing
    is written; `rollout` is kept all the same, because its due times went on.

    Attributes:
        rollout: as it is after all steps so far.
        now: Unix seconds, one moment for all of them.
        was_unsent: whether devices were still to be told that the rollout goes back when the decision began.
        steps: each command with the state that it ended, in the order in which they apply.
    """

    def __init__(self, rollout: Rollout, now: float) -> None:
        self._executions: dict[DeviceId, Execution] | None = None  # a copy is made when the first one changes
        self.rollout = replace(rollout, index=rollout.index.copy())
        self.now = now
        self.was_unsent = rollout.is_unsent
        self.steps: list[Step] = []

    @property
    def commands(self) -> list[Command]:
        """What was decided, in order."""
        return [step.command for step in self.steps]

    def do(self, command: Command) -> None:
        """Take `command` into the decision; raises ConflictError where the state machine has no such arrow."""
        match command:
            case MoveRollout():
                was: str | None = self.rollout.state
                self.rollout = _apply_to_rollout(self.rollout, command, self.now)
            case MoveGroup():
                was = self.rollout.groups[command.number].state
                self.rollout = _apply_to_rollout(self.rollout, command, self.now)
                if command.state is GroupState.RUNNING:
                    self._queue(self.rollout.of_group(command.number))
            case Look() | Withdraw():
                was = None
                self.rollout = _apply_to_rollout(self.rollout, command, self.now)
            case _:
                was = self._change(command)
        self.steps.append(Step(command=command, was=was))

    def _change(self, command: OnDevice) -> str | None:
        if self._executions is None:
            self._executions = dict(self.rollout.executions)
            self.rollout = replace(self.rollout, executions=self._executions)
        plan, index = self.rollout.plan, self.rollout.index
        if isinstance(command, Join):
            before, was = Execution(device=command.device, group=command.group, since=self.now), None
        else:
            before = self._executions[command.device]
            was = before.state
            index.count(plan, before, -1)
        after = _apply_to_execution(before, command, self.now)
        self._executions[command.device] = after
        index.count(plan, after, 1)
        at = deadline(plan, after)
        if at is not None and (after.state is not before.state or isinstance(command, GiveRelease)):
            index.schedule([(at, command.device)])
        if (
            not isinstance(command, Hold)
            and self.rollout.groups[after.group].state is not GroupState.SCHEDULED
        ):
            self._queue([after])
        return was

    def _queue(self, executions: list[Execution]) -> None:
        index = self.rollout.index
        index.queue = add(index.queue, self.rollout.queue_entries(executions))

    def leave_unsent(self, is_unsent: bool) -> None:  # noqa: FBT001 - the only argument
        """Note whether devices are still to be told that the rollout goes back."""
        self.rollout = replace(self.rollout, is_unsent=is_unsent)

    def take_overdue(self) -> list[Execution]:
        """The executions to look after now; who is not overdue yet is scheduled anew by the caller."""
        index = self.rollout.index
        due, index.deadlines = take_due(index.deadlines, self.now)
        found = {entry.device: self.rollout.executions[entry.device] for entry in due}
        return [one for one in found.values() if deadline(self.rollout.plan, one) is not None]

    def take_waiting(self, most: int) -> list[Entry]:
        """The next devices of the queue whose turn may be now, at most `most`; they are out of it."""
        index = self.rollout.index
        due, index.queue = take_due(index.queue, self.now, most)
        return due

    def put_back(self, entries: list[Entry]) -> None:
        """Put devices into the queue for another time."""
        index = self.rollout.index
        index.queue = add(index.queue, entries)

    def note_gifts(self, gifts: tuple[Gift, ...]) -> None:
        """Remember how many devices were told when, within the last minute."""
        self.rollout.index.gifts = gifts
