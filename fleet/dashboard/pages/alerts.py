"""``/alerts``: what is open, who is told and whether it arrives, and silences; and one storm with its devices and deliveries."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import Response

from fleet.alert_settings import AlertKind
from fleet.api import alerts as api
from fleet.api.dependencies import Services, get_services
from fleet.api.paging import RowId
from fleet.dashboard.access import signed_in
from fleet.dashboard.notices import see_other
from fleet.dashboard.rendering import page
from service.paging import After
from service.roles import Caller, Role

__all__ = ["router"]

router = APIRouter(prefix="/alerts", include_in_schema=False)

ROWS: Final = 50
MEMBERS: Final = 200
LIVE: Final = ("alert", "audit")
HOUR_S: Final = 3600.0

Viewer = Annotated[Caller, Depends(signed_in())]
Operator = Annotated[Caller, Depends(signed_in(Role.OPERATOR))]
Shared = Annotated[Services, Depends(get_services)]
Words = Annotated[str, Form(max_length=2000)]
Hours = Annotated[float, Form(gt=0, le=92 * 24)]


@router.get("")
def show_alerts(
    request: Request,
    _caller: Viewer,
    services: Shared,
    group: Annotated[str | None, Query(max_length=64)] = None,
    kind: AlertKind | None = None,
    after: After = None,
    over: bool = False,
) -> Response:
    """Storms that are open, or over; or the one that a message links to."""
    if group is not None:
        return _storm(request, services, group)
    found = api.list_groups(services=services, is_open=not over, kind=kind, after=after, limit=ROWS)
    return page(
        request,
        "alerts.html",
        title="Alerts",
        live=LIVE,
        storms=found.items,
        receivers=api.list_receivers(services).items,
        silences=api.list_silences(services=services, is_open=True, limit=ROWS).items,
        kinds=list(AlertKind),
        kind=kind,
        over=over,
        after=after,
        next_cursor=found.next_cursor,
    )


@router.post("/silences")
def make_silence(
    _request: Request,
    caller: Operator,
    services: Shared,
    hours: Hours,
    query: Words = "",
    comment: Annotated[str, Form(max_length=500)] = "",
    kind: Annotated[list[AlertKind], Form(max_length=32)] = [],  # noqa: B006 - FastAPI copies it
) -> Response:
    """Have nobody told of some devices from now on."""
    asked = api.SilenceAsked(
        query=query, kinds=kind, comment=comment, ends_at=services.now() + hours * HOUR_S
    )
    made = api.make_silence(asked, caller, services)
    return see_other("/alerts", f"silence {made.id} has begun")


@router.post("/silences/{number}/end")
def end_silence(number: RowId, caller: Operator, services: Shared) -> Response:
    """End one before its time."""
    api.end_silence_now(number, caller, services)
    return see_other("/alerts", f"silence {number} has ended; what still lasts is told")


@router.post("/receivers/{name}/test")
async def test_receiver(name: api.ReceiverName, caller: Operator, services: Shared) -> Response:
    """Send a receiver a message that says it is a test."""
    done = await api.test_receiver(name, caller, services)
    said = f"{name} has it" if done.outcome == "delivered" else f"{name} has not got it: {done.reason}"
    return see_other("/alerts", said)


@router.post("/receivers/{name}/retry")
def retry_receiver(name: api.ReceiverName, caller: Operator, services: Shared) -> Response:
    """Send again what was parked."""
    done = api.retry_receiver(name, caller, services)
    return see_other("/alerts", f"{done.again} messages wait again; {name} is asked at once")


@router.post("/{number}/end")
def end_alert(
    number: RowId, caller: Operator, services: Shared, group: Annotated[str, Form(max_length=64)] = ""
) -> Response:
    """Say that an alarm is over whose end nothing will tell."""
    ended = api.end_alert_by_hand(number, caller, services)
    return see_other(
        f"/alerts?group={ended.group or group}" if ended.group or group else "/alerts",
        f"{ended.kind} of {ended.subject} is over",
    )


def _storm(request: Request, services: Services, name: str) -> Response:
    storm = api.show_group(name, services)
    members = api.list_alerts(services=services, group=name, limit=MEMBERS)
    values: dict[str, Any] = {"storm": storm, "members": members.items}
    return page(
        request,
        "alert.html",
        title=storm.title,
        live=LIVE,
        is_cut=members.next_cursor is not None,
        where=_where,
        **values,
    )


def _where(kind: AlertKind, subject: str, device: str | None) -> str | None:
    """The page of whom an alert is about."""
    if device is not None:
        return f"/devices/{device}"
    match kind:
        case AlertKind.ROLLOUT | AlertKind.APPROVAL:
            return f"/rollouts/{subject}"
        case AlertKind.RELEASE | AlertKind.PRECISION:
            return f"/releases/{subject}"
        case _:
            return None
