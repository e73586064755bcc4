"""The operator API as one FastAPI application; `aggregator.app` hands in what it needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from aggregator.api.access import require
from aggregator.api.body_limit import BodyLimit
from aggregator.api.problems import install_problems
from aggregator.api.training_runs import router
from aggregator.tokens import Role, TokenStore
from aggregator.training_desk import TrainingDesk

__all__ = ["create_api"]

MAXIMUM_BODY_BYTES: Final = 64 * 1024
"""The largest request is a training run with a reason of 500 characters."""


def create_api(
    desk: TrainingDesk, tokens: TokenStore, registry: CollectorRegistry, health: Callable[[], dict[str, Any]]
) -> FastAPI:
    """Build the API. `health` is what ``/healthz`` says: open to all, so nothing in it may be a secret."""
    api = FastAPI(title="Fedge aggregator", docs_url=None, redoc_url=None, openapi_url=None)
    api.add_middleware(BodyLimit, maximum_bytes=MAXIMUM_BODY_BYTES)
    api.state.desk, api.state.tokens = desk, tokens
    install_problems(api)
    api.include_router(router)

    @api.get("/healthz", tags=["health"])
    def healthz() -> dict[str, Any]:
        """Whether the aggregator is up, and whether it sees the broker."""
        return health()

    @api.get("/metrics", tags=["health"])
    def metrics(_viewer: Annotated[str, Depends(require(Role.VIEWER))]) -> Response:
        """Prometheus text."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @api.get("/openapi.json", include_in_schema=False)
    def openapi(_viewer: Annotated[str, Depends(require(Role.VIEWER))]) -> dict[str, Any]:
        """The API's own description; behind a token like everything else."""
        return api.openapi()

    return api
