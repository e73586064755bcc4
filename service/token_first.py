"""The token before the body: FastAPI reads a JSON body before it looks at who sends it, so a stranger's is refused here, unread.

For services whose callers are all operators. Endpoints go on to say which role they need (`access.require`).
"""

from __future__ import annotations

from http import HTTPStatus

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access import TokenHolders
from service.connections import has_place
from service.errors import UnauthenticatedError
from service.problems import Problem

__all__ = ["TokenFirst"]

SCHEME = "bearer "


class TokenFirst:
    """ASGI middleware.

    Args:
        app: what comes behind.
        tokens: who holds which.
        open_paths: for which nobody is asked; they must read no body.
    """

    def __init__(self, app: ASGIApp, *, tokens: TokenHolders, open_paths: frozenset[str]) -> None:
        self._app, self._tokens, self._open_paths = app, tokens, open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on, or answer 401; 429 where its caller has too many connections."""
        if scope["type"] == "http" and scope["path"] not in self._open_paths:
            refusal = await self._refusal(scope)
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _refusal(self, scope: Scope) -> Problem | None:
        try:
            caller = await run_in_threadpool(self._tokens.find_caller, _token(Headers(scope=scope)))
        except UnauthenticatedError as error:
            return Problem(
                HTTPStatus.UNAUTHORIZED, str(error), path=scope["path"], headers={"connection": "close"}
            )
        if not has_place(scope, caller.name):
            return Problem(
                HTTPStatus.TOO_MANY_REQUESTS, "this token has too many connections open", path=scope["path"]
            )
        return None


def _token(headers: Headers) -> str:
    given = headers.getlist("authorization")
    if len(given) != 1 or not given[0].lower().startswith(SCHEME):
        raise UnauthenticatedError("this call needs one Authorization header: Bearer <token>")
    return given[0][len(SCHEME) :].strip()
