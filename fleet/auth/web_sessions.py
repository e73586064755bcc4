"""Browsers that are signed in: a cookie's secret, kept as SHA-256, stands for the operator's token it was made with.

::

    token (typed once) ─┐
    one-time code ──────┴─► a session ─► each request: is it there, and is that token still good?

A session is no second right: where its token is revoked, rotated or over, so is it, at the next request. It ends by itself after
`IDLE_S` without a request and `LONGEST_S` in all. A code is for whoever has no token at hand where their browser is: it is good
once, and for `CODE_S`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from sqlalchemy import Select, delete, select, update
from sqlalchemy.orm import Session

from fleet import audit
from fleet.errors import NotFoundError
from fleet.storage.access_tables import SignInCode, WebSession
from fleet.storage.base import Database
from service.errors import ForbiddenError, UnauthenticatedError
from service.roles import Caller, Role, allows
from service.tokens import StoredTokens, new_secret, token_digest

__all__ = ["PREFIX", "WebSessions"]

PREFIX: Final = "fs_"
IDLE_S: Final = 12 * 3600.0
LONGEST_S: Final = 7 * 86400.0
CODE_S: Final = 300.0
MOST: Final = 50
"""Sessions of one token; the one that was used longest ago makes room."""


class WebSessions:
    """Signs browsers in and out. Implements `service.access.TokenHolders` for the secrets of sessions.

    Args:
        database: the fleet's.
        tokens: of its operators.
        now: Unix seconds.
        random_bytes: gives as many as asked.
    """

    def __init__(
        self,
        database: Database,
        tokens: StoredTokens,
        now: Callable[[], float],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._database, self._tokens, self._now, self._random_bytes = database, tokens, now, random_bytes
        self._uses: dict[str, float] = {}
        self._lock = threading.Lock()

    def sign_in(self, token: str, browser: str) -> str:
        """A new session for whoever holds `token`; the secret for its cookie.

        Raises:
            UnauthenticatedError: a token that is nobody's.
            ForbiddenError: one of a program.
        """
        return self._begin(token_digest(token), browser)

    def sign_in_by_code(self, code: str, browser: str) -> str:
        """A new session for whoever had `code` made, which is void from now on; raises as `sign_in`."""
        with self._database.write() as session:
            found = session.get(SignInCode, token_digest(code))
            if found is not None:
                session.delete(found)
        if found is None or self._now() >= found.expires_at:
            raise UnauthenticatedError(
                f"this sign-in link was used, or is older than {CODE_S / 60:.0f} minutes;"
                " make another one with: fedge-fleet sign-in"
            )
        return self._begin(found.token_sha256, browser)

    def make_code(self, token: str) -> str:
        """A code that signs one browser in as the holder of `token`; raises as `sign_in`."""
        digest = token_digest(token)
        self._check(digest)
        code = new_secret(self._random_bytes)
        with self._database.write() as session:
            session.add(
                SignInCode(sha256=token_digest(code), token_sha256=digest, expires_at=self._now() + CODE_S)
            )
        return code

    def find_caller(self, token: str) -> Caller:
        """See `TokenHolders`: who is signed in by this secret of a session."""
        digest, now = token_digest(token), self._now()
        with self._database.read() as session:
            found = session.scalar(select(WebSession).where(WebSession.sha256 == digest))
        if found is None or now >= min(found.expires_at, self._last_used_at(found) + IDLE_S):
            raise UnauthenticatedError("you are not signed in, or were signed out; sign in again")
        caller = self._check(found.token_sha256)
        with self._lock:
            self._uses[found.id] = now
        return caller

    def store_uses(self) -> None:
        """Write down when each session was last used since the last call: no page waits for the disk because of it."""
        with self._lock:
            uses, self._uses = self._uses, {}
        if not uses:
            return
        with self._database.write() as session:
            for number, at in uses.items():
                # another replica may have seen a later use
                mine = (WebSession.id == number) & (WebSession.last_used_at < at)
                session.execute(update(WebSession).where(mine).values(last_used_at=at))

    def _last_used_at(self, found: WebSession) -> float:
        with self._lock:
            return max(found.last_used_at, self._uses.get(found.id, 0.0))

    def id_of(self, secret: str) -> str:
        """Which session this secret is of; empty where it is over."""
        with self._database.read() as session:
            own = select(WebSession.id).where(WebSession.sha256 == token_digest(secret))
            return session.scalar(own) or ""

    def sign_out(self, secret: str) -> None:
        """End the session of this secret; nothing where it has ended."""
        with self._database.write() as session:
            session.execute(delete(WebSession).where(WebSession.sha256 == token_digest(secret)))

    def listed(self, caller: Caller) -> list[WebSession]:
        """The sessions that `caller` may end, the last used first: their own; of an admin everybody's."""
        with self._database.read() as session:
            rows = select(WebSession).where(WebSession.expires_at > self._now())
            return list(session.scalars(_among(rows, caller).order_by(WebSession.last_used_at.desc())))

    def end(self, session_id: str, caller: Caller) -> None:
        """End a session; raises NotFoundError where `caller` may end none of this id."""
        with self._database.write() as session:
            found = session.scalar(_among(select(WebSession).where(WebSession.id == session_id), caller))
            if found is None:
                raise NotFoundError(f"there is no session {session_id[:16]!r} of yours; it may have ended")
            session.delete(found)
            audit.record(
                session,
                at=self._now(),
                actor=caller.actor,
                action="session_ended",
                subject=found.token,
                which=found.id,
            )

    def forget_ended(self) -> None:
        """Delete what is over."""
        now = self._now()
        with self._database.write() as session:
            is_over = (WebSession.expires_at <= now) | (WebSession.last_used_at <= now - IDLE_S)
            session.execute(delete(WebSession).where(is_over))
            session.execute(delete(SignInCode).where(SignInCode.expires_at <= now))

    def _begin(self, token_sha256: str, browser: str) -> str:
        caller, now = self._check(token_sha256), self._now()
        secret = new_secret(self._random_bytes, prefix=PREFIX)
        begun = WebSession(
            id=self._random_bytes(6).hex(),
            sha256=token_digest(secret),
            token=caller.name,
            token_sha256=token_sha256,
            browser=browser[:200],
            created_at=now,
            last_used_at=now,
            expires_at=now + LONGEST_S,
        )
        with self._database.write() as session:
            _make_room(session, caller.name)
            session.add(begun)
            audit.record(
                session, at=now, actor=caller.actor, action="signed_in", subject=caller.name, which=begun.id
            )
        return secret

    def _check(self, token_sha256: str) -> Caller:
        caller = self._tokens.caller_of(token_sha256)
        if caller.is_program or caller.role is None or not allows(caller.role, Role.VIEWER):
            raise ForbiddenError(
                f"token {caller.name!r} is a program's; a person signs in, with a viewer's, operator's or admin's token"
            )
        return caller


def _among(rows: Select[WebSession], caller: Caller) -> Select[WebSession]:
    if caller.role is not None and allows(caller.role, Role.ADMIN):
        return rows
    return rows.where(WebSession.token == caller.name)


def _make_room(session: Session, token: str) -> None:
    latest = select(WebSession.id).where(WebSession.token == token).order_by(WebSession.last_used_at.desc())
    surplus = session.scalars(latest.offset(MOST - 1)).all()
    if surplus:
        session.execute(delete(WebSession).where(WebSession.id.in_(surplus)))
