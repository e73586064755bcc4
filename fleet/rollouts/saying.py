"""What a person, or the aggregator, says to a rollout: who may, what follows, and its storing.

What follows is decided without the write lock, for it reads the whole rollout, and stored if nobody has written the rollout
meanwhile. Called on worker threads. Desired states are announced after the transaction has committed, never inside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from sqlalchemy.orm import Session

from fleet import audit
from fleet.desired import DesiredPublisher
from fleet.errors import ConflictError, UnacceptableError
from fleet.release_lists import check_listed
from fleet.releases import find_release
from fleet.rollouts.observations import observe
from fleet.rollouts.others import occupied_devices, taken_elsewhere
from fleet.rollouts.progress import Rollout
from fleet.rollouts.sham import reactivate_controls
from fleet.rollouts.states import RolloutState, Verb
from fleet.rollouts.steps import Decision
from fleet.rollouts.store import find_rollout, is_unchanged, write_decision
from fleet.rollouts.target_devices import check_not_withdrawn, check_releases
from fleet.rollouts.verbs import carry_out
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
    "Answer",
    "Said",
    "carry_out_verb",
    "check_may_say",
    "decide_said",
    "is_approved_family",
    "standing",
    "store_said",
]

EVERY_FAMILY: Final = "*"

ATTEMPTS: Final = 3
"""How often it is decided without the write lock; a rollout that is written all the time is then held still."""


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
            that needs no approval; (rollback) the release to go back to is of a family that needs approval, and was not approved.
        NotFoundError: there is no such rollout.
        ConflictError: its state does not allow the verb, or (start, and whatever moves devices of a completed one) another
            unfinished rollout has its devices, or (start, resume, retry-failed, trigger-next-group) its release was withdrawn since the
            rollout was created, or
            (rollback) the release to go back to was withdrawn.
        UnacceptableError: `rollback_to`, the release that everybody shall go back to, is of another family.
        ChangedMeanwhileError: it does not stand as in the view whose ETag is `if_match`.
    """
    check_may_say(caller, verb)
    said = Said(
        rollout_id=rollout_id,
        verb=verb,
        caller=caller,
        now=now,
        approved_families=approved_families,
        if_match=if_match,
        rollback_to=rollback_to,
    )
    for _ in range(ATTEMPTS):
        with database.read() as session:
            answer = decide_said(session, said)
        with database.write() as session:
            if is_unchanged(session, rollout_id, answer.version):
                devices, commanded = store_said(session, said, answer)
                break
    else:  # somebody else writes it all the time: nobody does while we hold the lock
        with database.write() as session:
            devices, commanded = store_said(session, said, decide_said(session, said))
    publisher.announce(devices)
    if commanded:
        publisher.announce(commanded, Kind.COMMANDS)


