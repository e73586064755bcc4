"""The story of a rollout: every transition of the rollout, its groups and its devices, with time, reason and actor."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, assert_never

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from fleet.rollouts.progress import Rollout
from fleet.rollouts.states import Subject
from fleet.rollouts.steps import (
    AllowAttempts,
    ConfirmReturn,
    GiveBack,
    GiveRelease,
    Hold,
    Join,
    Look,
    MoveExecution,
    MoveGroup,
    MoveRollout,
    OnDevice,
    Step,
    StopAwaiting,
    Withdraw,
)
from fleet.storage.rollout_tables import RolloutTransition

__all__ = ["LATEST", "latest_lines", "read_timeline", "timeline_row"]

LATEST: Final = 100
"""Lines that are shown with a rollout: so many of its devices, and so many of everything else."""


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
        case Look(number=number, answer=answer):
            said = {"state": f"LOOK_{answer.finding}", "reason": answer.reason}
            return row | {"subject": "group", "group": number} | said
        case command:
            execution = rollout.executions[command.device]
            happened, why = _device_story(rollout, command)
            return row | {
                "subject": "device",
                "group": execution.group,
                "device": execution.device,
                "state": happened,
                "reason": why,
            }


def _device_story(  # noqa: PLR0911 - one return for each kind
    rollout: Rollout, command: OnDevice
) -> tuple[str, str]:
    match command:
        case Join(group=group):
            return "JOINED", f"matches the query now, and belongs to group {group}"
        case Hold(reason=reason):
            return "HELD", reason
        case AllowAttempts(attempts=attempts, reason=reason):
            return ("RETRY" if attempts > 0 else "NO_RETRY"), reason
        case StopAwaiting(reason=reason):
            return "NOT_AWAITED", reason
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


def read_timeline(
    session: Session,
    rollout_id: str,
    *,
    after: int,
    limit: int,
    subjects: Collection[Subject] = tuple(Subject),
) -> list[RolloutTransition]:
    """At most `limit` lines about `subjects` that follow line `after` (0: from the first), in the order in which they happened."""
    return list(
        session.scalars(
            _lines(rollout_id, subjects)
            .where(RolloutTransition.id > after)
            .order_by(RolloutTransition.id)
            .limit(limit)
        )
    )


def latest_lines(session: Session, rollout_id: str) -> list[RolloutTransition]:
    """The `LATEST` lines about devices and the `LATEST` about anything else, together in the order in which they happened.

    Ten thousand devices do not push out why a group failed.
    """
    of_devices, others = (
        session.scalars(
            _lines(rollout_id, subjects).order_by(RolloutTransition.id.desc()).limit(LATEST)
        ).all()
        for subjects in ([Subject.DEVICE], [Subject.ROLLOUT, Subject.GROUP, Subject.RELEASE])
    )
    return sorted((*of_devices, *others), key=lambda line: line.id)


def _lines(rollout_id: str, subjects: Collection[Subject]) -> Select[RolloutTransition]:
    return select(RolloutTransition).where(
        RolloutTransition.rollout == rollout_id, RolloutTransition.subject.in_(list(subjects))
    )
