"""One device in a rollout, and the tallies and due times that are kept of many.

Values. An `Execution` is never changed. An `Index` belongs to one `Rollout` value: a decision copies it, and counts each
execution that it touches out and in again, so no rule ever walks over all executions to know how many stand where.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from fleet.rollouts.agenda import Agenda, Entry, add
from fleet.rollouts.pacing import Gift
from fleet.rollouts.plans import RolloutPlan
from fleet.rollouts.states import GroupState
from protocol.messages.kinds import InstallStatus
from protocol.names import DeviceId

__all__ = [
    "NO_MORE_ATTEMPTS",
    "RETRYABLE",
    "Execution",
    "Figures",
    "Group",
    "Index",
    "Mark",
    "deadline",
    "mark_of",
]

RETRYABLE: Final = frozenset({InstallStatus.FAILED, InstallStatus.TIMED_OUT})
"""What may go better the next time; a release that was rejected, or that its device went back from, will not."""

NO_MORE_ATTEMPTS: Final = -1
"""Of `Execution.allowed`: the device was shut out, it is told nothing any more."""


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
class Execution:
    """One device in a rollout.

    Given the release at `given_at` (None: not yet) as attempt number `attempt`; it ran `previous` until then and
    showed `before`. `allowed` attempts are granted by a person, beyond those of the plan. `is_unheard`: it timed out
    without one word on its attempt. Left out of giving until `held_until` (quarantine). `failed_at` is when it last
    failed by itself. Given back at `returned_at` as return number `returns`; a rollback waits for it while `is_awaited`;
    confirmed at `restored_at`. `superseded_by` is the later rollout that has the device now: this one is done with it.
    """

    device: DeviceId
    group: int
    state: InstallStatus = InstallStatus.QUEUED
    reason: str = ""
    since: float = 0.0
    attempt: int = 0
    allowed: int = 0
    given_at: float | None = None
    previous: str | None = None
    before: Figures | None = None
    is_unheard: bool = False
    held_until: float | None = None
    failed_at: float | None = None
    returns: int = 0
    returned_at: float | None = None
    is_awaited: bool = False
    restored_at: float | None = None
    superseded_by: str | None = None

    @property
    def is_given(self) -> bool:
        """Whether the device was told to run the release under this rollout."""
        return self.given_at is not None

    @property
    def is_returning(self) -> bool:
        """Whether the device was told to go back, and nothing was heard of it since."""
        return self.returned_at is not None and self.restored_at is None and self.superseded_by is None


@dataclass(frozen=True, kw_only=True)
class Group:
    """One group; `since` is when it entered its state, Unix seconds.

    `looks` is how often its gates were asked, `is_cleared` whether they let it pass.
    """

    number: int
    name: str
    soak_s: float
    state: GroupState = GroupState.SCHEDULED
    since: float = 0.0
    reason: str = ""
    looks: int = 0
    is_cleared: bool = False


class Mark(StrEnum):
    """What a state alone does not say of an execution."""

    NONE = ""
    WAITS = "waits"  # to be told, for the first time or again
    HELD = "held"  # likewise, but in quarantine
    UNHEARD = "unheard"  # timed out without a word: nothing is known of the release by it


def mark_of(plan: RolloutPlan, execution: Execution) -> Mark:
    """The mark of `execution` under `plan`."""
    if execution.returned_at is not None or execution.superseded_by is not None:
        return Mark.NONE
    if _waits(plan, execution):
        return Mark.WAITS if execution.held_until is None else Mark.HELD
    if execution.state is InstallStatus.TIMED_OUT and execution.is_unheard:
        return Mark.UNHEARD
    return Mark.NONE


def _waits(plan: RolloutPlan, execution: Execution) -> bool:
    if execution.state is InstallStatus.QUEUED:
        return execution.given_at is None
    return (
        execution.state in RETRYABLE
        and execution.allowed != NO_MORE_ATTEMPTS
        and 0 < execution.attempt < max(1 + plan.retries(execution.state), execution.allowed)
    )


def deadline(plan: RolloutPlan, execution: Execution) -> float | None:
    """When to look whether `execution` takes too long, Unix seconds; None where it does not run."""
    if execution.given_at is None or execution.returned_at is not None or execution.superseded_by is not None:
        return None
    limits = plan.timeout
    match execution.state:
        case InstallStatus.QUEUED:
            return execution.given_at + limits.queued_s
        case InstallStatus.DEFERRED:
            return execution.since + limits.queued_s
        case InstallStatus.IN_PROGRESS:
            return execution.since + min(limits.step_s, limits.in_progress_s)
        case _:
            return None


Count = tuple[int, InstallStatus, Mark]


class Index:
    """What is known of all executions together; a decision changes its own copy.

    Attributes:
        counts: how many executions of a group are in a state with a mark; nothing stands at 0.
        awaited: devices that a rollback waits for.
        late: devices that were told to go back and are not waited for: they will when they are heard again.
        superseded: devices that a later rollout has.
        failed_at: when a device last failed by itself, Unix seconds.
        deadlines: when to look after an open execution.
        queue: devices of started groups that wait for the release, by when they may get it.
        gifts: how many devices were told when, within the last minute.
        due_at: when something may follow by time alone, Unix seconds; None: never. A fresh index is due at once.
    """

    def __init__(self, gifts: tuple[Gift, ...] = ()) -> None:
        self.counts: dict[Count, int] = {}
        self.awaited = self.late = self.superseded = 0
        self.failed_at = 0.0
        self.deadlines: Agenda = None
        self.queue: Agenda = None
        self.gifts = gifts
        self.due_at: float | None = 0.0

    def __eq__(self, other: object) -> bool:
        """Whether both count the same; what is due is a hint, and not compared."""
        names = ("counts", "awaited", "late", "superseded", "failed_at")
        return isinstance(other, Index) and all(getattr(self, n) == getattr(other, n) for n in names)

    __hash__ = None  # type: ignore[assignment] # it is changed

    def copy(self) -> Index:
        """One that may be changed without touching this one; the agendas are shared, for they never change."""
        copied = copy(self)
        copied.counts = dict(self.counts)
        return copied

    def count(self, plan: RolloutPlan, execution: Execution, by: int) -> None:
        """Count `execution` in (`by` 1) or out (-1)."""
        key = (execution.group, execution.state, mark_of(plan, execution))
        number = self.counts.get(key, 0) + by
        if number:
            self.counts[key] = number
        else:
            self.counts.pop(key, None)
        if execution.is_returning:
            if execution.is_awaited:
                self.awaited += by
            else:
                self.late += by
        self.superseded += by * (execution.superseded_by is not None)
        self.failed_at = max(self.failed_at, execution.failed_at or 0.0)

    def schedule(self, entries: Iterable[tuple[float, DeviceId]]) -> None:
        """Have open executions looked after at these times."""
        self.deadlines = add(self.deadlines, (Entry(at, 0, device) for at, device in entries))

    def number(
        self,
        group: int | None = None,
        states: Iterable[InstallStatus] | None = None,
        marks: Iterable[Mark] | None = None,
    ) -> int:
        """How many executions are in `group`, in one of `states`, with one of `marks`; None: any."""
        states, marks = None if states is None else set(states), None if marks is None else set(marks)
        return sum(
            number
            for (of, state, mark), number in self.counts.items()
            if (group is None or of == group)
            and (states is None or state in states)
            and (marks is None or mark in marks)
        )