@dataclass(frozen=True, kw_only=True)
class Said:
    """Who says what to which rollout; the fields are the arguments of `carry_out_verb`."""

    rollout_id: str
    verb: Verb
    caller: Caller
    now: float
    approved_families: Collection[str]
    if_match: str | None = None
    rollback_to: str | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What follows from it for a rollout as it was read, and its version then."""

    decision: Decision
    was: Rollout
    version: int


def decide_said(session: Session, said: Said, known: Rollout | None = None) -> Answer:
    """What follows; it reads the whole rollout, so who can does it without the write lock. Raises as `carry_out_verb`.

    `known`: the rollout, where it was stored in this very transaction: of a large one, reading it takes seconds.
    """
    verb, caller = said.verb, said.caller
    if known is None:
        rollout, record = find_rollout(session, said.rollout_id)
    else:
        rollout, record = known, session.get_one(RolloutRecord, known.id)
    check_version(said.if_match, standing(rollout), f"rollout {rollout.id}")
    if caller.role is Role.PUBLISHER:
        caller.check_family(record.family)
    if caller.role is Role.PUBLISHER and (record.created_by != caller.actor or record.needs_approval):
        raise ForbiddenError(
            f"{caller.actor} cannot start rollout {rollout.id}: a publisher starts only what it created and nobody must approve"
        )
    if (
        verb is Verb.START
        and not record.needs_approval
        and is_approved_family(record.family, said.approved_families)
    ):
        raise ConflictError(
            f"rollouts of family {record.family} need approval since this one was created; create it anew"
        )
    _check_place(session, said, rollout)
    observations = observe(session, rollout, said.now)
    decision = carry_out(
        rollout,
        verb,
        actor=caller.actor,
        observations=observations,
        now=said.now,
        rollback_to=said.rollback_to,
    )
    if verb is Verb.APPROVE and (caller.person == record.author or caller.actor == record.created_by):
        raise ForbiddenError(
            f"rollout {rollout.id} was created by {record.created_by}, for whom {record.author} answers:"
            " a second person must approve it, and another token of the same one is not a second"
        )
    return Answer(decision=decision, was=rollout, version=record.version)


def _check_place(session: Session, said: Said, rollout: Rollout) -> None:
    """Neither the releases nor the devices of `rollout` are somebody else's by now."""
    if said.verb in {Verb.START, Verb.RETRY_FAILED}:
        check_releases(session, rollout.plan)
    if said.verb in {Verb.RESUME, Verb.TRIGGER_NEXT_GROUP}:
        check_not_withdrawn(session, rollout.plan)
    if said.verb is Verb.START or rollout.state is RolloutState.COMPLETED:
        _check_devices_are_free(session, rollout.id)
    if said.rollback_to is not None:
        _check_way_back(session, rollout, said, said.rollback_to)


def store_said(session: Session, said: Said, answer: Answer) -> tuple[set[DeviceId], list[DeviceId]]:
    """Store what follows, of a rollout that is as it was read. Raises as `carry_out_verb`.

    Returns:
        Whose desired state, and whose commands are to be announced.
    """
    _check_place(session, said, answer.was)
    if taken_elsewhere(session, answer.decision):
        raise ConflictError(
            f"another rollout has begun to give its release to devices of rollout {said.rollout_id} at this moment: say {said.verb}"
            " again when that has ended"
        )
    devices = write_decision(session, answer.decision)
    commanded = reactivate_controls(session, answer.decision)
    if said.verb is Verb.APPROVE:
        _approve(session, answer.was, said.caller.actor, said.now)
    audit.record(
        session,
        at=said.now,
        actor=said.caller.actor,
        action="rollout_" + said.verb.value.replace("-", "_"),
        subject=said.rollout_id,
        devices=len(devices),
    )
    return devices, commanded


class _Moving(Protocol):
    """What is in a state since some time: as it is decided about, or as it is shown."""

    @property
    def state(self) -> str: ...
    @property
    def since(self) -> float: ...


class _Standing(_Moving, Protocol):
    @property
    def groups(self) -> Sequence[_Moving]: ...


def standing(rollout: _Standing) -> str:
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


def _check_way_back(session: Session, rollout: Rollout, said: Said, release: str) -> None:
    """`release` is one that everybody may go back to by one person's word: where two must agree, they have agreed on it before."""
    if said.verb is not Verb.ROLLBACK:
        raise UnacceptableError(
            f"a release to go back to ({release[:80]!r}) goes with rollback, not with {said.verb}"
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
    is_agreed = record.approved_at is not None or release == rollout.plan.rollback_to
    if is_approved_family(family, said.approved_families) and not is_agreed:
        raise ForbiddenError(
            f"releases of family {family} need approval, and nobody approved {release}: name one that was approved, or none,"
            " and everybody goes back to what they ran"
        )


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


def is_approved_family(family: str, approved_families: Collection[str]) -> bool:
    """Whether rollouts of `family` always need approval, as the settings name it, or every family."""
    return family in approved_families or EVERY_FAMILY in approved_families


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
