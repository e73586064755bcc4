"""How far a rollout has come, what was observed of its devices, and the changes a decision may make.

Values only: a `Rollout` is never changed, a `Command` makes the next one from it. What the decision made of the rollout
is what the store writes, so what was believed and what is stored cannot differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import assert_never

from fleet.rollouts.plans import RolloutPlan
from fleet.rollouts.states import ACTIVE, GroupState, RolloutState, check_follows
from protocol.messages.kinds import InstallStatus
from protocol.names import DeviceId

__all__ = [
    "Command",
    "ConfirmReturn",
    "Decision",
    "Execution",
    "Figures",
    "GiveBack",
    "GiveRelease",
    "Group",
    "MoveExecution",
    "MoveGroup",
    "MoveRollout",
    "Observations",
    "Report",
    "Rollout",
    "Running",
    "Step",
    "Withdraw",
]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What recent health messages of one device say. `inference_p99_us` is their mean, `drift_score` the latest.

    `windows` counts those that got a score, `windows_over` those of them over the threshold. `is_blind` is whether the
    device said last that it can judge nothing at present.
    """

    reports: int
    windows: int
    windows_over: float
    inference_p99_us: float
    drift_score: float
    is_blind: bool = False  # what was stored before there was the word has none

    @property
    def anomaly_rate(self) -> float:
        """Windows over threshold ÷ judged windows; 0 where there were none."""
        return self.windows_over / self.windows if self.windows else 0.0


@dataclass(frozen=True, kw_only=True)
class Report:
    """A device's last word on one execution; `at` is when the fleet received it, Unix seconds."""

    status: InstallStatus
    at: float
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Running:
    """What a device last said it runs (None: nothing), and when its last health arrived, Unix seconds.

    `returnable` is the release that it could be told to go back to: what it runs, else what it was last told to run;
    None where the fleet does not hold such a release.
    """

    release: str | None
    returnable: str | None
    at: float


@dataclass(frozen=True, kw_only=True)
class Observations:
    """Everything a decision may know of the world.

    `reports` by execution id. `figures`: devices on the new release, from health sent after they committed it.
    `recent`: devices not given the release yet, as they are now.
    """

    reports: Mapping[str, Report] = field(default_factory=dict)
    running: Mapping[DeviceId, Running] = field(default_factory=dict)
    revoked: frozenset[DeviceId] = frozenset()
    figures: Mapping[DeviceId, Figures] = field(default_factory=dict)
    recent: Mapping[DeviceId, Figures] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Execution:
    """One device in a rollout.

    Given the release at `given_at` (None: not yet) as attempt number `attempt`; it ran `previous` until then and
    showed `before`. Given back at `returned_at` as return number `returns`; confirmed at `restored_at`.
    """

    device: DeviceId
    group: int
    state: InstallStatus = InstallStatus.QUEUED
    reason: str = ""
    since: float = 0.0
    attempt: int = 0
    given_at: float | None = None
    previous: str | None = None
    before: Figures | None = None
    returns: int = 0
    returned_at: float | None = None
    restored_at: float | None = None

    @property
    def is_given(self) -> bool:
        """Whether the device was told to run the release under this rollout."""
        return self.given_at is not None


@dataclass(frozen=True, kw_only=True)
class Group:
    """One group; `since` is when it entered its state, Unix seconds."""

    number: int
    name: str
    soak_s: float
    state: GroupState = GroupState.SCHEDULED
    since: float = 0.0
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """A plan and how far it has come."""

    id: str
    plan: RolloutPlan
    state: RolloutState
    since: float
    groups: tuple[Group, ...]
    executions: Mapping[DeviceId, Execution]

    @property
    def present_group(self) -> Group | None:
        """The group that runs or soaks; None before the first, after the last, and in between."""
        return next((group for group in self.groups if group.state in ACTIVE), None)

    def of_group(self, number: int) -> list[Execution]:
        """The executions of one group, by device."""
        return [execution for execution in self.executions.values() if execution.group == number]

    def given_id(self, execution: Execution) -> str:
        """What the device calls the present attempt in its reports."""
        return f"{self.id}:{execution.device}:{execution.attempt}"

    def returned_id(self, execution: Execution) -> str:
        """What the device calls the return to its previous release in its reports."""
        return f"{self.id}:{execution.device}:back{execution.returns}"

    def back_to(self, execution: Execution) -> str | None:
        """The release a device goes back to; None: it ran nothing before and keeps what it has."""
        return self.plan.rollback_to or execution.previous


@dataclass(frozen=True, kw_only=True)
class MoveRollout:
    """The rollout enters `state`; `actor` is a person's token name, or the fleet itself."""

    state: RolloutState
    reason: str
    actor: str = "fleet"


