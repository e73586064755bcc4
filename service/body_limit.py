"""Bounds every request body in bytes and time, before anything of it is kept: by who sends it, and to where.

A body that says it is too long is refused unread; one that does not say (chunked) is counted as it comes. It must come at
`https_server.SLOWEST_BYTES_PER_S`, by what has come and not by what was promised: whoever stalls is ended as soon, however
long the body is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.https_server import transfer_time_s
from service.problems import Problem
from service.roles import Caller

__all__ = ["BodyLimit", "LargestBody"]

LargestBody = Callable[[Caller | None, str, str], int]
"""How many bytes may this caller (None where nobody is asked) send with this method to this path?"""


class BodyLimit:
    """ASGI middleware; behind `token_first`, which says who asks.

    Args:
        app: what comes behind.
        largest: how much may come.
        time_s: how long so many bytes may take.
    """

    def __init__(
        self, app: ASGIApp, *, largest: LargestBody, time_s: Callable[[int], float] = transfer_time_s
    ) -> None:
        self._app, self._largest, self._time_s = app, largest, time_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on with a `receive` that keeps the limits: 400, 408 or 413 where it cannot."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._largest(scope.get("state", {}).get("caller"), scope["method"], scope["path"])
        too_large = f"the body may have at most {most} bytes"
        if (refusal := _of_head(Headers(scope=scope), most, too_large)) is not None:
            status, words = refusal
            await Problem(status, words, path=scope["path"], headers={"connection": "close"})(
                scope, receive, send
            )
            return
        clock = asyncio.get_running_loop().time
        begun, taken, is_whole = clock(), 0, False

        async def bounded() -> Message:
            nonlocal taken, is_whole
            if is_whole:
                return await receive()  # only waits for the disconnect, which may take as long as the answer
            try:
                async with asyncio.timeout_at(begun + self._time_s(taken)):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    HTTPStatus.REQUEST_TIMEOUT, "the body did not arrive in time; send it again"
                ) from None
            taken += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if taken > most:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, too_large)
            return message

        await self._app(scope, bounded, send)


def _of_head(headers: Headers, most: int, too_large: str) -> tuple[HTTPStatus, str] | None:
    lengths = headers.getlist("content-length")
    if len(lengths) > 1 or (lengths and "transfer-encoding" in headers):
        # Two answers to "where does it end?" are how a request is smuggled past whoever gives the other one (RFC 9112, 6.3).
        return HTTPStatus.BAD_REQUEST, "a request says in one way how long its body is"
    # A number too long to be a length is not even parsed.
    if lengths and not (lengths[0].isdecimal() and len(lengths[0]) < 20 and int(lengths[0]) <= most):
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, too_large
    return None
