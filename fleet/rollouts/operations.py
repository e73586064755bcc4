"""What the API may ask of rollouts: preview, create, carry out a verb, withdraw a release. Each is one transaction.

Called on worker threads. Desired states are announced after the transaction has committed, never inside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Final

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from fleet import audit
from fleet.desired import DesiredPublisher
from fleet.errors import ConflictError, UnacceptableError
from fleet.release_lists import check_listed
from fleet.releases import find_release
from fleet.rollouts.observations import observe
from fleet.rollouts.plans import RolloutPlan
from fleet.rollouts.progress import Execution, Group, Rollout
from fleet.rollouts.sham import reactivate_controls
from fleet.rollouts.states import OCCUPYING, RolloutState
from fleet.rollouts.steps import Decision, MoveRollout
from fleet.rollouts.store import (
    find_rollout,
    insert_rollout,
    occupied_devices,
    write_decision,
)
from fleet.rollouts.target_devices import Targets, check_releases, find_targets
from fleet.rollouts.verbs import Verb, carry_out
from fleet.rollouts.views import RolloutView
from fleet.storage.base import Database
from fleet.storage.rollout_tables import RolloutRecord
from protocol.errors import TopicError
from protocol.messages.kinds import Kind
from protocol.names import DeviceId, split_release_id
from service.errors import ForbiddenError
from service.etags import check_version
from service.roles import Caller, Role

__all__ = [
    "EVERY_FAMILY",
    "carry_out_verb",
    "check_may_say",
    "create_rollout",
    "standing",
    "withdraw_release",
]

EVERY_FAMILY: Final = "*"

_UNSTARTED: Final = frozenset({RolloutState.READY, RolloutState.WAITING_FOR_APPROVAL})


def create_rollout(
    database: Database,
    plan: RolloutPlan,
    rollout_id: str,
    *,
    caller: Caller,
    now: float,
    approved_families: Collection[str] = (),
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
        starts: start it in the same transaction, and announce its first devices to this one: where it cannot start, nothing was
            created. None: it waits for its start.

    Returns:
        Whether it is new: the same plan under the same id again changes nothing.

    Raises:
        ForbiddenError: a publisher's token is for other families, or wants what was withdrawn.
        NotFoundError: the release, or the one to go back to, was never published here.
        QuerySyntaxError: the device query does not parse.
        ConflictError: the release is not listed, or was withdrawn and `force` is not set, or `rollout_id` has another plan.
        UnacceptableError: no device would get the release.
        ConflictError, ForbiddenError: with `starts`, as `carry_out_verb`.
    """
    told: set[DeviceId] = set()
    with database.write() as session:
        is_new = _create(
            session, plan, rollout_id, caller=caller, now=now, approved_families=approved_families
        )
        if starts is not None and session.get_one(RolloutRecord, rollout_id).state in _UNSTARTED:
            told, _ = _say(
                session, rollout_id, Verb.START, caller=caller, now=now, approved_families=approved_families
            )
    if starts is not None:
        starts.announce(told)
    return is_new


def _create(
    session: Session,
    plan: RolloutPlan,
    rollout_id: str,
    *,
    caller: Caller,
    now: float,
    approved_families: Collection[str],
) -> bool:
    if caller.role is Role.PUBLISHER:
        caller.check_family(plan.family)
        if plan.force:
            raise ForbiddenError(f"{caller.actor} cannot roll out what a person withdrew: leave out force")
    needs_approval = (
        plan.require_approval or plan.force or _is_approved_family(plan.family, approved_families)
    )
    if _is_known(session, plan, rollout_id):
        return False
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
    return True


def _is_approved_family(family: str, approved_families: Collection[str]) -> bool:
    return family in approved_families or EVERY_FAMILY in approved_families


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
            for device in devices
        },
    ).counted()


def carry_out_verb(
    database: Database,
    publisher: DesiredPublisher,
    rollout_id: str,
    verb: Verb,
    *,
    caller: Caller,
    now: float,
    approved_families: Collection[str] = (),
    if_match: str | None = None,
    rollback_to: str | None = None,
) -> None:
    """Do what `caller` asks of a rollout, and all that follows at once.

    A person who approves a rollout approves its release as well: devices move their anchor by it (docs/decisions/0028).
    The devices whose desired state changed are announced after the commit, so a device can only be early or late,
    never wrong.

    Raises:
        ForbiddenError: a program wants to approve, or the author; a publisher wants anything but to start a rollout of its own
            that needs no approval.
        NotFoundError: there is no such rollout.
        ConflictError: its state does not allow the verb, or (start, and whatever moves devices of a completed one) another
            unfinished rollout has its devices, or (start) its release was withdrawn since the rollout was created, or
            (rollback) the release to go back to was withdrawn.
        UnacceptableError: `rollback_to`, the release that everybody shall go back to, is of another family.
        ChangedMeanwhileError: it does not stand as in the view whose ETag is `if_match`.
    """
    check_may_say(caller, verb)
    with database.write() as session:
        devices, commanded = _say(
            session,
            rollout_id,
            verb,
            caller=caller,
            now=now,
            approved_families=approved_families,
            if_match=if_match,
            rollback_to=rollback_to,
        )
    publisher.announce(devices)
    if commanded:
        publisher.announce(commanded, Kind.COMMANDS)


