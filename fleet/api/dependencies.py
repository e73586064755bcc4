"""What every endpoint may ask for: the services, the caller, a page.

Endpoints declare who may call: ``caller: Caller = Depends(require(Role.OPERATOR))``. There is no default: a
route without such a dependency is open, which only ``/healthz`` and the enrolment (its own token) are; a test
walks all routes and holds this fast.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from fleet.auth import operator_tokens
from fleet.auth.device_tokens import authenticate_device
from fleet.auth.roles import Caller, allows
from fleet.desired import DesiredPublisher
from fleet.errors import ForbiddenError, UnauthenticatedError
from fleet.metrics import FleetMetrics
from fleet.releases import ReleaseStore
from fleet.settings import Settings
from fleet.storage.access_tables import Role
from fleet.storage.base import Database

__all__ = [
    "Services",
    "bearer_token",
    "get_services",
    "require",
    "require_device",
    "require_device_or",
]


@dataclass(frozen=True, kw_only=True)
class Services:
    """Everything an endpoint may use; built once in `fleet.app` and kept at ``app.state.services``."""

    settings: Settings
    database: Database
    releases: ReleaseStore
    publisher: DesiredPublisher
    metrics: FleetMetrics
    wake_rollouts: Callable[[], None]  # called after anything a rollout may wait for; from any thread
    broker_accounts_changed: Callable[[], None]  # rewrites the broker's password file
    reserved_devices: frozenset[str]  # broker accounts of services: no device may take these ids
    now: Callable[[], float] = field(default=time.time)  # Unix seconds


_bearer = HTTPBearer(auto_error=False, description="fo_… operator token, device ES256 token, or claim token")


def get_services(request: Request) -> Services:
    """The services of the app that answers this request."""
    services: Services = request.app.state.services
    return services


def bearer_token(
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> str:
    """The bearer token, or UnauthenticatedError when there is none."""
    if credentials is None:
        raise UnauthenticatedError("this call needs an Authorization header: Bearer <token>")
    return credentials.credentials


def require(*roles: Role) -> Callable[..., Caller]:
    """A dependency that lets operators pass whose role allows what any of `roles` may."""

    def dependency(
        token: Annotated[str, Depends(bearer_token)], services: Annotated[Services, Depends(get_services)]
    ) -> Caller:
        return _operator(token, services, roles)

    return dependency


def require_device(
    token: Annotated[str, Depends(bearer_token)], services: Annotated[Services, Depends(get_services)]
) -> Caller:
    """A dependency that lets enrolled devices pass."""
    if token.startswith(operator_tokens.PREFIX):
        raise ForbiddenError("this call is for devices; an operator token was given")
    with services.database.read() as session:
        return authenticate_device(session, token, services.now())


def require_device_or(*roles: Role) -> Callable[..., Caller]:
    """A dependency that lets enrolled devices pass, and operators as in `require`."""

    def dependency(
        token: Annotated[str, Depends(bearer_token)], services: Annotated[Services, Depends(get_services)]
    ) -> Caller:
        if token.startswith(operator_tokens.PREFIX):
            return _operator(token, services, roles)
        return require_device(token, services)

    return dependency


def _operator(token: str, services: Services, roles: tuple[Role, ...]) -> Caller:
    with services.database.read() as session:
        caller = operator_tokens.find_caller(session, token)
    if caller.role is None or not allows(caller.role, *roles):
        wanted = " or ".join(role.value for role in roles)
        raise ForbiddenError(f"token {caller.name!r} has role {caller.role}; this call needs {wanted}")
    return caller
