"""Rollouts on disk: reads a `Rollout` value and writes a decision, inside the caller's transaction.

What a decision changed and the desired states that follow from it are one transaction: after a crash either both are
there or neither. Publishing comes after, and is repeated at every start.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, assert_never

import msgspec
from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from fleet.errors import NotFoundError
from fleet.releases import find_release
from fleet.rollouts.desired_states import Wish, write_desired
from fleet.rollouts.plans import RolloutPlan
from fleet.rollouts.progress import (
    ConfirmReturn,
    Decision,
    Execution,
    Figures,
    GiveBack,
    GiveRelease,
    Group,
    MoveExecution,
    MoveGroup,
    MoveRollout,
    Rollout,
    Withdraw,
)
from fleet.rollouts.states import OCCUPYING, OPEN, GroupState, RolloutState
from fleet.rollouts.timeline import timeline_row
from fleet.storage.rollout_tables import RolloutExecution, RolloutGroup, RolloutRecord, RolloutTransition
from protocol.messages.kinds import InstallStatus
from protocol.names import DeviceId, split_release_id

__all__ = ["find_rollout", "insert_rollout", "occupied_devices", "watched_rollouts", "write_decision"]


def insert_rollout(
    session: Session, rollout: Rollout, *, created_by: str, author: str | None, needs_approval: bool
) -> None:
    """Store a new rollout in its present state; its creation is the first line of the timeline."""
    session.add(
        RolloutRecord(
            id=rollout.id,
            name=rollout.plan.name,
            family=rollout.plan.family,
            release=rollout.plan.release,
            plan=msgspec.to_builtins(rollout.plan),
            state=rollout.state,
            since=rollout.since,
            created_at=rollout.since,
            created_by=created_by,
            author=author,
            needs_approval=needs_approval,
        )
    )
    session.flush()
    session.execute(
        insert(RolloutGroup),
        [{"rollout": rollout.id, **asdict(group)} for group in rollout.groups],
    )
    session.execute(
        insert(RolloutExecution),
        [{"rollout": rollout.id, **_execution_row(e)} for e in rollout.executions.values()],
    )
    session.add(
        RolloutTransition(
            rollout=rollout.id,
            at=rollout.since,
            subject="rollout",
            state=rollout.state,
            reason=f"created for {len(rollout.executions)} devices",
            actor=created_by,
        )
    )


def find_rollout(session: Session, rollout_id: str) -> tuple[Rollout, RolloutRecord]:
    """The rollout as the decisions take it, and its record; raises NotFoundError where there is no such rollout.

    Three queries, however many devices it has.
    """
    record = session.get(RolloutRecord, rollout_id)
    if record is None:
        raise NotFoundError(f"there is no rollout {rollout_id[:80]!r}; list them with GET /v1/rollouts")
    groups = session.scalars(
        select(RolloutGroup).where(RolloutGroup.rollout == rollout_id).order_by(RolloutGroup.number)
    )
    executions = session.scalars(
        select(RolloutExecution)
        .where(RolloutExecution.rollout == rollout_id)
        .order_by(RolloutExecution.group, RolloutExecution.device)
    )
    rollout = Rollout(
        id=record.id,
        plan=msgspec.convert(record.plan, RolloutPlan),
        state=RolloutState(record.state),
        since=record.since,
        groups=tuple(_read_group(row) for row in groups),
        executions={DeviceId(row.device): _read_execution(row) for row in executions},
    )
    return rollout, record


def _read_group(row: RolloutGroup) -> Group:
    return Group(
        number=row.number,
        name=row.name,
        soak_s=row.soak_s,
        state=GroupState(row.state),
        since=row.since,
        reason=row.reason,
    )


def _read_execution(row: RolloutExecution) -> Execution:
    return Execution(
        device=DeviceId(row.device),
        group=row.group,
        state=InstallStatus(row.state),
        reason=row.reason,
        since=row.since,
        attempt=row.attempt,
        given_at=row.given_at,
        previous=row.previous,
        before=None if row.before is None else Figures(**row.before),
        returns=row.returns,
        returned_at=row.returned_at,
        restored_at=row.restored_at,
    )


def _execution_row(execution: Execution) -> dict[str, Any]:
    # asdict() copies recursively, field by field: half a second for ten thousand devices
    before = None if execution.before is None else asdict(execution.before)
    return {**vars(execution), "before": before}


def watched_rollouts(session: Session) -> list[str]:
    """Ids of the rollouts for which something may still happen, oldest first."""
    stragglers = (
        select(RolloutExecution.rollout)
        .where(RolloutExecution.rollout == RolloutRecord.id, RolloutExecution.state.in_(list(OPEN)))
        .exists()
    )
    watched = RolloutRecord.state.in_(list(OCCUPYING)) | (
        (RolloutRecord.state == RolloutState.COMPLETED) & stragglers
    )
    return list(session.scalars(select(RolloutRecord.id).where(watched).order_by(RolloutRecord.created_at)))


def occupied_devices(session: Session, rollout_id: str) -> dict[DeviceId, str]:
    """Devices of `rollout_id` that another unfinished rollout has, with that rollout's id."""
    mine = select(RolloutExecution.device).where(RolloutExecution.rollout == rollout_id)
    rows = session.execute(
        select(RolloutExecution.device, RolloutExecution.rollout)
        .join(RolloutRecord, RolloutRecord.id == RolloutExecution.rollout)
        .where(
            RolloutRecord.state.in_(list(OCCUPYING)),
            RolloutRecord.id != rollout_id,
            RolloutExecution.device.in_(mine),
        )
        .order_by(RolloutExecution.device)
    )
    return {DeviceId(device): other for device, other in rows}


