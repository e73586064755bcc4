"""Rollouts read from the database, as the API shows them (`fleet.views.rollouts`)."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fleet.errors import NotFoundError
from fleet.rollouts.evidence import explain, is_judged_by_limits
from fleet.rollouts.executions import Index
from fleet.rollouts.plans import GroupPlan
from fleet.rollouts.progress import Group, Observations
from fleet.rollouts.records import StoredRecords
from fleet.rollouts.reports import read_reports
from fleet.rollouts.states import FAILURES, RolloutState, Subject
from fleet.rollouts.store import find_rollout, find_tallied
from fleet.rollouts.tallies import in_group, tallies_of
from fleet.rollouts.timeline import latest_lines, read_timeline
from fleet.rollouts.verbs import valid_verbs
from fleet.storage.event_tables import InstallRecord
from fleet.storage.rollout_tables import RolloutExecution, RolloutGroup, RolloutLook, RolloutRecord
from fleet.views.rollouts import (
    ExecutionView,
    GroupView,
    LookView,
    RolloutSummary,
    RolloutView,
    ShadowView,
    TimelineLine,
)
from protocol.messages.kinds import InstallStatus

__all__ = ["list_rollouts", "view_executions", "view_rollout", "view_timeline"]


def list_rollouts(
    session: Session,
    *,
    state: RolloutState | None,
    families: Collection[str] | None,
    before: tuple[float, str] | None,
    limit: int,
) -> list[RolloutSummary]:
    """At most `limit` rollouts (of `families`; None: of all), newest first, that are older than `before`: when one was created, and its id."""
    query = (
        select(RolloutRecord).order_by(RolloutRecord.created_at.desc(), RolloutRecord.id.desc()).limit(limit)
    )
    if state is not None:
        query = query.where(RolloutRecord.state == state)
    if families is not None:
        query = query.where(RolloutRecord.family.in_(sorted(families)))
    if before is not None:
        at, last = before
        query = query.where(
            (RolloutRecord.created_at < at) | ((RolloutRecord.created_at == at) & (RolloutRecord.id < last))
        )
    records = list(session.scalars(query))
    return [_summarise(record, tallies_of(session, record)) for record in records]


def _summarise(record: RolloutRecord, index: Index) -> RolloutSummary:
    return RolloutSummary(
        id=record.id,
        name=record.name,
        family=record.family,
        release=record.release,
        state=RolloutState(record.state),
        since=record.since,
        created_at=record.created_at,
        created_by=record.created_by,
        author=record.author,
        needs_approval=record.needs_approval,
        counts=in_group(index, None),
    )


def view_rollout(session: Session, rollout_id: str, now: float) -> RolloutView:
    """One rollout at Unix second `now`, with its timeline; raises NotFoundError."""
    rollout, record = find_tallied(session, rollout_id)
    if is_judged_by_limits(rollout):  # in whose words devices are named
        rollout, record = find_rollout(session, rollout_id)
    looks = _read_looks(session, rollout_id)
    groups = [
        _view_group(group, plan, in_group(rollout.index, group.number), looks.get(group.number, []))
        for group, plan in zip(rollout.groups, rollout.plan.drawn_groups, strict=True)
    ]
    timeline = latest_lines(session, rollout_id)
    summary = _summarise(record, rollout.index)
    known = Observations(records=StoredRecords(session, rollout, now))
    return RolloutView(
        **dict(summary),
        plan=msgspec.to_builtins(rollout.plan),
        groups=groups,
        verbs=valid_verbs(rollout.state, is_dynamic=rollout.plan.dynamic),
        reason=next((line.reason for line in reversed(timeline) if line.subject == "rollout"), ""),
        waiting_for=explain(rollout, known, now),
        timeline=[TimelineLine.model_validate(line) for line in timeline],
    )


def _read_looks(session: Session, rollout_id: str) -> dict[int, list[LookView]]:
    """What the gates saw, by group."""
    looks: dict[int, list[LookView]] = {}
    for row in session.scalars(
        select(RolloutLook)
        .where(RolloutLook.rollout == rollout_id)
        .order_by(RolloutLook.group, RolloutLook.number)
    ):
        looks.setdefault(row.group, []).append(
            LookView.model_validate(row.answer | {"number": row.number, "at": row.at})
        )
    return looks


def _view_group(group: Group, plan: GroupPlan, counts: dict[str, int], looks: list[LookView]) -> GroupView:
    """A group as it stands: `plan` says what it was meant to reach, `counts` how far its devices are."""
    return GroupView(
        number=group.number,
        name=group.name,
        percentage=plan.percentage,
        count=plan.count,
        soak_s=group.soak_s,
        state=group.state,
        since=group.since,
        reason=group.reason,
        devices=sum(counts.values()),
        succeeded=counts.get(InstallStatus.SUCCEEDED, 0),
        failed=sum(counts.get(state, 0) for state in FAILURES),
        counts=counts,
        looks=looks,
    )


def view_executions(
    session: Session, rollout_id: str, number: int, *, after: str, limit: int
) -> list[ExecutionView]:
    """At most `limit` executions of a group, by device, of devices whose name comes after `after`.

    Raises:
        NotFoundError: there is no such rollout, or no such group in it.
    """
    groups = _count_groups(session, rollout_id)
    if not 0 <= number < groups:
        raise NotFoundError(f"rollout {rollout_id} has groups 0 to {groups - 1}, no group {number}")
    page = session.scalars(
        select(RolloutExecution)
        .where(
            RolloutExecution.rollout == rollout_id,
            RolloutExecution.group == number,
            RolloutExecution.device > after,
        )
        .order_by(RolloutExecution.device)
        .limit(limit)
    ).all()
    names = {row.device: f"{rollout_id}:{row.device}:{row.attempt}" for row in page}  # as Rollout.given_id
    words = {
        (row.device, row.execution): row
        for row, _ in read_reports(
            session, select(InstallRecord).where(InstallRecord.execution.in_(names.values()))
        )
    }
    views = []
    for execution in page:
        name = names[execution.device]
        word = words.get((execution.device, name))
        views.append(
            ExecutionView(
                device=execution.device,
                group=execution.group,
                execution=name,
                state=execution.state,
                reason=execution.reason,
                since=execution.since,
                attempt=execution.attempt,
                given_at=execution.given_at,
                previous=execution.previous,
                step=word.step if word else None,
                progress=word.progress if word else None,
                shadow=ShadowView(**word.shadow) if word and word.shadow else None,
                returned_at=execution.returned_at,
                restored_at=execution.restored_at,
            )
        )
    return views


def view_timeline(
    session: Session, rollout_id: str, *, after: int, limit: int, subject: Subject | None
) -> list[TimelineLine]:
    """At most `limit` lines of a rollout that follow line `after` (0: from its first), of one `subject` or of all.

    Raises:
        NotFoundError: there is no such rollout.
    """
    _count_groups(session, rollout_id)
    subjects = tuple(Subject) if subject is None else (subject,)
    lines = read_timeline(session, rollout_id, after=after, limit=limit, subjects=subjects)
    return [TimelineLine.model_validate(line) for line in lines]


def _count_groups(session: Session, rollout_id: str) -> int:
    """How many groups a rollout has; raises NotFoundError where there is no such rollout, for each has one."""
    groups = session.scalar(
        select(func.count()).select_from(RolloutGroup).where(RolloutGroup.rollout == rollout_id)
    )
    if not groups:
        raise NotFoundError(f"there is no rollout {rollout_id[:80]!r}; list them with GET /v1/rollouts")
    return groups
