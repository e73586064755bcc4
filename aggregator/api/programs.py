"""``POST /v1/families/{family}:train``: by which other programs start a training run. Airflow, Argo, Kubeflow; Alertmanager as it is.

A workflow sends ``{"reason": …}`` and an ``Idempotency-Key``. Alertmanager's webhook sends what it always sends and cannot be told
otherwise: its key is the alert group and since when it fires, so that what it repeats every few hours is one wish. Whatever is asked,
a family trains once at a time and rests between two runs (`RunScheduler.start_for_program`), so nothing that loops can exhaust devices.

Source: Prometheus, "Alerting: Configuration", webhook_config, version 4 of the message (2024).
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter, Body, Depends, Path, Request, Response
from msgspec import Meta, Struct
from pydantic import BaseModel, ConfigDict, WithJsonSchema

from aggregator.run_scheduler import Asked, RunScheduler
from runtime.errors import Refused
from runtime.printable import printable
from service.access import require
from service.errors import InvalidBodyError
from service.idempotency import IdempotencyKey, request_digest
from service.json_bodies import json_schema, read_json_body
from service.roles import Caller, Role

__all__ = ["router"]

router = APIRouter(prefix="/v1/families", tags=["training runs"])

Operator = Annotated[Caller, Depends(require(Role.OPERATOR))]
Family = Annotated[str, Path(max_length=64, examples=["rotating-machine"])]

MOST_REASON: Final = 500
NO_FIRE: Final = "nothing fires: the alert has resolved"


class Wish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a workflow asks for; `rounds` left out takes the family's setting."""

    reason: Annotated[str, Meta(min_length=1, max_length=MOST_REASON)] = "a program asked for it"
    rounds: Annotated[int, Meta(ge=0, le=1000)] | None = None


class Alert(Struct, frozen=True, kw_only=True, rename="camel"):
    """One alert of a group."""

    status: Literal["firing", "resolved"]
    starts_at: Annotated[str, Meta(max_length=64)]


class AlertGroup(Struct, frozen=True, kw_only=True, rename="camel"):
    """Alertmanager's message, as far as it matters here; it may say more."""

    group_key: Annotated[str, Meta(min_length=1, max_length=4096)]
    status: Literal["firing", "resolved"]
    alerts: Annotated[tuple[Alert, ...], Meta(max_length=10_000)] = ()
    common_labels: dict[str, str] = {}
    common_annotations: dict[str, str] = {}

    @property
    def key(self) -> str:
        """The same as long as the group fires without a break."""
        since = min((alert.starts_at for alert in self.alerts if alert.status == "firing"), default="")
        return f"{self.group_key}\n{since}"

    @property
    def reason(self) -> str:
        """Why it fires, in one line."""
        words = self.common_annotations.get("summary") or self.common_annotations.get("description") or ""
        name = self.common_labels.get("alertname", "a group of alerts")
        return printable(f"{name} fires: {words}" if words else f"{name} fires")[:MOST_REASON]


WISH: Final = {"reason": "the weekly pipeline has passed", "rounds": 5}
ALERT: Final = {
    "version": "4",
    "groupKey": '{}:{alertname="FleetDrifts"}',
    "status": "firing",
    "alerts": [{"status": "firing", "startsAt": "2026-01-01T00:00:00Z"}],
    "commonLabels": {"alertname": "FleetDrifts"},
    "commonAnnotations": {"summary": "30 % of the pumps have drifted"},
}
_SCHEMA: Final = {"anyOf": [json_schema(Wish, WISH), json_schema(AlertGroup, ALERT)]}


class Served(BaseModel):
    """What came of it. `run` is the run that serves the wish: started by this call where `started`, else there before; null: none."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"started": True, "run": "run-5f0c2f9a41d04b7e", "reason": "started"}}
    )
    started: bool
    run: str | None
    reason: str


@router.post(
    "/{family}:train",
    status_code=201,
    responses={200: {"model": Served, "description": "no run was started"}},
)
def train(
    family: Family,
    document: Annotated[dict[str, Any], WithJsonSchema(_SCHEMA), Body(title="Wish or alert")],
    request: Request,
    response: Response,
    caller: Operator,
    idempotency_key: IdempotencyKey = None,
) -> Served:
    """Start a training run of a family from another program; ask as often as you like. Give it an operator's token made with --program.

    201: a run was started. 200: none was, and `reason` says why: it was asked for before under this key, the family trains already, or it
    rests after its last run. A workflow gives an ``Idempotency-Key`` of its own run; an alert of Alertmanager brings its own.
    404: the family is not configured here.
    """
    scheduler: RunScheduler = request.app.state.scheduler
    if "groupKey" in document:
        group = _read_group(document)
        if group.status == "resolved":
            scheduler.policy_of(family)
            return _answer(Asked(reason=NO_FIRE), response)
        key, wish = group.key, Wish(reason=group.reason)
    else:
        wish = read_json_body(document, Wish)
        if idempotency_key is None:
            raise InvalidBodyError(
                "an Idempotency-Key header is needed, the same for each attempt of one run of your workflow (its run id)"
            ).about(Refused(field="Idempotency-Key", allowed="1 to 200 characters", where="header"))
        key = idempotency_key
    asked = scheduler.start_for_program(
        family,
        reason=wish.reason,
        requested_by=caller.name,
        rounds=wish.rounds,
        run_id=f"run-{request_digest(caller, f'{family} {key}')[:16]}",
    )
    return _answer(asked, response)


def _answer(asked: Asked, response: Response) -> Served:
    if not asked.is_new:
        response.status_code = 200
    return Served(started=asked.is_new, run=None if asked.run is None else asked.run.id, reason=asked.reason)


def _read_group(document: dict[str, Any]) -> AlertGroup:
    try:
        return msgspec.convert(document, AlertGroup)
    except msgspec.ValidationError as error:
        raise InvalidBodyError(f"this is no message of Alertmanager's webhook, version 4: {error}") from None
