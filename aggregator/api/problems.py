"""Errors as RFC 9457 problem documents: which of our errors is which status, and nothing of our insides."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from aggregator.errors import AccessError, AggregatorError, RunConflictError, UnknownRunError

__all__ = ["install_problems"]


def install_problems(app: FastAPI) -> None:
    """Answer every error of the API with ``application/problem+json``."""
    app.add_exception_handler(AggregatorError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _broken)


def _problem(request: Request, status: int, detail: str) -> JSONResponse:
    return JSONResponse(
        {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
            "instance": request.url.path,
        },
        status,
        headers={"WWW-Authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else None,
        media_type="application/problem+json",
    )


def _refused(request: Request, error: Exception) -> JSONResponse:
    match error:
        case AccessError():
            status = error.status
        case UnknownRunError():
            status = HTTPStatus.NOT_FOUND
        case RunConflictError():
            status = HTTPStatus.CONFLICT
        case _:
            status = HTTPStatus.SERVICE_UNAVAILABLE
    return _problem(request, status, str(error))


def _invalid(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body") or "the body"
    return _problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, f"{where}: {first['msg']}")


def _http(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    return _problem(request, error.status_code, str(error.detail))


def _broken(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001 - Starlette logs it; a caller learns nothing of it
    return _problem(
        request, HTTPStatus.INTERNAL_SERVER_ERROR, "internal error; the aggregator's log says where"
    )
