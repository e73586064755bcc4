"""What the API may ask of rollouts: create one, withdraw a release. Each is one transaction; what is said to a rollout is in `saying`.

Called on worker threads. Desired states are announced after the transaction has committed, never inside it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec
from msgspec.structs import replace
from sqlalchemy import select
from sqlalchemy.orm import Session

from fleet import audit
from fleet.desired import DesiredPublisher
from fleet.errors import ConflictError
from fleet.gates.plan import OnNotSeen
from fleet.releases import find_release
from fleet.rollouts.kept_past import check_past_is_kept
from fleet.rollouts.others import take_back
from fleet.rollouts.plans import RolloutPlan
from fleet.rollouts.progress import Execution, Group, Rollout
from fleet.rollouts.saying import Said, decide_said, is_approved_family, store_said
from fleet.rollouts.states import OCCUPYING, RolloutState, Verb
from fleet.rollouts.steps import Decision, MoveRollout
from fleet.rollouts.store import insert_rollout, write_decision
from fleet.rollouts.target_devices import Targets, check_releases, find_targets
from fleet.settings import RetentionSettings
from fleet.storage.base import Database
from fleet.storage.rollout_tables import RolloutRecord
from protocol.names import DeviceId
from service.errors import ForbiddenError
from service.roles import Caller, Role

__all__ = ["create_rollout", "withdraw_release"]

_UNSTARTED: Final = frozenset({RolloutState.READY, RolloutState.WAITING_FOR_APPROVAL})


def create_rollout(
    database: Database,
    plan: RolloutPlan,
    rollout_id: str,
    *,
    caller: Caller,
    now: float,
    approved_families: Collection[str] = (),
    kept: RetentionSettings | None = None,
    starts: DesiredPublisher | None = None,
) -> bool:
    """Store a rollout of `plan` for the devices that it means now; it waits for its start, or first for approval.

    It waits for approval where the plan asks for it, where the settings do for its family, and where it takes out again what
    somebody withdrew.

    Args:
        database: the fleet's.
        plan: checked already by its own type; whether it fits this fleet is checked here.
        rollout_id: draws the groups; the caller derives it from the Idempotency-Key.
        caller: who asks, for the audit log and the approval by a second person.
        now: Unix seconds.
        approved_families: whose rollouts always need approval (`Settings.approved_families`).
        kept: how long the past is kept that gates compare with; None: for good.
        starts: start it in the same transaction, and announce its first devices to this one: where it cannot start, nothing was
            created. None: it waits for its start.

    Returns:
        Whether it is new: the same plan under the same id again changes nothing.

    Raises:
        ForbiddenError: a publisher's token is for other families, or wants what was withdrawn.
        NotFoundError: the release, or the one to go back to, was never published here.
        QuerySyntaxError: the device query does not parse.
        ConflictError: the release is not listed, or was withdrawn and `force` is not set, or `rollout_id` has another plan.
        UnacceptableError: no device would get the release, or its gates look back further than is `kept`.
        ConflictError, ForbiddenError: with `starts`, as `carry_out_verb`.
    """
    told: set[DeviceId] = set()
    if caller.role is Role.PUBLISHER and plan.gates is not None:
        # a program that starts it has read nothing, and agreed to nothing
        plan = replace(plan, gates=replace(plan.gates, on_not_seen=_ask_always(plan.gates.on_not_seen)))
    with database.write() as session:
        created = _create(
            session, plan, rollout_id, caller=caller, now=now, approved_families=approved_families, kept=kept
        )
        if starts is not None and session.get_one(RolloutRecord, rollout_id).state in _UNSTARTED:
            start = Said(
                rollout_id=rollout_id,
                verb=Verb.START,
                caller=caller,
                now=now,
                approved_families=approved_families,
            )
            told, _ = store_said(session, start, decide_said(session, start, created))
    if starts is not None:
        starts.announce(told)
    return created is not None


def _ask_always(on_not_seen: OnNotSeen) -> OnNotSeen:
    return OnNotSeen.PAUSE if on_not_seen is OnNotSeen.ASK_ONCE else on_not_seen


def _create(
    session: Session,
    plan: RolloutPlan,
    rollout_id: str,
    *,
    caller: Caller,
    now: float,
    approved_families: Collection[str],
    kept: RetentionSettings | None,
) -> Rollout | None:
    """The rollout as it is stored now; None where it was there before."""
    if caller.role is Role.PUBLISHER:
        caller.check_family(plan.family)
        if plan.force:
            raise ForbiddenError(f"{caller.actor} cannot roll out what a person withdrew: leave out force")
    needs_approval = plan.require_approval or plan.force or is_approved_family(plan.family, approved_families)
    if _is_known(session, plan, rollout_id):
        return None
    check_past_is_kept(plan, kept)
    check_releases(session, plan)
    targets = find_targets(session, plan, rollout_id)
    rollout = _draft_rollout(plan, rollout_id, targets, now)
    insert_rollout(
        session, rollout, created_by=caller.actor, author=caller.person, needs_approval=needs_approval
    )
    decision = Decision(rollout, now)
    decision.do(
        MoveRollout(state=RolloutState.WAITING_FOR_APPROVAL, reason="a second person must approve it")
        if needs_approval
        else MoveRollout(state=RolloutState.READY, reason="no approval needed")
    )
    write_decision(session, decision)
    audit.record(
        session,
        at=now,
        actor=caller.actor,
        action="rollout_created",
        subject=rollout_id,
        release=plan.release,
        author=caller.person,
        needs_approval=needs_approval,
        devices=len(rollout.executions),
    )
    return decision.rollout


def _is_known(session: Session, plan: RolloutPlan, rollout_id: str) -> bool:
    record = session.get(RolloutRecord, rollout_id)
    if record is not None and msgspec.convert(record.plan, RolloutPlan) != plan:
        raise ConflictError(
            f"rollout {rollout_id} exists with another plan; send another plan under a new Idempotency-Key"
        )
    return record is not None


def _draft_rollout(plan: RolloutPlan, rollout_id: str, targets: Targets, now: float) -> Rollout:
    return Rollout(
        id=rollout_id,
        plan=plan,
        state=RolloutState.DRAFT,
        since=now,
        groups=tuple(
            Group(number=number, name=group.name or f"group-{number}", soak_s=group.soak_s, since=now)
            for number, group in enumerate(plan.drawn_groups)
        ),
        executions={
            device: Execution(device=device, group=number, since=now)
            for number, devices in enumerate(targets.groups)
            for device in sorted(devices)  # as they are read back
        },
    ).counted()


def withdraw_release(
    database: Database, family: str, version: int, *, reason: str, actor: str, now: float
) -> None:
    """Take a release back by a person's word; withdrawing it twice changes nothing.

    Raises:
        NotFoundError: there is no such release.
        ConflictError: a rollout of it is under way, whose devices would be left on it.
    """
    release = f"{family}/{version}"
    with database.write() as session:
        record = find_release(session, family, version)
        if record.withdrawn_at is not None:
            return
        rollout = session.scalar(
            select(RolloutRecord.id).where(
                RolloutRecord.release == release, RolloutRecord.state.in_(list(OCCUPYING))
            )
        )
        if rollout is not None:
            raise ConflictError(
                f"rollout {rollout} of release {release} is under way; roll it back, which withdraws the release and gives its devices back what they ran"
            )
        take_back(session, record, reason, now)
        audit.record(session, at=now, actor=actor, action="release_withdrawn", subject=release, reason=reason)
