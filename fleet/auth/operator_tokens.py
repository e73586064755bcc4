"""Operator tokens of the fleet (``fo_…``), in its database; `service.tokens` says how they are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from fleet.errors import ConflictError, NotFoundError
from fleet.storage.access_tables import OperatorToken
from fleet.storage.base import Database
from protocol.names import check_name
from service.errors import UnauthenticatedError
from service.roles import Caller, Role
from service.tokens import new_secret, token_digest

__all__ = ["PREFIX", "OperatorTokens", "create_token", "revoke_token"]

PREFIX: Final = "fo_"


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
    token = new_secret(random_bytes, prefix=PREFIX)
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


class OperatorTokens:
    """Implements `service.access.TokenHolders` over the fleet's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find_caller(self, token: str) -> Caller:
        """See `TokenHolders`."""
        with self._database.read() as session:
            row = session.scalar(select(OperatorToken).where(OperatorToken.sha256 == token_digest(token)))
        if row is None or row.revoked_at is not None:
            raise UnauthenticatedError(
                "this operator token is unknown or revoked; make one with: fedge-fleet tokens create"
            )
        return Caller(name=row.name, role=Role(row.role))
