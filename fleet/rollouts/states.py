"""The states of a rollout, a group and an execution, and which may follow which.

::

    rollout    DRAFT → (WAITING_FOR_APPROVAL) → READY → RUNNING ⇄ PAUSED → COMPLETED | CANCELED
                                                         └───────┴────────────┴─► ROLLING_BACK → ROLLED_BACK
    group      SCHEDULED → RUNNING → SOAKING → PASSED | FAILED
    execution  QUEUED → IN_PROGRESS → SUCCEEDED | FAILED | REJECTED | TIMED_OUT | CANCELED | ROLLED_BACK   (+ DEFERRED)

The states of an execution are those that devices report (`protocol.messages.kinds.InstallStatus`). Invariant:
every change goes through `check_follows`, so a state outside the drawing cannot be stored.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from fleet.errors import ConflictError
from protocol.messages.kinds import InstallStatus

__all__ = [
    "ACTIVE",
    "EXECUTED",
    "FAILURES",
    "OCCUPYING",
    "OPEN",
    "GroupState",
    "RolloutState",
    "Subject",
    "Verb",
    "check_follows",
    "may_follow",
]


class RolloutState(StrEnum):
    """Where a rollout stands.

    A PAUSED rollout gives the release to nobody and judges nothing. One that is ROLLING_BACK has told every device to
    go back and waits for those that are there. CANCELED and ROLLED_BACK are final; COMPLETED is, but for a person who rolls
    it back, tries again what failed, or ends a dynamic one.
    """

    DRAFT = "DRAFT"
    WAITING_FOR_APPROVAL = "WAITING_FOR_APPROVAL"
    READY = "READY"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"
    ROLLING_BACK = "ROLLING_BACK"
    ROLLED_BACK = "ROLLED_BACK"


class GroupState(StrEnum):
    """Where one group of a rollout stands: RUNNING until enough devices have the release, SOAKING while watched."""

    SCHEDULED = "SCHEDULED"
    RUNNING = "RUNNING"
    SOAKING = "SOAKING"
    PASSED = "PASSED"
    FAILED = "FAILED"


class Verb(StrEnum):
    """``POST /v1/rollouts/{id}:<verb>``."""

    APPROVE = "approve"
    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    ROLLBACK = "rollback"
    TRIGGER_NEXT_GROUP = "trigger-next-group"
    RETRY_FAILED = "retry-failed"


class Subject(StrEnum):
    """What a line is about."""

    ROLLOUT = "rollout"
    GROUP = "group"
    DEVICE = "device"
    RELEASE = "release"


_R = RolloutState
_G = GroupState
_E = InstallStatus

FAILURES: Final = frozenset({_E.FAILED, _E.REJECTED, _E.TIMED_OUT, _E.ROLLED_BACK})
"""The ways in which a device does not end on the release."""

EXECUTED: Final = FAILURES | {_E.SUCCEEDED}
"""What counts as executed in an abort rule; a deferral is neutral, a cancellation was ours."""

OCCUPYING: Final = frozenset({_R.RUNNING, _R.PAUSED, _R.ROLLING_BACK})
"""Rollouts in these states own their devices: no other rollout may start on them."""

OPEN: Final = frozenset({_E.QUEUED, _E.IN_PROGRESS, _E.DEFERRED})
"""An execution in one of these has not ended."""

ACTIVE: Final = frozenset({_G.RUNNING, _G.SOAKING})
"""The group in one of these is the present one; there is at most one."""

_ROLLOUT: Final[dict[RolloutState, frozenset[RolloutState]]] = {
    _R.DRAFT: frozenset({_R.WAITING_FOR_APPROVAL, _R.READY, _R.CANCELED}),
    _R.WAITING_FOR_APPROVAL: frozenset({_R.READY, _R.CANCELED}),
    _R.READY: frozenset({_R.RUNNING, _R.CANCELED}),
    _R.RUNNING: frozenset({_R.PAUSED, _R.COMPLETED, _R.CANCELED, _R.ROLLING_BACK}),
    _R.PAUSED: frozenset({_R.RUNNING, _R.CANCELED, _R.ROLLING_BACK}),
    _R.ROLLING_BACK: frozenset({_R.ROLLED_BACK}),
    _R.COMPLETED: frozenset({_R.ROLLING_BACK, _R.CANCELED}),
    _R.CANCELED: frozenset(),
    _R.ROLLED_BACK: frozenset(),
}
_GROUP: Final[dict[GroupState, frozenset[GroupState]]] = {
    _G.SCHEDULED: frozenset({_G.RUNNING}),
    _G.RUNNING: frozenset({_G.SOAKING, _G.PASSED, _G.FAILED}),
    _G.SOAKING: frozenset({_G.PASSED, _G.FAILED}),
    _G.PASSED: frozenset(),
    _G.FAILED: frozenset(),
}
# QUEUED again is a retry. A device that timed out may still succeed, and one that had succeeded may fall back on
# its own later: what the device last said is the truth, so these two are drawn too. CANCELED after SUCCEEDED is a device
# that was shut out: it is no evidence any more.
_EXECUTION: Final[dict[InstallStatus, frozenset[InstallStatus]]] = {
    _E.QUEUED: frozenset(_E) - {_E.QUEUED},
    _E.IN_PROGRESS: frozenset(_E) - {_E.QUEUED, _E.IN_PROGRESS},
    _E.DEFERRED: frozenset(_E) - {_E.QUEUED, _E.DEFERRED},
    _E.SUCCEEDED: frozenset({_E.FAILED, _E.ROLLED_BACK, _E.CANCELED}),
    _E.FAILED: frozenset({_E.QUEUED, _E.SUCCEEDED, _E.ROLLED_BACK}),
    _E.TIMED_OUT: frozenset({_E.QUEUED, _E.SUCCEEDED, _E.FAILED, _E.REJECTED, _E.ROLLED_BACK}),
    _E.REJECTED: frozenset({_E.ROLLED_BACK}),
    _E.CANCELED: frozenset(),
    _E.ROLLED_BACK: frozenset(),
}


def may_follow(
    current: RolloutState | GroupState | InstallStatus, following: RolloutState | GroupState | InstallStatus
) -> bool:
    """Whether the drawing above has an arrow from `current` to `following`; both are states of the same kind.

    Examples:
        >>> may_follow(RolloutState.RUNNING, RolloutState.PAUSED)
        True
        >>> may_follow(RolloutState.ROLLED_BACK, RolloutState.RUNNING)
        False
    """
    match current, following:
        case RolloutState(), RolloutState():
            return following in _ROLLOUT[current]
        case GroupState(), GroupState():
            return following in _GROUP[current]
        case InstallStatus(), InstallStatus():
            return following in _EXECUTION[current]
    return False


def check_follows(
    what: str,
    current: RolloutState | GroupState | InstallStatus,
    following: RolloutState | GroupState | InstallStatus,
) -> None:
    """Refuse a transition that the drawing does not have.

    Raises:
        ConflictError: `what` (``rollout ro-1``) cannot go from `current` to `following`.
    """
    if not may_follow(current, following):
        raise ConflictError(f"{what} is {current} and cannot become {following}")
