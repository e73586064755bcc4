"""One FastAPI app as every cloud service of Fedge begins: limits, problem documents, tokens, the metrics page."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from service.access import TokenHolders, require
from service.body_limit import BodyLimit
from service.problems import PROBLEM_RESPONSES, StatusTable, install_problems
from service.roles import Caller, Role
from service.token_first import TokenFirst

__all__ = ["create_application"]

Viewer = Annotated[Caller, Depends(require(Role.VIEWER))]


def create_application(
    *,
    title: str,
    tokens: TokenHolders,
    registry: CollectorRegistry,
    statuses: StatusTable,
    maximum_body_bytes: int,
    uploads: frozenset[str] = frozenset(),
    open_paths: frozenset[str] | None = None,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
) -> FastAPI:
    """An app without routes of its own but ``/metrics`` and ``/v1/openapi.json``, both for viewers.

    Args:
        title: the service's name in OpenAPI.
        tokens: who holds which operator token.
        registry: what ``/metrics`` shows.
        statuses: which of the service's errors is which HTTP status.
        maximum_body_bytes: of any request but an upload.
        open_paths: the only paths that do not need an operator's token, where all others do; it is then looked at before a body is read.
        uploads: paths whose endpoints read the body themselves, in parts and with a limit of their own.
        lifespan: what runs while the app does.
    """
    app = FastAPI(
        title=title,
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        responses=PROBLEM_RESPONSES,
    )
    app.state.tokens = tokens
    app.add_middleware(BodyLimit, maximum_bytes=maximum_body_bytes, uploads=uploads)
    if open_paths is not None:
        app.add_middleware(TokenFirst, tokens=tokens, open_paths=open_paths)
    install_problems(app, statuses)

    @app.get("/metrics", tags=["operations"], response_class=Response)
    def metrics(_viewer: Viewer) -> Response:
        """Prometheus text format."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/openapi.json", include_in_schema=False)
    def openapi(_viewer: Viewer) -> dict[str, Any]:
        """This API as OpenAPI 3.1, with examples."""
        return app.openapi()

    return app
