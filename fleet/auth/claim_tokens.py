"""Claim tokens: what lets one device in, once, and says what it is: its family, site and labels.

Stored as SHA-256 only. A claim is known by its id, the start of that, and by the name of the batch it was made in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

from msgspec import Meta, Struct, field
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from fleet.errors import NotFoundError, UnacceptableError
from fleet.rollouts.windows import check_zone_label
from fleet.storage.access_tables import ClaimToken
from fleet.storage.release_tables import Release
from protocol.labels import Label, Labels
from protocol.messages.kinds import Kind
from protocol.names import check_name
from protocol.topics import device_topic
from service.errors import UnauthenticatedError
from service.tokens import new_secret, token_digest

__all__ = [
    "PREFIX",
    "ClaimTerms",
    "check_family",
    "check_open",
    "claim_id",
    "create_claims",
    "find_claim",
    "revoke_claims",
    "use_claim",
]

PREFIX: Final = "fc_"
ID_DIGITS: Final = 12
"""Hex digits of a claim's id: 48 bits of the digest of 256 random ones say nothing of the token."""

MAX_AT_ONCE: Final = 10_000


class ClaimTerms(Struct, frozen=True, kw_only=True):
    """What a claim makes of its device; `name` is that of the batch. `for_device`: which one alone may use it."""

    name: str
    family: str
    site: Label = ""
    labels: Labels = field(default_factory=dict)
    for_device: str | None = None
    needs_approval: bool = False
    lifetime_s: Annotated[float, Meta(gt=0)] = 7 * 86400.0


def create_claims(
    session: Session, terms: ClaimTerms, count: int, *, now: float, random_bytes: Callable[[int], bytes]
) -> list[str]:
    """Store `count` claims, each for one device, and return their tokens, which nobody can recover later.

    Raises:
        TopicError: a name is none.
        UnacceptableError: `count` is not sensible, a label is called ``site``, or ``time_zone`` is none.
    """
    check_name(terms.name, "claim name")
    check_name(terms.family, "family")
    if terms.for_device is not None:
        device_topic("tenant", terms.for_device, Kind.BIRTH)  # must be usable as a topic level
    if not 1 <= count <= (MAX_AT_ONCE if terms.for_device is None else 1):
        raise UnacceptableError(
            f"{count} claims are asked for; valid is 1 to {MAX_AT_ONCE}, and 1 where the device is named"
        )
    check_zone_label(terms.labels)
    if "site" in terms.labels:
        raise UnacceptableError("the site is no label of a claim; give it as the site")
    tokens = [new_secret(random_bytes, prefix=PREFIX) for _ in range(count)]
    session.add_all(
        ClaimToken(
            sha256=token_digest(token),
            name=terms.name,
            family=terms.family,
            site=terms.site,
            labels=terms.labels,
            for_device=terms.for_device,
            needs_approval=terms.needs_approval,
            created_at=now,
            expires_at=now + terms.lifetime_s,
        )
        for token in tokens
    )
    return tokens


def check_family(session: Session, family: str) -> None:
    """Raise UnacceptableError where no release has `family`: a device of it would wait for ever, most often for a slip of the pen."""
    known = session.scalars(select(Release.family).distinct().order_by(Release.family)).all()
    if family not in known:
        raise UnacceptableError(
            f"no release is of family {family!r}; there are {', '.join(known) or 'none'}. "
            "Publish one first, or say that it will come (--unreleased)"
        )


def claim_id(row: ClaimToken) -> str:
    """How people and the audit log name a claim."""
    return row.sha256[:ID_DIGITS]


def find_claim(session: Session, token: str) -> ClaimToken:
    """The row of a claim of ours, open or not; raises UnauthenticatedError."""
    row = session.get(ClaimToken, token_digest(token))
    if row is None:
        raise UnauthenticatedError("this claim token is unknown; make one with: fedge-fleet claims create")
    return row


def check_open(row: ClaimToken, now: float) -> None:
    """Raise UnauthenticatedError where a claim lets nobody in any more."""
    if row.revoked_at is not None:
        over = "was revoked"
    elif row.used_at is not None:
        over = "was used by another device"
    elif now > row.expires_at:
        over = "has expired"
    else:
        return
    raise UnauthenticatedError(f"claim {claim_id(row)} {over}; make another with: fedge-fleet claims create")


def use_claim(row: ClaimToken, device: str, now: float) -> None:
    """Spend a claim that is open; raises UnauthenticatedError. Within a write no other enrolment comes between."""
    check_open(row, now)
    row.used_at, row.used_by = now, device


def revoke_claims(session: Session, which: str, now: float) -> list[ClaimToken]:
    """Make claims void that are open: the one of an id, or all of a batch; devices that they let in stay.

    Returns:
        Every claim that `which` names, also those that were over before.

    Raises:
        NotFoundError: there is none.
    """
    is_named = or_(ClaimToken.name == which, ClaimToken.sha256.startswith(which, autoescape=True))
    rows = [
        row
        for row in session.scalars(select(ClaimToken).where(is_named).order_by(ClaimToken.sha256))
        if which in {row.name, claim_id(row)}
    ]
    if not rows:
        raise NotFoundError(f"there is no claim {which[:80]!r}; see: fedge-fleet claims list")
    for row in rows:
        if row.revoked_at is None and row.used_at is None:
            row.revoked_at = now
    return rows
