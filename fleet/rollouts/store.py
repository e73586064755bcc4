"""Rollouts on disk: reads a `Rollout` value and writes a decision, inside the caller's transaction.

What a decision changed and the desired states that follow from it are one transaction: after a crash either both are
there or neither. Publishing comes after, and is repeated at every start.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, replace

import msgspec
from sqlalchemy import func, insert, or_, select, update
from sqlalchemy.orm import Session

from fleet.errors import NotFoundError
from fleet.releases import find_release
from fleet.rollouts import tallies
from fleet.rollouts.desired_states import Wish, write_desired
from fleet.rollouts.execution_rows import execution_row, insert_executions, read_execution
from fleet.rollouts.executions import NO_MORE_ATTEMPTS, RETRYABLE, Group, Index
from fleet.rollouts.others import supersede, take_back
from fleet.rollouts.pacing import Gift
from fleet.rollouts.plans import RolloutPlan
from fleet.rollouts.progress import Rollout
from fleet.rollouts.states import OCCUPYING, OPEN, GroupState, RolloutState
from fleet.rollouts.steps import Decision, GiveBack, GiveRelease, Join, Look, MoveGroup, MoveRollout, Withdraw
from fleet.rollouts.timeline import timeline_row
from fleet.storage.rollout_tables import (
    RolloutExecution,
    RolloutGroup,
    RolloutLook,
    RolloutRecord,
    RolloutTransition,
)
from protocol.names import DeviceId, split_release_id

__all__ = [
    "find_rollout",
    "find_tallied",
    "insert_rollout",
    "is_unchanged",
    "watched_rollouts",
    "write_decision",
]


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
            tallies=tallies.pack(rollout.index),
        )
    )
    session.flush()
    session.execute(
        insert(RolloutGroup),
        [{"rollout": rollout.id, **asdict(group)} for group in rollout.groups],
    )
    insert_executions(session, rollout)
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
    rollout, record = _read_rollout(session, rollout_id)
    executions = session.scalars(
        select(RolloutExecution)
        .where(RolloutExecution.rollout == rollout_id)
        .order_by(RolloutExecution.group, RolloutExecution.device)
    )
    whole = replace(
        rollout,
        executions={DeviceId(row.device): read_execution(row) for row in executions},
        index=Index(gifts=_read_gifts(session, rollout_id)),
    )
    return whole.counted(), record


def find_tallied(session: Session, rollout_id: str) -> tuple[Rollout, RolloutRecord]:
    """The same without its executions, for who only shows it: the tallies are in its index. Raises NotFoundError."""
    rollout, record = _read_rollout(session, rollout_id)
    return replace(rollout, index=tallies.tallies_of(session, record)), record


def _read_rollout(session: Session, rollout_id: str) -> tuple[Rollout, RolloutRecord]:
    record = session.get(RolloutRecord, rollout_id)
    if record is None:
        raise NotFoundError(f"there is no rollout {rollout_id[:80]!r}; list them with GET /v1/rollouts")
    groups = session.scalars(
        select(RolloutGroup).where(RolloutGroup.rollout == rollout_id).order_by(RolloutGroup.number)
    )
    rollout = Rollout(
        id=record.id,
        plan=msgspec.convert(record.plan, RolloutPlan),
        state=RolloutState(record.state),
        since=record.since,
        groups=tuple(_read_group(row) for row in groups),
        executions={},
        rollback_to=record.rollback_to,
        is_unsent=record.is_unsent,
    )
    return rollout, record


def _read_gifts(session: Session, rollout_id: str) -> tuple[Gift, ...]:
    """How many devices were told when, in the minute up to the last time: a restart is no licence to tell more."""
    lines = (RolloutTransition.rollout == rollout_id) & (RolloutTransition.state == "GIVEN")
    last = session.scalar(select(func.max(RolloutTransition.at)).where(lines))
    if last is None:
        return ()
    rows = session.execute(
        select(RolloutTransition.at, func.count())
        .where(lines, RolloutTransition.at > last - 60)
        .group_by(RolloutTransition.at)
        .order_by(RolloutTransition.at)
    )
    return tuple(Gift(at, devices) for at, devices in rows)


def _read_group(row: RolloutGroup) -> Group:
    return Group(
        number=row.number,
        name=row.name,
        soak_s=row.soak_s,
        state=GroupState(row.state),
        since=row.since,
        reason=row.reason,
        looks=row.looks,
        is_cleared=row.is_cleared,
    )


def watched_rollouts(session: Session) -> list[str]:
    """Ids of the rollouts for which something may still happen (`Rollout.is_over`), oldest first."""
    mine = RolloutExecution.rollout == RolloutRecord.id
    is_open = RolloutExecution.state.in_(list(OPEN))
    is_returning = (
        RolloutExecution.returned_at.is_not(None)
        & RolloutExecution.restored_at.is_(None)
        & RolloutExecution.superseded_by.is_(None)
    )
    by_plan = or_(
        *(
            (RolloutExecution.state == state)
            & (RolloutExecution.attempt <= RolloutRecord.plan["retry", str(state)].as_integer())
            for state in sorted(RETRYABLE)
        )
    )
    retries = (RolloutExecution.attempt < RolloutExecution.allowed) | (
        by_plan & (RolloutExecution.allowed != NO_MORE_ATTEMPTS)
    )
    waits = (RolloutRecord.state == RolloutState.COMPLETED) & (is_open | retries)
    goes_back = RolloutRecord.state.in_([RolloutState.ROLLED_BACK, RolloutState.CANCELED]) & is_returning
    is_dynamic = (RolloutRecord.state == RolloutState.COMPLETED) & RolloutRecord.plan["dynamic"].as_boolean()
    watched = (
        RolloutRecord.state.in_(list(OCCUPYING))
        | RolloutRecord.is_unsent
        | is_dynamic
        | select(RolloutExecution.rollout).where(mine, waits | goes_back).exists()
    )
    return list(session.scalars(select(RolloutRecord.id).where(watched).order_by(RolloutRecord.created_at)))


def is_unchanged(session: Session, rollout_id: str, version: int) -> bool:
    """Whether nobody has written a rollout since it had `version`; in the transaction that is to write it next."""
    return session.scalar(select(RolloutRecord.version).where(RolloutRecord.id == rollout_id)) == version


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
    if not decision.steps:
        return set()
    touched: set[DeviceId] = set()
    joined: set[DeviceId] = set()
    groups: set[int] = set()
    wishes: dict[DeviceId, Wish] = {}
    given: set[DeviceId] = set()
    for command in decision.commands:
        match command:
            case MoveRollout():
                pass
            case MoveGroup(number=number):
                groups.add(number)
            case Look(number=number, look=look, answer=answer):
                groups.add(number)
                # those after the soak are all the last of it by their own number
                row = {"rollout": rollout.id, "group": number, "number": look, "at": now}
                session.execute(insert(RolloutLook).values(row | {"answer": msgspec.to_builtins(answer)}))
            case Withdraw():
                record = find_release(session, *split_release_id(command.release))
                take_back(session, record, command.reason, now, by=rollout.id)
            case Join(device=device):
                joined.add(device)
            case GiveRelease(device=device):
                given.add(device)
                execution = rollout.given_id(rollout.executions[device])
                wishes[device] = Wish(execution=execution, release=rollout.plan.release)
            case GiveBack(device=device, release=release):
                execution = rollout.returned_id(rollout.executions[device])
                wishes[device] = Wish(execution=execution, release=release)
            case _:
                touched.add(command.device)
    _write_rollout(session, rollout, groups)
    rows = {
        device: {"rollout": rollout.id, **execution_row(rollout.executions[device])}
        for device in sorted(touched | joined | wishes.keys())
    }
    if joined:
        session.execute(insert(RolloutExecution), [rows.pop(device) for device in sorted(joined)])
    if rows:
        session.execute(update(RolloutExecution), list(rows.values()))
    session.execute(insert(RolloutTransition), [timeline_row(rollout, step, now) for step in decision.steps])
    supersede(session, rollout.id, given, now)
    write_desired(session, wishes, now)
    return set(wishes)


def _write_rollout(session: Session, rollout: Rollout, groups: Collection[int]) -> None:
    session.execute(
        update(RolloutRecord)
        .where(RolloutRecord.id == rollout.id)
        .values(
            state=rollout.state,
            since=rollout.since,
            rollback_to=rollout.rollback_to,
            is_unsent=rollout.is_unsent,
            version=RolloutRecord.version + 1,
            tallies=tallies.pack(rollout.index),
        )
    )
    for number in sorted(groups):
        group = rollout.groups[number]
        session.execute(
            update(RolloutGroup)
            .where(RolloutGroup.rollout == rollout.id, RolloutGroup.number == number)
            .values(
                state=group.state,
                since=group.since,
                reason=group.reason,
                looks=group.looks,
                is_cleared=group.is_cleared,
            )
        )
