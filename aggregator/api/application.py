"""The operator API as one FastAPI application; `aggregator.app` hands in what it needs."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from aggregator.api import privacy, programs, training_runs
from aggregator.errors import AggregatorError, RunConflictError, UnknownRunError
from aggregator.privacy.accounts import PrivacyAccounts
from aggregator.run_scheduler import RunScheduler
from aggregator.tokens import TokenStore
from service.application import create_application
from service.problems import StatusTable

__all__ = ["create_api"]

MAXIMUM_BODY_BYTES: Final = 64 * 1024
"""The largest request is Alertmanager's message: some 50 alerts; its `max_alerts` makes it smaller."""

STATUSES: Final[StatusTable] = {
    UnknownRunError: HTTPStatus.NOT_FOUND,
    RunConflictError: HTTPStatus.CONFLICT,
    AggregatorError: HTTPStatus.SERVICE_UNAVAILABLE,
}


def create_api(
    scheduler: RunScheduler,
    privacy_accounts: PrivacyAccounts,
    tokens: TokenStore,
    registry: CollectorRegistry,
    health: Callable[[], dict[str, Any]],
) -> FastAPI:
    """Build the API. `health` is what ``/healthz`` says: open to all, so nothing in it may be a secret."""
    api = create_application(
        title="Fedge aggregator",
        tokens=tokens,
        registry=registry,
        statuses=STATUSES,
        largest_body=lambda _caller, _method, _path: MAXIMUM_BODY_BYTES,
    )
    api.state.scheduler, api.state.privacy = scheduler, privacy_accounts
    for module in (training_runs, programs, privacy):
        api.include_router(module.router)

    @api.get("/healthz", tags=["operations"])
    async def healthz() -> dict[str, Any]:
        """Whether the aggregator is up, and whether it sees the broker."""
        return health()

    return api
