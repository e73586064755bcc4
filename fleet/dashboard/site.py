"""All pages as one application, and how it stands behind the API."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match, Mount
from starlette.types import Scope

from fleet.api.page_paths import is_page
from fleet.auth.web_sessions import WebSessions
from fleet.changes.hub import ChangeHub
from fleet.dashboard.front import Front, error_page
from fleet.dashboard.live import LivePages
from fleet.dashboard.pages import (
    alerts,
    anomalies,
    audit,
    device,
    devices,
    new_rollout,
    overview,
    precision,
    releases,
    rollouts,
    service_health,
    sign_in,
    training,
)
from service.errors import ServiceError
from service.problems import Problem, StatusTable, problem_of

__all__ = ["mount_pages"]

PAGES: Final = tuple(
    module.router
    for module in (
        alerts,
        anomalies,
        audit,
        device,
        devices,
        new_rollout,
        overview,
        precision,
        releases,
        rollouts,
        service_health,
        sign_in,
        training,
    )
)
"""``new_rollout`` before ``rollouts``: ``/rollouts/new`` is no rollout."""

_OF_THE_DOOR: Final = (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_TIMEOUT)
"""Refused by `service.body_limit`: in the same words whether the head of a request said how much comes, or it was found out as it came."""

_log = structlog.get_logger()


def mount_pages(
    app: FastAPI, sessions: WebSessions, hub: ChangeHub, *, public_url: str | None, statuses: StatusTable
) -> None:
    """Answer everything with pages that is no call of `app`, whose state they share."""
    pages = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    pages.state = app.state
    pages.state.web_sessions = sessions
    pages.add_middleware(Front, sessions=sessions, public_url=public_url, statuses=statuses)
    for router in PAGES:
        pages.include_router(router)
    pages.add_api_route("/live", LivePages(hub, pages).stream, include_in_schema=False)
    _answer_errors(pages, statuses)
    app.router.routes.append(_Pages("/", app=pages))


class _Pages(Mount):
    """Takes nothing that the API knows to refuse: a call with another method is 405 there, and no missing page."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches(scope) if is_page(scope["path"]) else (Match.NONE, {})


def _answer_errors(pages: FastAPI, statuses: StatusTable) -> None:
    def refused(request: Request, error: Exception) -> Response:
        problem = problem_of(error, statuses, request.url.path)
        if problem is None:
            return unexpected(request, error)
        return error_page(request, problem.status_code, str(error), problem.headers.get("retry-after"))

    def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        words = f"{'.'.join(str(part) for part in first['loc'][1:])}: {first['msg']}"
        return error_page(request, HTTPStatus.UNPROCESSABLE_ENTITY, words)

    def http(request: Request, error: HTTPException) -> Response:
        words = str(error.detail)
        if error.status_code in _OF_THE_DOOR:
            return Problem(error.status_code, words, path=request.url.path, headers={"connection": "close"})
        if error.status_code == HTTPStatus.NOT_FOUND:
            words = "there is no such page"
        return error_page(request, error.status_code, words)

    def unexpected(request: Request, error: Exception) -> Response:
        _log.error("page_failed", path=request.url.path, error=repr(error), exc_info=error)
        return error_page(
            request,
            HTTPStatus.INTERNAL_SERVER_ERROR,
            "the page could not be made; the service's log says why",
        )

    for kind in {*statuses, ServiceError}:
        pages.add_exception_handler(kind, refused)
    # Starlette's types would have every handler take every exception; it gives each only its own kind
    pages.add_exception_handler(RequestValidationError, invalid)  # type: ignore[arg-type] # see above
    pages.add_exception_handler(HTTPException, http)  # type: ignore[arg-type] # see above
    pages.add_exception_handler(Exception, unexpected)
