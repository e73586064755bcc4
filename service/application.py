"""One FastAPI app as every cloud service of Fedge begins: limits, problem documents, tokens, the metrics page."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from service.access import TokenHolders, require
from service.body_limit import BodyLimit, LargestBody
from service.etags import ETags, document_etags
from service.problems import PROBLEM_RESPONSES, StatusTable, install_problems
from service.process_metrics import CallFigures, CountedCalls, expose_process
from service.refused_parameters import check_query
from service.roles import Caller, Role
from service.token_first import TokenFirst

__all__ = ["create_application"]

OPEN_PATHS: Final = frozenset({"/healthz"})
"""Read by whatever watches over a service; what they answer is no secret, and they read no body."""

Viewer = Annotated[Caller, Depends(require(Role.VIEWER))]


def create_application(
    *,
    title: str,
    tokens: TokenHolders,
    registry: CollectorRegistry,
    statuses: StatusTable,
    largest_body: LargestBody,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
    is_page: Callable[[str], bool] = lambda _path: False,
) -> FastAPI:
    """An app without routes of its own but ``/metrics`` and ``/v1/openapi.json``, both for viewers.

    Nobody is served unknown, but at `OPEN_PATHS`.

    Args:
        title: the service's name in OpenAPI.
        tokens: who holds which token.
        registry: what ``/metrics`` shows.
        statuses: which of the service's errors is which HTTP status.
        largest_body: of whom, and where.
        lifespan: what runs while the app does.
        is_page: paths of an application behind this one, which asks by itself who comes.
    """
    app = FastAPI(
        title=title,
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        responses=PROBLEM_RESPONSES,
        dependencies=[Depends(check_query)],
    )
    # The last that is added is the first that a request meets.
    expose_process(registry, title)
    app.add_middleware(ETags)
    app.add_middleware(BodyLimit, largest=largest_body)
    app.add_middleware(
        TokenFirst,
        tokens=tokens,
        is_open=lambda path: path in OPEN_PATHS or is_page(path),
        statuses=statuses,
    )
    app.add_middleware(CountedCalls, figures=CallFigures(registry))
    install_problems(app, statuses)

    @app.get("/metrics", tags=["operations"], response_class=Response)
    def metrics(_viewer: Viewer) -> Response:
        """Prometheus text format."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/openapi.json", include_in_schema=False)
    def openapi(_viewer: Viewer) -> dict[str, Any]:
        """This API as OpenAPI 3.1, with examples."""
        return app.openapi()

    undocumented = app.openapi

    def documented() -> dict[str, Any]:
        return app.openapi_schema or _with_nulls(document_etags(undocumented()))

    app.openapi = documented  # type: ignore[method-assign] # how FastAPI's documentation extends it
    return app


def _with_nulls(document: dict[str, Any]) -> dict[str, Any]:
    """Examples with what is null in them, which FastAPI leaves out: a member that is always there is there in an example too."""
    for schema in document.get("components", {}).get("schemas", {}).values():
        example = schema.get("example")
        for name in schema.get("required", ()) if isinstance(example, dict) else ():
            if {"type": "null"} in schema["properties"][name].get("anyOf", ()):
                example.setdefault(name, None)
    return document