def write_decision(session: Session, decision: Decision) -> set[DeviceId]:
    """Store what `decision` made of its rollout, its timeline, and the desired states that follow.

    One row each for the rollout and its groups that moved; every device that was touched is written once, as it is at
    the end of the decision. A device that was told several things in one decision shall do the last of them.

    Args:
        session: the transaction in which the rollout was read; it commits all of this or nothing.
        decision: an empty one writes nothing.

    Returns:
        The devices whose desired state changed: announce them once the transaction has committed.
    """
    rollout, now = decision.rollout, decision.now
    touched: set[DeviceId] = set()
    wishes: dict[DeviceId, Wish] = {}
    given: set[DeviceId] = set()
    for command in decision.commands:
        match command:
            case MoveRollout():
                session.execute(
                    update(RolloutRecord)
                    .where(RolloutRecord.id == rollout.id)
                    .values(state=command.state, since=now)
                )
            case MoveGroup():
                session.execute(
                    update(RolloutGroup)
                    .where(RolloutGroup.rollout == rollout.id, RolloutGroup.number == command.number)
                    .values(state=command.state, since=now, reason=command.reason)
                )
            case Withdraw():
                _withdraw(session, command, now)
            case GiveRelease():
                given.add(command.device)
                wishes[command.device] = Wish(
                    execution=rollout.given_id(rollout.executions[command.device]),
                    release=rollout.plan.release,
                )
            case GiveBack():
                wishes[command.device] = Wish(
                    execution=rollout.returned_id(rollout.executions[command.device]), release=command.release
                )
            case MoveExecution() | ConfirmReturn():
                touched.add(command.device)
            case _:
                assert_never(command)
    if touched := touched | wishes.keys():
        session.execute(
            update(RolloutExecution),
            [{"rollout": rollout.id, **_execution_row(rollout.executions[d])} for d in sorted(touched)],
        )
    if decision.steps:
        session.execute(
            insert(RolloutTransition), [timeline_row(rollout, step, now) for step in decision.steps]
        )
    _supersede(session, rollout.id, given, now)
    write_desired(session, wishes, now)
    return set(wishes)


def _withdraw(session: Session, command: Withdraw, now: float) -> None:
    """Mark the release as harmful: another rollout of it needs `force`. Its bytes stay for devices that have it."""
    record = find_release(session, *split_release_id(command.release))
    record.withdrawn_at = now
    record.withdrawn_reason = command.reason


def _supersede(session: Session, rollout_id: str, devices: set[DeviceId], now: float) -> None:
    """Close what a completed rollout still waits for on devices that another rollout now has."""
    if not devices:
        return
    mine = select(RolloutExecution.device).where(
        RolloutExecution.rollout == rollout_id, RolloutExecution.given_at == now
    )
    session.execute(
        update(RolloutExecution)
        .where(
            RolloutExecution.rollout != rollout_id,
            RolloutExecution.device.in_(mine),
            RolloutExecution.state.in_(list(OPEN)),
            RolloutExecution.given_at.is_not(None),
        )
        .values(state=InstallStatus.CANCELED, since=now, reason=f"superseded by rollout {rollout_id}")
        .execution_options(synchronize_session=False)
    )