def _say(
    session: Session,
    rollout_id: str,
    verb: Verb,
    *,
    caller: Caller,
    now: float,
    approved_families: Collection[str],
    if_match: str | None = None,
    rollback_to: str | None = None,
) -> tuple[set[DeviceId], list[DeviceId]]:
    rollout, record = find_rollout(session, rollout_id)
    check_version(if_match, standing(rollout), f"rollout {rollout_id}")
    if caller.role is Role.PUBLISHER:
        caller.check_family(record.family)
    if caller.role is Role.PUBLISHER and (record.created_by != caller.actor or record.needs_approval):
        raise ForbiddenError(
            f"{caller.actor} cannot start rollout {rollout_id}: a publisher starts only what it created and nobody must approve"
        )
    if verb is Verb.START:
        if not record.needs_approval and _is_approved_family(record.family, approved_families):
            raise ConflictError(
                f"rollouts of family {record.family} need approval since this one was created; create it anew"
            )
        check_releases(session, rollout.plan)
    if verb is Verb.START or rollout.state is RolloutState.COMPLETED:
        _check_devices_are_free(session, rollout_id)
    if rollback_to is not None:
        _check_way_back(session, rollout, verb, rollback_to)
    observations = observe(session, rollout, now)
    decision = carry_out(
        rollout, verb, actor=caller.actor, observations=observations, now=now, rollback_to=rollback_to
    )
    if verb is Verb.APPROVE and (caller.person == record.author or caller.actor == record.created_by):
        raise ForbiddenError(
            f"rollout {rollout_id} was created by {record.created_by}, for whom {record.author} answers:"
            " a second person must approve it, and another token of the same one is not a second"
        )
    devices = write_decision(session, decision)
    commanded = reactivate_controls(session, decision)
    if verb is Verb.APPROVE:
        _approve(session, rollout, caller.actor, now)
    audit.record(
        session,
        at=now,
        actor=caller.actor,
        action="rollout_" + verb.value.replace("-", "_"),
        subject=rollout_id,
        devices=len(devices),
    )
    return devices, commanded


def standing(rollout: Rollout | RolloutView) -> str:
    """Where a rollout and its groups stand, in a word: another one as soon as one of them enters another state.

    What single devices do in between is not in it: nobody decides otherwise for that.
    """
    moved = [(str(one.state), one.since) for one in (rollout, *rollout.groups)]
    return hashlib.sha256(repr(moved).encode()).hexdigest()[:16]


def check_may_say(caller: Caller, verb: Verb) -> None:
    """Raise ForbiddenError where `caller` may say `verb` to no rollout at all."""
    if verb is Verb.APPROVE:
        caller.check_person("approve a rollout")
    if caller.role is Role.PUBLISHER and verb is not Verb.START:
        raise ForbiddenError(f"{caller.actor} cannot {verb} a rollout: an operator can")


def _check_way_back(session: Session, rollout: Rollout, verb: Verb, release: str) -> None:
    """`release` is one that everybody may go back to by a person's word."""
    if verb is not Verb.ROLLBACK:
        raise UnacceptableError(
            f"a release to go back to ({release[:80]!r}) goes with rollback, not with {verb}"
        )
    try:
        family, version = split_release_id(release)
    except TopicError as error:
        raise UnacceptableError(str(error)) from None
    if family != rollout.plan.family:
        raise UnacceptableError(f"{release!r} is not of family {rollout.plan.family!r}")
    record = find_release(session, family, version)
    if record.withdrawn_at is not None:
        raise ConflictError(
            f"release {release} was withdrawn ({record.withdrawn_reason}); name another to go back to"
        )
    check_listed(record)


def _approve(session: Session, rollout: Rollout, actor: str, now: float) -> None:
    release = find_release(session, *split_release_id(rollout.plan.release))
    if release.approved_at is None:
        release.approved_at, release.approved_by = now, actor
    audit.record(
        session,
        at=now,
        actor=actor,
        action="release_approved",
        subject=rollout.plan.release,
        rollout=rollout.id,
    )  # fmt: skip - one line of fields


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
        record.withdrawn_at, record.withdrawn_reason = now, reason
        audit.record(session, at=now, actor=actor, action="release_withdrawn", subject=release, reason=reason)


def _check_devices_are_free(session: Session, rollout_id: str) -> None:
    """Two unfinished rollouts never share a device: nobody could say which of them a report answers."""
    occupied = occupied_devices(session, rollout_id)
    if occupied:
        others = ", ".join(sorted(set(occupied.values())))
        device = min(occupied)
        raise ConflictError(
            f"{len(occupied)} devices of rollout {rollout_id}, among them {device}, are in the unfinished rollout {others};"
            " start this one when that has ended, or cancel that one"
        )
