"""Bounds every request body in bytes and time, before anything of it is kept.

FastAPI reads a JSON body before it looks at the caller's token, so without this a stranger could fill the memory or
hold connections open for ever. A body that says it is too long is refused unread; one that does not say (chunked) is
counted as it comes. An upload is larger: its endpoint reads it in parts, after the token, with its own limit; here
only a sender that stalls is ended.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import Problem

__all__ = ["BodyLimit"]

BODY_TIME_S: Final = 20.0
"""How long a whole body may take; at 256 KB that is a modem."""

STALL_S: Final = 20.0
"""How long the next part of an upload may take."""


class BodyLimit:
    """ASGI middleware: at most `maximum_bytes` within `body_time_s`; paths in `uploads` must only not stall."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        maximum_bytes: int,
        uploads: frozenset[str] = frozenset(),
        body_time_s: float = BODY_TIME_S,
        stall_s: float = STALL_S,
    ) -> None:
        self._app, self._maximum_bytes, self._uploads = app, maximum_bytes, uploads
        self._body_time_s, self._stall_s = body_time_s, stall_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on with a `receive` that keeps the limits: 408 or 413 where it cannot."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_upload = scope["path"] in self._uploads
        too_large = f"the body may have at most {self._maximum_bytes} bytes"
        if not is_upload and not self._fits(Headers(scope=scope).get("content-length", "0")):
            answer = Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, too_large, path=scope["path"])
            await answer(scope, receive, send)
            return
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._body_time_s
        taken, is_whole = 0, False

        async def bounded() -> Message:
            nonlocal taken, is_whole
            if is_whole:
                return await receive()  # only waits for the disconnect, which may take as long as the answer
            try:
                async with asyncio.timeout_at(clock() + self._stall_s if is_upload else deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    HTTPStatus.REQUEST_TIMEOUT, "the body did not arrive in time; send it again"
                ) from None
            taken += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if taken > self._maximum_bytes and not is_upload:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, too_large)
            return message

        await self._app(scope, bounded, send)

    def _fits(self, content_length: str) -> bool:
        # a number too long to be a length is not even parsed
        return (
            content_length.isdecimal()
            and len(content_length) < 20
            and int(content_length) <= self._maximum_bytes
        )
