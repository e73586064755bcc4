"""The story of a rollout: every transition of the rollout, its groups and its devices, with time, reason and actor."""

from __future__ import annotations

from typing import Any, Final, assert_never

from sqlalchemy import select
from sqlalchemy.orm import Session

from fleet.rollouts.progress import (
    ConfirmReturn,
    GiveBack,
    GiveRelease,
    MoveExecution,
    MoveGroup,
    MoveRollout,
    Rollout,
    Step,
    Withdraw,
)
from fleet.storage.rollout_tables import RolloutTransition

__all__ = ["MAXIMUM_LINES", "read_timeline", "timeline_row"]

MAXIMUM_LINES: Final = 10_000
"""Lines returned with a rollout; beyond, those of single devices are left out."""


def timeline_row(rollout: Rollout, step: Step, now: float) -> dict[str, Any]:
    """The line that `step` adds to the timeline of `rollout`, as columns of `RolloutTransition`.

    Args:
        rollout: says which group a device is in and which release it shall run; neither changes with a decision.
        step: the command and the state it ended.
        now: Unix seconds of the whole decision.
    """
    row: dict[str, Any] = {
        "rollout": rollout.id,
        "at": now,
        "group": None,
        "device": None,
        "was": step.was,
        "actor": "fleet",
    }
    match step.command:
        case MoveRollout(state=state, reason=reason, actor=actor):
            return row | {"subject": "rollout", "state": state, "reason": reason, "actor": actor}
        case MoveGroup(number=number, state=state, reason=reason):
            return row | {"subject": "group", "group": number, "state": state, "reason": reason}
        case Withdraw(reason=reason):
            return row | {"subject": "release", "state": "WITHDRAWN", "reason": reason}
        case MoveExecution() | GiveRelease() | GiveBack() | ConfirmReturn() as command:
            execution = rollout.executions[command.device]
            happened, why = _device_story(rollout, command)
            return row | {
                "subject": "device",
                "group": execution.group,
                "device": execution.device,
                "state": happened,
                "reason": why,
            }
        case _:
            assert_never(step.command)


def _device_story(
    rollout: Rollout, command: MoveExecution | GiveRelease | GiveBack | ConfirmReturn
) -> tuple[str, str]:
    match command:
        case MoveExecution(state=state, reason=reason):
            return state, reason
        case GiveRelease():
            return "GIVEN", f"shall run {rollout.plan.release}"
        case GiveBack(release=release):
            return "GIVEN_BACK", f"shall run {release or 'what it has'}"
        case ConfirmReturn(reason=reason):
            return "RESTORED", reason
        case _:
            assert_never(command)


def read_timeline(session: Session, rollout_id: str) -> list[RolloutTransition]:
    """The lines of a rollout in the order in which they happened, at most `MAXIMUM_LINES` where devices speak."""
    query = (
        select(RolloutTransition)
        .where(RolloutTransition.rollout == rollout_id)
        .order_by(RolloutTransition.id)
    )
    lines = list(session.scalars(query.limit(MAXIMUM_LINES + 1)))
    if len(lines) <= MAXIMUM_LINES:
        return lines
    return list(session.scalars(query.where(RolloutTransition.subject != "device")))
