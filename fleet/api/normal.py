"""Accept as normal: people say that devices may learn the windows they set aside."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints

from fleet.acceptance import Wanted, accept_normal, accept_normal_of
from fleet.api.dependencies import Services, get_services
from fleet.device_query import device_filter
from fleet.views.commands import AcceptanceView
from service.access import require
from service.idempotency import IdempotencyKey, request_digest
from service.roles import Caller, Role

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["devices"])


class NormalAccepted(BaseModel):
    """Which windows are normal: those set aside up to `until_s` (Unix seconds; null: up to now).

    A device with an alarm among them that was judged true is left out, unless `include_true_alarms`. With `dry_run`
    nothing is changed.
    """

    model_config = ConfigDict(extra="forbid")
    until_s: FiniteFloat | None = None
    include_true_alarms: bool = False
    dry_run: bool = False

    def wanted(self, caller: Caller, key: str | None) -> Wanted:
        """The request without the question of which devices."""
        return Wanted(
            until_s=self.until_s,
            include_true_alarms=self.include_true_alarms,
            dry_run=self.dry_run,
            request_key=key and request_digest(caller, key),
        )


class NormalAcceptedByQuery(NormalAccepted):
    """The same for every enrolled device that `query` selects; ``id==*`` is how all of them are meant."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"query": "site==hall-1", "until_s": 1767225600.0, "dry_run": True}}
    )
    query: Annotated[str, StringConstraints(strip_whitespace=True)] = Field(min_length=1)


@router.post("/devices/{device_id}/normal")
def accept_one(
    device_id: str,
    caller: Annotated[Caller, Depends(require(Role.OPERATOR))],
    services: Annotated[Services, Depends(get_services)],
    asked: NormalAccepted | None = None,
    idempotency_key: IdempotencyKey = None,
) -> AcceptanceView:
    """Say that what a device set aside is normal: it may learn it. Without a body: all that it set aside until now.

    Durable when answered; the device hears of it as a command `accept-as-normal`, whose end stands with the others of
    `/v1/devices/{id}/commands`. 409 names an alarm that was judged true.
    """
    asked = asked or NormalAccepted()
    accepted = accept_normal_of(
        services.database,
        services.publisher,
        device_id,
        asked.wanted(caller, idempotency_key),
        actor=caller.actor,
        now=services.now(),
    )
    return AcceptanceView(dry_run=asked.dry_run, **asdict(accepted))


@router.post("/devices:accept-normal")
def accept_many(
    asked: NormalAcceptedByQuery,
    caller: Annotated[Caller, Depends(require(Role.OPERATOR))],
    services: Annotated[Services, Depends(get_services)],
    idempotency_key: IdempotencyKey = None,
) -> AcceptanceView:
    """Say that what many devices set aside is normal: those a query selects. Ask with `dry_run` first.

    Devices with an alarm among the windows that was judged true are held back and named; the others are told.
    """
    accepted = accept_normal(
        services.database,
        services.publisher,
        device_filter(asked.query, where="body"),
        asked.wanted(caller, idempotency_key),
        actor=caller.actor,
        now=services.now(),
    )
    return AcceptanceView(dry_run=asked.dry_run, **asdict(accepted))
