"""What a fleet that came back from a backup must not go on with, and what it cannot know.

What is newer than the backup is gone here, and not in the world. Nothing needs to be done for counters and versions: those of
instructions and of the signed repository follow the clock, and a device that obeyed a greater one says so and is overtaken
(`fleet.desired`); events that devices were told are stored, and are not, show as gaps of their sequence. Done here:

* claims that were open are void: each may have let a device in since, and would let in another one;
* browsers are signed out, and links that sign in are void;
* a rollout that ran is paused: it may have been stopped since, for a reason;
* the audit log says it, so that its chain goes on under a line that explains the gap.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import delete, func, select, update

from fleet import audit
from fleet.rollouts.saying import carry_out_verb
from fleet.rollouts.states import RolloutState, Verb
from fleet.storage.access_tables import ClaimToken, OperatorToken, SignInCode, WebSession
from fleet.storage.base import Database
from fleet.storage.device_tables import Device
from fleet.storage.rollout_tables import RolloutRecord
from protocol.messages.kinds import Kind
from service.roles import Caller, Role

__all__ = ["Aftermath", "go_on_after"]


@dataclass(frozen=True, kw_only=True)
class Aftermath:
    """What was done: claims made void, rollouts paused; and what is there: devices, tokens that are good."""

    claims: int
    paused: tuple[str, ...]
    devices: int
    tokens: tuple[str, ...]


class _NobodyHears:
    """There is no broker now; every word is published when the fleet next connects."""

    def announce(self, devices: Iterable[str], kind: Kind = Kind.DESIRED) -> None:
        pass


def go_on_after(database: Database, *, tenant: str, made_at: float, now: float) -> Aftermath:
    """Make a restored database fit to serve; doing it again changes nothing more."""
    with database.read() as session:
        running = session.scalars(
            select(RolloutRecord.id)
            .where(RolloutRecord.state == RolloutState.RUNNING)
            .order_by(RolloutRecord.id)
        ).all()
    who = Caller(name=audit.person_on_server(), role=Role.ADMIN)
    for rollout in running:
        carry_out_verb(database, _NobodyHears(), rollout, Verb.PAUSE, caller=who, now=now)
    with database.write() as session:
        claims = session.execute(
            update(ClaimToken)
            .where(ClaimToken.used_at.is_(None), ClaimToken.revoked_at.is_(None))
            .values(revoked_at=now)
        ).rowcount  # type: ignore[attr-defined] # of a CursorResult, which an update gives
        session.execute(delete(SignInCode))
        session.execute(delete(WebSession))
        devices = session.scalar(select(func.count()).select_from(Device)) or 0
        tokens = session.scalars(
            select(OperatorToken.name).where(OperatorToken.revoked_at.is_(None)).order_by(OperatorToken.name)
        ).all()
        audit.record(
            session,
            at=now,
            actor=audit.person_on_server(),
            action="backup_restored",
            subject=tenant,
            made_at=made_at,
            claims_revoked=claims,
            rollouts_paused=list(running),
        )
    return Aftermath(claims=claims, paused=tuple(running), devices=devices, tokens=tuple(tokens))
