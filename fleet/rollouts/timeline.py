"""The story of a rollout: every transition of the rollout, its groups and its devices, with time, reason and actor."""

from __future__ import annotations

from typing import Any, Final, assert_never

from sqlalchemy import select
from sqlalchemy.orm import Session

from fleet.rollouts.progress import (
    Command,
    ConfirmReturn,
    Execution,
    GiveBack,
    GiveRelease,
    MoveExecution,
    MoveGroup,
    MoveRollout,
    Rollout,
    Withdraw,
)
from fleet.storage.rollout_tables import RolloutTransition

__all__ = ["MAXIMUM_LINES", "read_timeline", "timeline_row"]

MAXIMUM_LINES: Final = 10_000
"""Lines returned with a rollout; beyond, those of single devices are left out."""


def timeline_row(rollout: Rollout, command: Command, now: float) -> dict[str, Any]:
    """The line that `command` adds to the timeline of `rollout`, as columns of `RolloutTransition`."""
    row: dict[str, Any] = {
        "rollout": rollout.id,
        "at": now,
        "group": None,
        "device": None,
        "was": None,
        "actor": "fleet",
    }
    story: dict[str, Any]
    match command:
        case MoveRollout():
            story = {
                "subject": "rollout",
                "was": rollout.state,
                "state": command.state,
                "reason": command.reason,
                "actor": command.actor,
            }
        case MoveGroup():
            story = {
                "subject": "group",
                "group": command.number,
                "was": rollout.groups[command.number].state,
                "state": command.state,
                "reason": command.reason,
            }
        case Withdraw():
            story = {"subject": "release", "state": "WITHDRAWN", "reason": command.reason}
        case MoveExecution() | GiveRelease() | GiveBack() | ConfirmReturn():
            story = _device_story(rollout, rollout.executions[command.device], command)
        case _:
            assert_never(command)
    return row | story


def _device_story(
    rollout: Rollout,
    execution: Execution,
    command: MoveExecution | GiveRelease | GiveBack | ConfirmReturn,
) -> dict[str, Any]:
    match command:
        case MoveExecution():
            state, reason = str(command.state), command.reason
        case GiveRelease():
            state, reason = "GIVEN", f"shall run {rollout.plan.release}"
        case GiveBack():
            state, reason = "GIVEN_BACK", f"shall run {command.release or 'what it has'}"
        case ConfirmReturn():
            state, reason = "RESTORED", command.reason
        case _:
            assert_never(command)
    return {
        "subject": "device",
        "group": execution.group,
        "device": execution.device,
        "was": execution.state,
        "state": state,
        "reason": reason,
    }


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
