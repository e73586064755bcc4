"""Operator tokens of the fleet (``fo_…``), in its database; `service.tokens` says how they are made and end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields
from typing import Final

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from fleet import audit
from fleet.storage.access_tables import OperatorToken
from fleet.storage.base import Database
from service.roles import Role
from service.tokens import StoredTokens, TokenRecord

__all__ = ["PREFIX", "SessionRows", "open_tokens"]

PREFIX: Final = "fo_"

_FIELDS: Final = tuple(field.name for field in fields(TokenRecord))


class SessionRows:
    """Implements `service.tokens.TokenRows` in a transaction of the fleet's database."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, name: str) -> TokenRecord | None:
        """See `TokenRows`."""
        return _record(self._session.get(OperatorToken, name))

    def find_digest(self, digest: str) -> TokenRecord | None:
        """See `TokenRows`."""
        is_it = or_(OperatorToken.sha256 == digest, OperatorToken.earlier_sha256 == digest)
        return _record(self._session.scalar(select(OperatorToken).where(is_it)))

    def put(self, record: TokenRecord) -> None:
        """See `TokenRows`."""
        families = None if record.families is None else list(record.families)
        self._session.merge(OperatorToken(**vars(record) | {"families": families}))
        self._session.flush()

    def note(self, action: str, name: str, at: float, **detail: object) -> None:
        """See `TokenRows`: only who has a shell on the server changes tokens."""
        actor = audit.person_on_server()
        audit.record(self._session, at=at, actor=actor, action=action, subject=name, **detail)

    def all(self) -> list[TokenRecord]:
        """Every token, by name."""
        found = map(_record, self._session.scalars(select(OperatorToken).order_by(OperatorToken.name)))
        return [record for record in found if record is not None]


def open_tokens(database: Database, now: Callable[[], float]) -> StoredTokens:
    """Who holds the tokens of this database."""

    def opened(
        kind: Callable[[], AbstractContextManager[Session]],
    ) -> Callable[[], AbstractContextManager[SessionRows]]:
        @contextmanager
        def rows() -> Iterator[SessionRows]:
            with kind() as session:
                yield SessionRows(session)

        return rows

    return StoredTokens(opened(database.read), opened(database.write), now)


def _record(row: OperatorToken | None) -> TokenRecord | None:
    if row is None:
        return None
    values = {name: getattr(row, name) for name in _FIELDS}
    families = None if row.families is None else tuple(row.families)
    return TokenRecord(**values | {"role": Role(row.role), "families": families})
