"""Operator tokens: ``fo_`` and 32 random bytes, printed once, stored as SHA-256 only.

SHA-256 without a salt or stretching suffices because the token is 256 bits of randomness: there is no dictionary.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from fleet.auth.roles import Caller
from fleet.errors import ConflictError, NotFoundError, UnauthenticatedError
from fleet.storage.access_tables import OperatorToken, Role
from protocol.names import check_name

__all__ = ["PREFIX", "create_token", "find_caller", "revoke_token", "token_digest"]

PREFIX: Final = "fo_"
SECRET_BYTES: Final = 32


def token_digest(token: str) -> str:
    """SHA-256 of the token text, hex: what is stored and looked up."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def create_token(
    session: Session, name: str, role: Role, now: float, random_bytes: Callable[[int], bytes]
) -> str:
    """Store a new token and return its text, which nobody can recover later.

    Raises:
        ConflictError: a token of this name exists and is not revoked.
        TopicError: `name` is not a valid name.
    """
    check_name(name, "token name")
    existing = session.get(OperatorToken, name)
    if existing is not None and existing.revoked_at is None:
        raise ConflictError(
            f"a token named {name!r} exists (role {existing.role}); revoke it or choose another name"
        )
    token = PREFIX + base64.urlsafe_b64encode(random_bytes(SECRET_BYTES)).rstrip(b"=").decode()
    row = existing or OperatorToken(name=name)
    row.role, row.sha256, row.created_at, row.revoked_at = role, token_digest(token), now, None
    session.add(row)
    return token


def revoke_token(session: Session, name: str, now: float) -> None:
    """Make a token void from now on; raises NotFoundError where there is none of this name."""
    row = session.get(OperatorToken, name)
    if row is None:
        raise NotFoundError(f"there is no token named {name!r}")
    if row.revoked_at is None:
        row.revoked_at = now


def find_caller(session: Session, token: str) -> Caller:
    """Who holds this token; raises UnauthenticatedError for one that is unknown or revoked."""
    row = session.scalar(select(OperatorToken).where(OperatorToken.sha256 == token_digest(token)))
    if row is None or row.revoked_at is not None:
        raise UnauthenticatedError(
            "this operator token is unknown or revoked; make one with: fedge-fleet tokens create"
        )
    return Caller(name=row.name, role=Role(row.role))
