"""Everybody who may call the fleet, told apart by what their token looks like and known by what it proves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fleet.auth import claim_tokens, operator_tokens, web_sessions
from fleet.auth.device_tokens import authenticate_device
from fleet.auth.web_sessions import WebSessions
from fleet.storage.base import Database
from service.errors import UnauthenticatedError
from service.roles import Caller, CallerKind
from service.tokens import StoredTokens

__all__ = ["Callers", "Everybody"]

DOTS_OF_A_DEVICE_TOKEN: Final = 2


class Callers:
    """Implements `service.access.TokenHolders`.

    Args:
        database: knows devices and claims.
        operators: knows operators.
        now: Unix seconds.
    """

    def __init__(self, database: Database, operators: StoredTokens, now: Callable[[], float]) -> None:
        self._database, self._operators, self._now = database, operators, now

    def find_caller(self, token: str) -> Caller:
        """See `TokenHolders`; a claim that is over still says who asks."""
        if token.startswith(operator_tokens.PREFIX):
            return self._operators.find_caller(token)
        with self._database.read() as session:
            if token.count(".") == DOTS_OF_A_DEVICE_TOKEN and not token.startswith(claim_tokens.PREFIX):
                return authenticate_device(session, token, self._now())
            try:
                claim = claim_tokens.find_claim(session, token)
            except UnauthenticatedError:
                if token.startswith(claim_tokens.PREFIX):
                    raise
                raise UnauthenticatedError(
                    f"this token is of nobody here; an operator's begins with {operator_tokens.PREFIX}, a claim with {claim_tokens.PREFIX}"
                ) from None
        # By the whole token: many claims may have been made under one name.
        return Caller(name=claim.sha256[:32], kind=CallerKind.CLAIM)


class Everybody:
    """Implements `service.access.TokenHolders` for tokens and for sessions of browsers: whoever may listen to what changes.

    The API itself takes no session: a page's cookie is none of its tokens.
    """

    def __init__(self, callers: Callers, sessions: WebSessions) -> None:
        self._callers, self._sessions = callers, sessions

    def find_caller(self, token: str) -> Caller:
        """See `TokenHolders`."""
        holders = self._sessions if token.startswith(web_sessions.PREFIX) else self._callers
        return holders.find_caller(token)
