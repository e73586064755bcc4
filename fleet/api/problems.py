"""Every error of the API as ``application/problem+json``: what happened, what is valid, never a stack.

Source: RFC 9457, Problem Details for HTTP APIs (2023).
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from fleet.errors import CallerError, FleetError
from protocol.errors import ProtocolError

__all__ = ["PROBLEM_RESPONSES", "Problem", "install_problem_handlers", "problem"]

MEDIA_TYPE: Final = "application/problem+json"
_log = structlog.get_logger()

PROBLEM_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {
        "description": "The request is refused (RFC 9457)",
        "content": {
            MEDIA_TYPE: {
                "example": {
                    "type": "about:blank",
                    "title": "Not found",
                    "status": 404,
                    "detail": "there is no release rotating-machine/7",
                    "instance": "/v1/releases/rotating-machine/7",
                }
            }
        },
    }
}
"""Documents every refusal of a router in OpenAPI."""


class Problem(JSONResponse):
    """A problem document."""

    media_type = MEDIA_TYPE


def problem(
    request: Request,
    status: int,
    detail: str,
    *,
    title: str | None = None,
    headers: dict[str, str] | None = None,
    **extensions: object,
) -> Problem:
    """Write a problem about this request; `extensions` become further members."""
    content = {
        "type": "about:blank",
        "title": title or HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": request.url.path,
    }
    return Problem(content | extensions, status_code=status, headers=headers)


def install_problem_handlers(app: FastAPI) -> None:
    """Make every exception of an endpoint a problem document."""
    app.add_exception_handler(CallerError, _refused)
    app.add_exception_handler(ProtocolError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


async def _refused(request: Request, error: Exception) -> Problem:
    if not isinstance(error, CallerError):  # a name or message of `protocol` that is not valid
        return problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, str(error), title="Refused")
    headers = {"WWW-Authenticate": "Bearer"} if error.status == HTTPStatus.UNAUTHORIZED else None
    return problem(request, error.status, str(error), title=error.title, headers=headers)


async def _invalid(request: Request, error: Exception) -> Problem:
    if not isinstance(error, RequestValidationError):
        raise error
    errors = [
        {"pointer": "/" + "/".join(str(part) for part in e["loc"]), "detail": e["msg"]}
        for e in error.errors()
    ]
    first = errors[0]
    detail = f"{first['pointer']}: {first['detail']}" + (
        f" (and {len(errors) - 1} more)" if errors[1:] else ""
    )
    return problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, detail, title="Request not valid", errors=errors)


async def _http(request: Request, error: Exception) -> Problem:
    if not isinstance(error, HTTPException):
        raise error
    headers = dict(error.headers) if error.headers else None
    return problem(request, error.status_code, str(error.detail), headers=headers)


async def _unexpected(request: Request, error: Exception) -> Problem:
    detail = str(error) if isinstance(error, FleetError) else "the fleet could not answer; its log says why"
    _log.error(
        "request_failed", path=request.url.path, method=request.method, error=repr(error), exc_info=error
    )
    return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, detail, title="Internal error")