@dataclass(frozen=True, kw_only=True)
class MoveGroup:
    """Group `number` enters `state`."""

    number: int
    state: GroupState
    reason: str


@dataclass(frozen=True, kw_only=True)
class MoveExecution:
    """A device's execution enters `state`."""

    device: DeviceId
    state: InstallStatus
    reason: str


@dataclass(frozen=True, kw_only=True)
class GiveRelease:
    """The device shall run the rollout's release, under its next counter."""

    device: DeviceId
    previous: str | None
    before: Figures | None


@dataclass(frozen=True, kw_only=True)
class GiveBack:
    """The device shall run `release` again, under its next counter; None: it shall keep what it has."""

    device: DeviceId
    release: str | None


@dataclass(frozen=True, kw_only=True)
class ConfirmReturn:
    """The device is back where it was, or has nothing to go back to."""

    device: DeviceId
    reason: str


@dataclass(frozen=True, kw_only=True)
class Withdraw:
    """The release did harm: a later rollout of it needs `force`."""

    release: str
    reason: str


Command = MoveRollout | MoveGroup | MoveExecution | GiveRelease | GiveBack | ConfirmReturn | Withdraw


@dataclass(frozen=True, kw_only=True)
class Step:
    """A command that was applied, and the state that what it changes was in until then; None: it has no state."""

    command: Command
    was: str | None


def _apply_to_rollout(rollout: Rollout, command: MoveRollout | MoveGroup | Withdraw, now: float) -> Rollout:
    """The rollout after `command` at Unix second `now`.

    Raises:
        ConflictError: the command would enter a state that cannot follow the present one.
    """
    match command:
        case MoveRollout():
            check_follows(f"rollout {rollout.id}", rollout.state, command.state)
            return replace(rollout, state=command.state, since=now)
        case MoveGroup():
            group = rollout.groups[command.number]
            check_follows(f"group {group.number} of {rollout.id}", group.state, command.state)
            moved = replace(group, state=command.state, since=now, reason=command.reason)
            before, after = rollout.groups[: group.number], rollout.groups[group.number + 1 :]
            return replace(rollout, groups=(*before, moved, *after))
        case Withdraw():
            return rollout
        case _:
            assert_never(command)


def _apply_to_execution(
    execution: Execution, command: MoveExecution | GiveRelease | GiveBack | ConfirmReturn, now: float
) -> Execution:
    """The execution after `command` at Unix second `now`.

    Raises:
        ConflictError: the command would enter a state that cannot follow the present one.
    """
    match command:
        case MoveExecution():
            check_follows(f"execution on {execution.device}", execution.state, command.state)
            return replace(execution, state=command.state, reason=command.reason, since=now)
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
            )
        case GiveBack():
            return replace(execution, returns=execution.returns + 1, returned_at=now)
        case ConfirmReturn():
            return replace(execution, restored_at=now)
        case _:
            assert_never(command)


class Decision:
    """A decision in the making: each command is applied at once, so later steps see what earlier ones did.

    The rollout that was handed in stays as it was. What the decision is worth is what stands in `steps`: an empty
    decision means that nothing follows, and nothing is written.

    Attributes:
        rollout: as it is after all steps so far.
        now: Unix seconds, one moment for all of them.
        steps: each command with the state that it ended, in the order in which they apply.
    """

    def __init__(self, rollout: Rollout, now: float) -> None:
        # one copy for the whole decision: a copy per command would be quadratic in the devices
        self._executions = dict(rollout.executions)
        self.rollout = replace(rollout, executions=self._executions)
        self.now = now
        self.steps: list[Step] = []

    @property
    def commands(self) -> list[Command]:
        """What was decided, in order."""
        return [step.command for step in self.steps]

    def do(self, command: Command) -> None:
        """Take `command` into the decision; raises ConflictError where the state machine has no such arrow."""
        self.steps.append(Step(command=command, was=self._state_before(command)))
        match command:
            case MoveExecution() | GiveRelease() | GiveBack() | ConfirmReturn():
                self._executions[command.device] = _apply_to_execution(
                    self._executions[command.device], command, self.now
                )
            case MoveRollout() | MoveGroup() | Withdraw():
                self.rollout = _apply_to_rollout(self.rollout, command, self.now)

    def _state_before(self, command: Command) -> str | None:
        match command:
            case MoveRollout():
                return self.rollout.state
            case MoveGroup():
                return self.rollout.groups[command.number].state
            case Withdraw():
                return None
            case MoveExecution() | GiveRelease() | GiveBack() | ConfirmReturn():
                return self._executions[command.device].state
            case _:
                assert_never(command)
