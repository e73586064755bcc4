"""Bounds every request body in bytes and time, before anything of it is kept.

FastAPI reads a JSON body before it looks at the caller's token, so without this a stranger could fill the memory or
hold connections open for ever. A bundle is larger: its endpoint reads it in parts, after the token, with its own limit;
here only a sender that stalls is ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["BodyLimit"]

MAXIMUM_BODY_BYTES: Final = 256 * 1024
"""The largest JSON body is a rollout plan: 20 groups, 20 rules and a query of 2000 characters stay under 20 KB."""

BODY_TIME_S: Final = 20.0
"""How long a JSON body may take; at 256 KB that is a modem."""

STALL_S: Final = 20.0
"""How long the next part of a bundle may take."""

UPLOADS: Final = frozenset({"/v1/releases"})
"""Paths whose endpoints read the body themselves, in parts."""


class BodyLimit:
    """ASGI middleware; `clock` gives monotonic seconds."""

    def __init__(self, app: ASGIApp, clock: Callable[[], float] = time.monotonic) -> None:
        self._app, self._clock = app, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on with a `receive` that keeps the limits (raises 408 or 413)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_upload = scope["path"] in UPLOADS
        deadline = self._clock() + BODY_TIME_S
        taken, is_whole = 0, False

        async def bounded() -> Message:
            nonlocal taken, is_whole
            if is_whole:
                return await receive()  # only waits for the disconnect, which may take as long as the answer
            try:
                async with asyncio.timeout(STALL_S if is_upload else max(0.0, deadline - self._clock())):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    HTTPStatus.REQUEST_TIMEOUT, "the body did not arrive in time; send it again"
                ) from None
            taken += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if taken > MAXIMUM_BODY_BYTES and not is_upload:
                raise HTTPException(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                    f"the body may have at most {MAXIMUM_BODY_BYTES} bytes",
                )
            return message

        await self._app(scope, bounded, send)
