"""Every error of an API as ``application/problem+json``: what happened, what is valid, never a stack.

A service gives one table: which of its errors is which status. Everything else is the same everywhere.

Source: RFC 9457, Problem Details for HTTP APIs (2023).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from service.errors import ForbiddenError, InvalidBodyError, UnauthenticatedError

__all__ = ["PROBLEM_RESPONSES", "Problem", "StatusTable", "install_problems"]

MEDIA_TYPE: Final = "application/problem+json"

StatusTable = Mapping[type[Exception], HTTPStatus]
"""The status of each error; an error that is not named has the status of its nearest parent in the table."""

_OWN: Final[StatusTable] = {
    UnauthenticatedError: HTTPStatus.UNAUTHORIZED,
    ForbiddenError: HTTPStatus.FORBIDDEN,
    InvalidBodyError: HTTPStatus.UNPROCESSABLE_ENTITY,
}

PROBLEM_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {
        "description": "The request is refused (RFC 9457)",
        "content": {
            MEDIA_TYPE: {
                "example": {
                    "type": "about:blank",
                    "title": "Not Found",
                    "status": 404,
                    "detail": "there is no release rotating-machine/7",
                    "instance": "/v1/releases/rotating-machine/7",
                }
            }
        },
    }
}
"""Documents every refusal in OpenAPI."""

_log = structlog.get_logger()


class Problem(JSONResponse):
    """A problem document about the request for `path`; `extensions` become further members.

    Examples:
        >>> Problem(404, "there is no device x", path="/v1/devices/x").body.decode()
        '{"type":"about:blank","title":"Not Found","status":404,"detail":"there is no device x","instance":"/v1/devices/x"}'
    """

    media_type = MEDIA_TYPE

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        path: str,
        headers: Mapping[str, str] | None = None,
        **extensions: object,
    ) -> None:
        members = {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
            "instance": path,
        }
        if status == HTTPStatus.UNAUTHORIZED:
            headers = {"WWW-Authenticate": "Bearer"} | dict(headers or {})
        super().__init__(members | extensions, status_code=status, headers=headers)

    def render(self, content: Any) -> bytes:
        """As JSON; half a character, which a refusal may quote, is written out."""
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(
            "utf-8", "backslashreplace"
        )


def install_problems(app: FastAPI, statuses: StatusTable) -> None:
    """Answer every exception of an endpoint with a problem document.

    The message of an error in `statuses` is shown to the caller; of any other error the caller learns nothing, and
    the log everything.
    """
    known = {**_OWN, **statuses}

    def refused(request: Request, error: Exception) -> Problem:
        status = next(known[kind] for kind in type(error).__mro__ if kind in known)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            _report(request, error)
        return Problem(status, str(error), path=request.url.path)

    for kind in known:
        app.add_exception_handler(kind, refused)
    # Starlette's types would have every handler take every exception; it gives each only its own kind
    app.add_exception_handler(RequestValidationError, _invalid)  # type: ignore[arg-type] # see above
    app.add_exception_handler(HTTPException, _http)  # type: ignore[arg-type] # see above
    app.add_exception_handler(Exception, _unexpected)


def _invalid(request: Request, error: RequestValidationError) -> Problem:
    errors = [
        {"pointer": "/" + "/".join(str(part) for part in e["loc"]), "detail": e["msg"]}
        for e in error.errors()
    ]
    detail = f"{errors[0]['pointer']}: {errors[0]['detail']}"
    if errors[1:]:
        detail += f" (and {len(errors) - 1} more)"
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, path=request.url.path, errors=errors)


def _http(request: Request, error: HTTPException) -> Problem:
    return Problem(error.status_code, str(error.detail), path=request.url.path, headers=error.headers)


def _unexpected(request: Request, error: Exception) -> Problem:
    _report(request, error)
    return Problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "the service could not answer; its log says why",
        path=request.url.path,
    )


def _report(request: Request, error: Exception) -> None:
    _log.error(
        "request_failed", path=request.url.path, method=request.method, error=repr(error), exc_info=error
    )
