"""Every error of an API as ``application/problem+json``: what happened, what is valid, never a stack.

A service gives one table: which of its errors is which status. Everything else is the same everywhere. Where the request
itself is at fault, a program finds what a person reads in `detail` as members of their own: `field`, `in`, `value`, `allowed`,
`nearest` (`runtime.errors.Refused`).

Source: RFC 9457, Problem Details for HTTP APIs (2023).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from runtime.errors import FedgeError
from service.errors import (
    ChangedMeanwhileError,
    ForbiddenError,
    InvalidBodyError,
    InvalidQueryError,
    UnauthenticatedError,
)
from service.refused_parameters import refused_parameter

__all__ = ["PROBLEM_RESPONSES", "Problem", "StatusTable", "install_problems", "problem_of"]

MEDIA_TYPE: Final = "application/problem+json"

StatusTable = Mapping[type[Exception], HTTPStatus]
"""The status of each error; an error that is not named has the status of its nearest parent in the table."""

_OWN: Final[StatusTable] = {
    UnauthenticatedError: HTTPStatus.UNAUTHORIZED,
    ForbiddenError: HTTPStatus.FORBIDDEN,
    InvalidBodyError: HTTPStatus.UNPROCESSABLE_ENTITY,
    InvalidQueryError: HTTPStatus.UNPROCESSABLE_ENTITY,
    ChangedMeanwhileError: HTTPStatus.PRECONDITION_FAILED,
}

RETRY_AFTER_S: Final = 5
"""When to ask again what cannot be answered at present: by then a database that was restarted answers."""

_LATER: Final = frozenset({HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS})

_CONTENT: Final = {
    MEDIA_TYPE: {
        "schema": {
            "type": "object",
            "required": ["type", "title", "status", "detail", "instance"],
            "properties": {
                **{name: {"type": "string"} for name in ("type", "title", "detail", "instance")},
                "status": {"type": "integer"},
                "in": {"enum": ["body", "query", "header", "path"]},
                "field": {"type": "string"},
                "value": {"type": ["string", "number", "boolean"]},
                "allowed": {"type": ["string", "array"], "items": {"type": "string"}},
                "nearest": {"type": "string"},
            },
        },
        "example": {
            "type": "about:blank",
            "title": "Unprocessable Entity",
            "status": 422,
            "detail": "the body is not valid: unknown key 'groups[0].percentag'; did you mean 'groups[0].percentage'?",
            "instance": "/v1/rollouts",
            "in": "body",
            "field": "groups[0].percentag",
            "allowed": ["count", "name", "percentage", "soak_s"],
            "nearest": "groups[0].percentage",
        },
    }
}

PROBLEM_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {"description": "The request is refused (RFC 9457)", "content": _CONTENT},
    503: {"description": "Not at present: ask again after Retry-After seconds", "content": _CONTENT},
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
        if status in _LATER:
            headers = {"Retry-After": str(RETRY_AFTER_S)} | dict(headers or {})
        super().__init__(members | extensions, status_code=status, headers=headers)

    def render(self, content: Any) -> bytes:
        """As JSON; half a character, which a refusal may quote, is written out."""
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(
            "utf-8", "backslashreplace"
        )


def problem_of(
    error: Exception, statuses: StatusTable, path: str, headers: Mapping[str, str] | None = None
) -> Problem | None:
    """The answer to a request for `path` that ended in `error`; None for an error that is in no table."""
    status = _status(error, {**_OWN, **statuses})
    if status is None:
        return None
    refused = error.refused if isinstance(error, FedgeError) else None
    members: dict[str, Any] = {} if refused is None else asdict(refused)
    members = {"in" if key == "where" else key: value for key, value in members.items() if value is not None}
    return Problem(status, str(error), path=path, headers=headers, **members)


def _status(error: Exception, known: StatusTable) -> HTTPStatus | None:
    return next((known[kind] for kind in type(error).__mro__ if kind in known), None)


def install_problems(app: FastAPI, statuses: StatusTable) -> None:
    """Answer every exception of an endpoint with a problem document.

    The message of an error in `statuses` is shown to the caller; of any other error the caller learns nothing, and
    the log everything. What cannot be answered at present is one line there, or none where `is_told` says that it has been told.
    """

    def refused(request: Request, error: Exception) -> Problem:
        problem = problem_of(error, statuses, request.url.path)
        if problem is None:
            return _unexpected(request, error)
        if problem.status_code == HTTPStatus.INTERNAL_SERVER_ERROR:
            _report(request, error)
        elif problem.status_code == HTTPStatus.SERVICE_UNAVAILABLE and not getattr(error, "is_told", False):
            _log.warning(
                "request_not_answered", path=request.url.path, method=request.method, reason=str(error)
            )
        return problem

    for kind in {**_OWN, **statuses}:
        app.add_exception_handler(kind, refused)
    # Starlette's types would have every handler take every exception; it gives each only its own kind
    app.add_exception_handler(RequestValidationError, _invalid)  # type: ignore[arg-type] # see above
    app.add_exception_handler(HTTPException, _http)  # type: ignore[arg-type] # see above
    app.add_exception_handler(Exception, _unexpected)


def _invalid(request: Request, error: RequestValidationError) -> Problem:
    found = error.errors()
    errors = [
        {"pointer": "/" + "/".join(str(part) for part in e["loc"])[:200], "detail": e["msg"]} for e in found
    ]
    detail = f"{errors[0]['pointer']}: {errors[0]['detail']}"
    members = refused_parameter(found[0], request.scope.get("route"))
    if "nearest" in members:
        detail += f"; did you mean {members['nearest']!r}?"
    if errors[1:]:
        detail += f" (and {len(errors) - 1} more)"
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY, detail, path=request.url.path, errors=errors[:20], **members
    )


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
