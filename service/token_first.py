"""Who asks is known from the head, before a byte of a body is read: FastAPI reads a body before it looks at who sends it.

::

    head ─► one token ─► `TokenHolders`: whose? ─► a place for this caller's connection? ─► ``request.state.caller`` ─► the app
              └ 401, unread, closed └ 401, 403                 └ 429

Endpoints go on to say who of those may call them (`access`), and `body_limit` how much each may send.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access import UNSAID, TokenHolders
from service.connections import has_place
from service.errors import UnauthenticatedError
from service.problems import Problem, StatusTable, problem_of
from service.roles import CallerKind

__all__ = ["TokenFirst"]

PLACES: Final = {CallerKind.OPERATOR: 64, CallerKind.DEVICE: 8, CallerKind.CLAIM: 4}
"""Connections at once. Of an operator's token: commands, a dashboard, whatever gathers metrics. An agent has one or two."""


class TokenFirst:
    """ASGI middleware.

    Args:
        app: what comes behind.
        tokens: who holds which.
        is_open: paths for which nobody is asked here; they read no body, or ask by themselves.
        statuses: which error of `tokens` is which status, where it is neither 401 nor 403.
    """

    def __init__(
        self, app: ASGIApp, *, tokens: TokenHolders, is_open: Callable[[str], bool], statuses: StatusTable
    ) -> None:
        self._app, self._tokens, self._is_open = app, tokens, is_open
        self._statuses = statuses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on, or answer 401 or 403; 429 where its caller has too many connections; 503 where nobody can say."""
        if scope["type"] == "lifespan" or self._is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        refusal = await self._refusal(scope)
        await (self._app if refusal is None else refusal)(scope, receive, send)

    async def _refusal(self, scope: Scope) -> Problem | None:
        try:
            caller = await run_in_threadpool(self._tokens.find_caller, _token(Headers(scope=scope)))
        except Exception as error:
            problem = problem_of(error, self._statuses, scope["path"], {"connection": "close"})
            if problem is None:
                raise
            return problem
        if not has_place(scope, caller.actor, PLACES[caller.kind]):
            return Problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"this {caller.kind} has too many connections open",
                path=scope["path"],
            )
        scope.setdefault("state", {})["caller"] = caller
        return None


def _token(headers: Headers) -> str:
    given = headers.getlist("authorization")
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not token.strip():
        raise UnauthenticatedError(UNSAID)
    return token.strip()
