"""Entity tags: who polls is told in a few bytes that nothing has changed, and nobody overwrites what they have not seen.

Every JSON answer to a GET has one (`ETags`), the digest of its bytes, and a request that names it in If-None-Match is answered
304. Of what two people may change, the tag is ``"VERSION.DIGEST"`` (`versioned_tag`): If-Match compares the VERSION alone, which is of
what people change, so that a device which reports in between stops nobody.

Source: RFC 9110, sections 8.8.3, 13.1.1 and 13.1.2.
"""

from __future__ import annotations

import hashlib
from http import HTTPMethod, HTTPStatus
from typing import Annotated, Any, Final

from fastapi import Header
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.errors import Refused
from service.errors import ChangedMeanwhileError

__all__ = ["ETags", "IfMatch", "check_version", "document_etags", "is_known", "versioned_tag"]

LONGEST: Final = 4000
"""Characters of an If-None-Match that are read."""

IfMatch = Annotated[
    str | None,
    Header(max_length=1000, description="the ETag of what was read: 412 where somebody has changed it since"),
]


class ETags:
    """ASGI middleware: tags JSON answers to GET, and answers 304 where the caller has it already."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on; hold an answer back until its tag is known, if it is one that gets a tag."""
        if scope["type"] != "http" or scope["method"] != HTTPMethod.GET:
            await self._app(scope, receive, send)
            return
        known = Headers(scope=scope).get("if-none-match")
        start: Message | None = None
        parts: list[bytes] = []

        async def tagged(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _is_tagged(message):
                start = message
                return
            if start is None:
                await send(message)
                return
            parts.append(message.get("body", b""))
            if message.get("more_body", False):
                return
            body, headers = b"".join(parts), MutableHeaders(scope=start)
            if "etag" not in headers:
                headers["etag"] = f'"{_digest(body)}"'
            if is_known(headers["etag"], known):
                start["status"], body = HTTPStatus.NOT_MODIFIED, b""
                for name in ("content-length", "content-type"):
                    del headers[name]
            await send(start)
            await send({"type": "http.response.body", "body": body})

        await self._app(scope, receive, tagged)


def is_known(etag: str, if_none_match: str | None) -> bool:
    """Whether a request that sent this If-None-Match has what `etag` is of; weakly compared.

    Examples:
        >>> is_known('"a"', 'W/"a", "b"'), is_known('"a"', "*"), is_known('"a"', None)
        (True, True, False)
    """
    given = [tag.strip() for tag in (if_none_match or "")[:LONGEST].split(",")]
    return "*" in given or etag.removeprefix("W/") in {tag.removeprefix("W/") for tag in given}


def versioned_tag(version: str, shown: bytes) -> str:
    """The tag of something in `version` that is shown as these bytes."""
    return f'"{version}.{_digest(shown)}"'


def check_version(if_match: str | None, version: str, what: str) -> None:
    """Raise ChangedMeanwhileError where a request is about another version of `what` than this one."""
    if if_match is None:
        return
    given = [tag.strip().strip('"').partition(".")[0] for tag in if_match.split(",")]
    if "*" not in given and version not in given:
        refused = Refused(field="If-Match", value=if_match[:80], where="header")
        raise ChangedMeanwhileError(
            f"{what} was changed since you read it; read it again, and say then whether it shall still be done"
        ).about(refused)


def document_etags(schema: dict[str, Any]) -> dict[str, Any]:
    """Say in an OpenAPI document what `ETags` does."""
    asked = {"name": "If-None-Match", "in": "header", "required": False, "schema": {"type": "string"}}
    tag = {"ETag": {"schema": {"type": "string"}}}
    for path in schema["paths"].values():
        found = path.get("get", {}).get("responses", {})
        if "application/json" in found.get("200", {}).get("content", {}):
            found["200"].setdefault("headers", {}).update(tag)
            found.setdefault("304", {"description": "unchanged since If-None-Match"})
            parameters = path["get"].setdefault("parameters", [])
            if all(one["name"].lower() != "if-none-match" for one in parameters):
                parameters.append(asked)
    return schema


def _is_tagged(start: Message) -> bool:
    kind = Headers(raw=start["headers"]).get("content-type", "")
    return bool(start["status"] == HTTPStatus.OK) and kind.startswith("application/json")


def _digest(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=16).hexdigest()
