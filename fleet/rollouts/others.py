"""What a rollout's decision means for others: a device has one rollout at a time, and what was withdrawn is given by none.

Within the transaction of the decision. Whoever holds another rollout in memory reads it anew, for its version has grown.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import msgspec
from sqlalchemy import ColumnElement, insert, select, update
from sqlalchemy.orm import Session

from fleet.rollouts import tallies
from fleet.rollouts.executions import NO_MORE_ATTEMPTS
from fleet.rollouts.plans import RolloutPlan
from fleet.rollouts.states import OCCUPYING, OPEN, RolloutState, Subject
from fleet.rollouts.steps import Decision, GiveRelease, Join
from fleet.storage.release_tables import Release
from fleet.storage.rollout_tables import RolloutExecution, RolloutRecord, RolloutTransition
from protocol.messages.kinds import InstallStatus
from protocol.names import DeviceId

__all__ = ["let_go", "occupied_devices", "supersede", "take_back", "taken_elsewhere"]

_AT_ONCE: Final = 500

_MAY_GIVE: Final = frozenset(
    {
        RolloutState.DRAFT,
        RolloutState.WAITING_FOR_APPROVAL,
        RolloutState.READY,
        RolloutState.RUNNING,
        RolloutState.PAUSED,
        RolloutState.COMPLETED,
    }
)
"""Rollouts in these states give their release to somebody, or might do so later."""


def occupied_devices(
    session: Session, rollout_id: str, devices: Collection[DeviceId] | None = None
) -> dict[DeviceId, str]:
    """Devices (None: all of `rollout_id`) that another unfinished rollout has, with that rollout's id."""
    if devices is None:
        mine = select(RolloutExecution.device).where(RolloutExecution.rollout == rollout_id)
        return _occupied(session, rollout_id, RolloutExecution.device.in_(mine))
    names, found = list(devices), dict[DeviceId, str]()
    for first in range(0, len(names), _AT_ONCE):
        some = names[first : first + _AT_ONCE]
        found |= _occupied(session, rollout_id, RolloutExecution.device.in_(some))
    return found


def _occupied(session: Session, rollout_id: str, are_asked: ColumnElement[bool]) -> dict[DeviceId, str]:
    rows = session.execute(
        select(RolloutExecution.device, RolloutExecution.rollout)
        .join(RolloutRecord, RolloutRecord.id == RolloutExecution.rollout)
        .where(RolloutRecord.state.in_(list(OCCUPYING)), RolloutRecord.id != rollout_id, are_asked)
        .order_by(RolloutExecution.device)
    )
    return {DeviceId(device): other for device, other in rows}


def taken_elsewhere(session: Session, decision: Decision) -> bool:
    """Whether `decision` takes in, or gives to, a device that another unfinished rollout has by now; in the transaction that stores it.

    A rollout under way has its devices to itself. One that takes in others, or is over and still gives (a retry, who was in
    quarantine), may have decided just before another one started on them.
    """
    was_over = decision.rollout.state is RolloutState.COMPLETED
    devices = {
        command.device
        for command in decision.commands
        if isinstance(command, Join) or (was_over and isinstance(command, GiveRelease))
    }
    return bool(devices) and bool(occupied_devices(session, decision.rollout.id, devices))


def take_back(session: Session, release: Release, reason: str, now: float, *, by: str = "") -> None:
    """Mark a release as harmful: another rollout of it needs `force`. Its bytes stay for devices that have it.

    Every other rollout of it but `by` stops giving it, and says so: one that runs is paused, for a person to roll it back or cancel it;
    one that is completed tries it on nobody again, though a device may still fail late and have a retry by its plan.
    """
    release.withdrawn_at, release.withdrawn_reason = now, reason
    name = f"{release.family}/{release.version}"
    others = session.scalars(
        select(RolloutRecord).where(
            RolloutRecord.release == name, RolloutRecord.state.in_(list(_MAY_GIVE)), RolloutRecord.id != by
        )
    ).all()
    whose = f"{name} was withdrawn{f' by rollout {by}' if by else ''}: {reason}"
    lines = []
    for record in others:
        line = {"rollout": record.id, "at": now, "reason": whose, "actor": "fleet"}
        lines.append(line | {"subject": Subject.RELEASE, "was": None, "state": "WITHDRAWN"})
        if record.state == RolloutState.RUNNING:
            lines.append(
                line | {"subject": Subject.ROLLOUT, "was": record.state, "state": RolloutState.PAUSED}
            )
            record.state, record.since = RolloutState.PAUSED, now
    if lines:
        session.execute(insert(RolloutTransition), lines)
    completed = [record.id for record in others if record.state == RolloutState.COMPLETED]
    session.execute(
        update(RolloutExecution)
        .where(RolloutExecution.rollout.in_(completed))
        .values(allowed=NO_MORE_ATTEMPTS)
        .execution_options(synchronize_session=False)
    )
    _count_anew(session, [record.id for record in others])


def let_go(session: Session, device: DeviceId, keeper: str) -> None:
    """No rollout has anything to say of `device` any more: `keeper` (at most 64 characters) says who or what has it now."""
    theirs = RolloutExecution.device == device
    session.execute(update(RolloutExecution).where(theirs).values(superseded_by=keeper[:64]))
    _count_anew(session, session.scalars(select(RolloutExecution.rollout).where(theirs)).all())


def supersede(session: Session, rollout_id: str, devices: set[DeviceId], now: float) -> None:
    """Take devices that this rollout has now out of every other's hands: those no longer wait for them, nor send them back.

    Nor does a completed one give them its release later that has not yet: this one is the later.
    """
    if not devices:
        return
    mine = select(RolloutExecution.device).where(
        RolloutExecution.rollout == rollout_id, RolloutExecution.given_at == now
    )
    completed = select(RolloutRecord.id).where(RolloutRecord.state == RolloutState.COMPLETED)
    theirs = (
        (RolloutExecution.rollout != rollout_id)
        & RolloutExecution.device.in_(mine)
        & (RolloutExecution.given_at.is_not(None) | RolloutExecution.rollout.in_(completed))
        & RolloutExecution.superseded_by.is_(None)
    )
    others = list(session.scalars(select(RolloutExecution.rollout).where(theirs).distinct()))
    if not others:
        return
    session.execute(
        update(RolloutExecution)
        .where(theirs, RolloutExecution.state.in_(list(OPEN)))
        .values(state=InstallStatus.CANCELED, since=now, reason=f"superseded by rollout {rollout_id}")
        .execution_options(synchronize_session=False)
    )
    session.execute(
        update(RolloutExecution)
        .where(theirs)
        .values(superseded_by=rollout_id)
        .execution_options(synchronize_session=False)
    )
    _count_anew(session, others)


def _count_anew(session: Session, rollouts: Sequence[str]) -> None:
    """Executions of `rollouts` were changed by another word than their own: whoever holds these reads them anew."""
    for record in session.scalars(select(RolloutRecord).where(RolloutRecord.id.in_(rollouts))).all():
        plan = msgspec.convert(record.plan, RolloutPlan)
        record.version += 1
        record.tallies = tallies.pack(tallies.count_stored(session, plan, record.id))
