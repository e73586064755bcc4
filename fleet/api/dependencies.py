"""What every endpoint may ask for: the services, and a device as the caller (operators: `service.access`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from fastapi import Depends, Request

from fleet.aggregator_client import AggregatorClient
from fleet.auth.web_sessions import WebSessions
from fleet.broker_door.shut_out import BrokerDoor
from fleet.changes.hub import ChangeHub
from fleet.desired import DesiredPublisher
from fleet.enrolment import Enrolments
from fleet.ingest.store import EventStore
from fleet.instructions import Instructions
from fleet.metrics import FleetMetrics
from fleet.releases import ReleaseStore
from fleet.settings import Settings
from fleet.storage.base import Database
from fleet.trust.repository import TrustRepository
from service.access import bearer_token, caller_of, check_role, require_kind
from service.roles import Caller, CallerKind, Role

__all__ = [
    "Services",
    "get_services",
    "require_device",
    "require_device_or",
]


@dataclass(frozen=True, kw_only=True)
class Services:
    """Everything an endpoint may use; built once in `fleet.app` and kept at ``app.state.services``."""

    settings: Settings
    database: Database
    releases: ReleaseStore
    trust: TrustRepository
    publisher: DesiredPublisher
    instructions: Instructions
    events: EventStore
    metrics: FleetMetrics
    wake_rollouts: Callable[[], None]  # called after anything a rollout may wait for; from any thread
    enrolments: Enrolments
    changes: ChangeHub
    sessions: WebSessions
    door: BrokerDoor  # told after whatever shuts a device out
    aggregator: AggregatorClient
    now: Callable[[], float] = field(default=time.time)  # Unix seconds


async def get_services(request: Request) -> Services:
    """The services of the app that answers this request."""
    services: Services = request.app.state.services
    return services


require_device: Final = require_kind(CallerKind.DEVICE)
"""A dependency that lets enrolled devices pass: they sign a short-lived token with their identity key."""


def require_device_or(*roles: Role) -> Callable[..., Any]:
    """A dependency that lets enrolled devices pass, and operators as in `service.access.require`."""

    async def dependency(request: Request, _token: Annotated[str, Depends(bearer_token)]) -> Caller:
        caller = caller_of(request.state)
        return caller if caller.kind is CallerKind.DEVICE else check_role(caller, *roles)

    return dependency
