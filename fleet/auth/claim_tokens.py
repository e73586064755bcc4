"""Claim tokens: what a flashed image carries so that a device may enrol once. Good for a number of devices.

Stored as SHA-256 only. The settings' claim_tokens_file holds digests or plain tokens made elsewhere; see
`import_claims`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from sqlalchemy import update
from sqlalchemy.orm import Session

from fleet.errors import BadRequestError
from fleet.storage.access_tables import ClaimToken
from runtime.errors import SettingsError
from service.errors import UnauthenticatedError
from service.tokens import new_secret, token_digest

__all__ = ["PREFIX", "create_claim", "find_claim", "import_claims", "use_claim"]

PREFIX: Final = "fc_"
MINIMUM_CHARS: Final = 20
"""A claim token somebody chose must at least look random; ours have 46 characters."""


def create_claim(
    session: Session,
    *,
    name: str,
    uses: int,
    now: float,
    lifetime_s: float | None,
    random_bytes: Callable[[int], bytes],
) -> str:
    """Store a claim token for `uses` devices (≥ 1) and return its text, which nobody can recover later."""
    if uses < 1:
        raise BadRequestError(f"a claim token for {uses} devices is of no use; give 1 or more")
    token = new_secret(random_bytes, prefix=PREFIX)
    session.add(
        ClaimToken(
            sha256=token_digest(token),
            name=name,
            uses=uses,
            uses_left=uses,
            created_at=now,
            expires_at=None if lifetime_s is None else now + lifetime_s,
        )
    )
    return token


def import_claims(session: Session, lines: Iterable[str], now: float) -> int:
    """Take over ``token uses`` lines (blank and # lines skipped); known ones keep their count. Returns how many are new.

    Raises:
        SettingsError: a line does not parse; the token itself is never in the message.
    """
    added = 0
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        uses = [*words, "1"][1]
        if len(words) > 2 or not uses.isdecimal() or int(uses) < 1 or len(words[0]) < MINIMUM_CHARS:
            raise SettingsError(
                f"line {number} of claim_tokens_file is not '<token> [uses]' with a token of {MINIMUM_CHARS} or more characters and uses ≥ 1"
            )
        digest = token_digest(words[0])
        if session.get(ClaimToken, digest) is None:
            session.add(
                ClaimToken(
                    sha256=digest,
                    name="claim_tokens_file",
                    uses=int(uses),
                    uses_left=int(uses),
                    created_at=now,
                )
            )
            added += 1
    return added


def find_claim(session: Session, token: str, now: float) -> ClaimToken:
    """The claim token's row, whether or not uses are left; raises UnauthenticatedError if unknown or expired."""
    row = session.get(ClaimToken, token_digest(token))
    if row is None or (row.expires_at is not None and now > row.expires_at):
        raise UnauthenticatedError(
            "this claim token is unknown or expired; make one with: fedge-fleet claims create"
        )
    return row


def use_claim(session: Session, row: ClaimToken) -> None:
    """Take one use; raises UnauthenticatedError when none is left."""
    # decided by the database, so that two enrolments at once cannot share the last use
    taken = session.execute(
        update(ClaimToken)
        .where(ClaimToken.sha256 == row.sha256, ClaimToken.uses_left > 0)
        .values(uses_left=ClaimToken.uses_left - 1)
        .returning(ClaimToken.uses_left)
    ).first()
    if taken is None:
        raise UnauthenticatedError(
            f"this claim token was good for {row.uses} devices, and they have enrolled; make another"
        )
