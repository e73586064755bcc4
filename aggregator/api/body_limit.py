"""Refuses request bodies that are too large before anything of them is kept: the token is looked at only afterwards."""

from __future__ import annotations

from http import HTTPStatus

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["BodyLimit"]


class BodyLimit:
    """ASGI middleware: bodies need a Content-Length of at most `maximum_bytes`; chunked ones are refused."""

    def __init__(self, app: ASGIApp, maximum_bytes: int) -> None:
        self._app, self._maximum_bytes = app, maximum_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 411 or 413."""
        headers = dict(scope.get("headers", []))
        length = headers.get(b"content-length", b"0")
        if b"transfer-encoding" in headers:
            status, detail = HTTPStatus.LENGTH_REQUIRED, "send the body with a Content-Length"
        elif not length.isdigit() or int(length) > self._maximum_bytes:
            status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            detail = f"the body may have at most {self._maximum_bytes} bytes"
        else:
            await self._app(scope, receive, send)
            return
        problem = {"type": "about:blank", "title": status.phrase, "status": status, "detail": detail}
        await JSONResponse(problem, status, media_type="application/problem+json")(scope, receive, send)
