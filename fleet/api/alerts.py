"""Alerts: what somebody was told, who was told, and that somebody need not be told for a while."""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from sqlalchemy import ColumnElement, select, true
from sqlalchemy.orm import Session

from fleet import audit
from fleet.alert_settings import AlertKind, AnyReceiver
from fleet.alerts.alarms import end_by_hand
from fleet.alerts.delivering import send_safely
from fleet.alerts.messages import trial_message
from fleet.alerts.outbox import Delivered, Later, try_again
from fleet.alerts.receivers.assembly import open_sender
from fleet.alerts.silences import create_silence, end_silence
from fleet.api.dependencies import Services, get_services
from fleet.api.paging import RowId, equals
from fleet.errors import NotFoundError
from fleet.storage.alert_tables import Alert, AlertGroup, AlertSilence
from fleet.views.alerts import (
    AlertView,
    GroupView,
    GroupWithDeliveries,
    ReceiverView,
    RetryView,
    SilenceView,
    TestView,
    deliveries_of,
    show_alerts,
    show_groups,
    show_receivers,
)
from service.access import require
from service.paging import After, Limit, Page, cut_page, decode_row_cursor
from service.roles import Caller, Role

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["alerts"])

OfKind = Annotated[AlertKind | None, Query(description="of this kind")]
IsOpen = Annotated[bool | None, Query(alias="open", description="whether it is not over yet")]
OfDevice = Annotated[str | None, Query(max_length=64)]
OfFamily = Annotated[str | None, Query(max_length=64)]
OfGroup = Annotated[str | None, Query(max_length=64, description="name of a storm")]
ReceiverName = Annotated[str, Path(max_length=64)]
GroupName = Annotated[str, Path(max_length=64)]
UnixTime = Annotated[FiniteFloat, Field(ge=0, le=1e11)]


class SilenceAsked(BaseModel):
    """Devices that `query` selects (the empty query: all, and what is about no device), for a time, Unix s; none given: from now."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {"query": "site==hall-1", "ends_at": 4102444800, "comment": "new conveyor"}
        },
    )
    query: Annotated[str, Field(max_length=2000)] = ""
    kinds: Annotated[list[AlertKind], Field(max_length=32)] = []
    comment: Annotated[str, Field(max_length=500)] = ""
    starts_at: UnixTime | None = None
    ends_at: UnixTime


@router.get("/alerts", dependencies=[Depends(require(Role.VIEWER))])
def list_alerts(
    *,
    services: Annotated[Services, Depends(get_services)],
    is_open: IsOpen = None,
    kind: OfKind = None,
    device: OfDevice = None,
    family: OfFamily = None,
    group: OfGroup = None,
    after: After = None,
    limit: Limit = 100,
) -> Page[AlertView]:
    """Alarms, one a subject and kind, the newest first."""
    rows = select(Alert).where(
        _is(Alert.ended_at.is_(None) & Alert.settled_at.is_(None), is_open),
        equals(Alert.kind, kind),
        true() if device is None else Alert.device == device,
        equals(Alert.family, family),
    )
    if group is not None:
        rows = rows.join(AlertGroup, AlertGroup.id == Alert.group).where(AlertGroup.name == group)
    if after:
        rows = rows.where(Alert.id < decode_row_cursor(after))
    with services.database.read() as session:
        views = show_alerts(session, rows.order_by(Alert.id.desc()).limit(limit + 1))
    return cut_page(views, limit, key=lambda view: view.id)


@router.post("/alerts/{alert_id}:end")
def end_alert_by_hand(
    alert_id: RowId,
    caller: Annotated[Caller, Depends(require(Role.OPERATOR))],
    services: Annotated[Services, Depends(get_services)],
) -> AlertView:
    """Say that an alarm is over whose end nothing will tell: of a device that was scrapped, of an end that was lost.

    409 where it is over already. Should it be said again, it is the same alarm or a new one, as always.
    """
    with services.database.write() as session:
        end_by_hand(session, alert_id, actor=caller.actor, now=services.now())
        (view,) = show_alerts(session, select(Alert).where(Alert.id == alert_id))
    return view


@router.get("/alert-groups", dependencies=[Depends(require(Role.VIEWER))])
def list_groups(
    *,
    services: Annotated[Services, Depends(get_services)],
    is_open: IsOpen = None,
    kind: OfKind = None,
    family: OfFamily = None,
    after: After = None,
    limit: Limit = 100,
) -> Page[GroupView]:
    """Storms, each of which is one message and one resolution, the newest first."""
    rows = select(AlertGroup).where(
        _is(AlertGroup.resolved_at.is_(None), is_open),
        equals(AlertGroup.kind, kind),
        equals(AlertGroup.family, family),
    )
    if after:
        rows = rows.where(AlertGroup.id < decode_row_cursor(after))
    with services.database.read() as session:
        views = show_groups(
            session, rows.order_by(AlertGroup.id.desc()).limit(limit + 1), services.settings.tenant
        )
    return cut_page(views, limit, key=lambda view: view.id)


@router.get("/alert-groups/{name}", dependencies=[Depends(require(Role.VIEWER))])
def show_group(name: GroupName, services: Annotated[Services, Depends(get_services)]) -> GroupWithDeliveries:
    """One storm, with who was told of it and what became of that."""
    with services.database.read() as session:
        found = show_groups(
            session, select(AlertGroup).where(AlertGroup.name == name), services.settings.tenant
        )
        if not found:
            raise NotFoundError(f"there is no storm {name!r}; list them with GET /v1/alert-groups")
        return GroupWithDeliveries(**found[0].model_dump(), deliveries=deliveries_of(session, found[0].id))


@router.get("/alert-receivers", dependencies=[Depends(require(Role.VIEWER))])
def list_receivers(services: Annotated[Services, Depends(get_services)]) -> Page[ReceiverView]:
    """Who is told of what, and how each does. Addresses and secrets are on the server alone."""
    with services.database.read() as session:
        return Page(items=show_receivers(session, services.settings.alerts))


@router.post("/alert-receivers/{name}:test")
async def test_receiver(
    name: ReceiverName,
    caller: Annotated[Caller, Depends(require(Role.OPERATOR))],
    services: Annotated[Services, Depends(get_services)],
) -> TestView:
    """Send a receiver a message that says it is a test, now, past the outbox; answers with what became of it."""
    receiver = _receiver(services, name)
    message = trial_message(services.settings.tenant, services.now(), secrets.token_hex(6))
    outcome = await send_safely(open_sender(receiver), [message])
    _note(services, caller, "alert_receiver_tested", name)
    if isinstance(outcome, Delivered):
        return TestView(outcome="delivered", reason=outcome.remark)
    return TestView(outcome="later" if isinstance(outcome, Later) else "refused", reason=outcome.reason)


@router.post("/alert-receivers/{name}:retry")
def retry_receiver(
    name: ReceiverName,
    caller: Annotated[Caller, Depends(require(Role.OPERATOR))],
    services: Annotated[Services, Depends(get_services)],
) -> RetryView:
    """Have everything sent again that this receiver refused, and have it asked at once, however it failed before."""
    _receiver(services, name)
    with services.database.write() as session:
        again = try_again(session, name, services.now())
        _record(session, services, caller, "alerts_retried", name)
    return RetryView(again=again)


@router.get("/alert-silences", dependencies=[Depends(require(Role.VIEWER))])
def list_silences(
    *,
    services: Annotated[Services, Depends(get_services)],
    is_open: IsOpen = None,
    after: After = None,
    limit: Limit = 100,
) -> Page[SilenceView]:
    """Silences, the newest first."""
    rows = select(AlertSilence).where(_is(AlertSilence.ends_at > services.now(), is_open))
    if after:
        rows = rows.where(AlertSilence.id < decode_row_cursor(after))
    with services.database.read() as session:
        found = session.scalars(rows.order_by(AlertSilence.id.desc()).limit(limit + 1))
        views = [SilenceView.model_validate(one) for one in found]
    return cut_page(views, limit, key=lambda view: view.id)


@router.post("/alert-silences", status_code=201)
def make_silence(
    asked: SilenceAsked,
    caller: Annotated[Caller, Depends(require(Role.OPERATOR))],
    services: Annotated[Services, Depends(get_services)],
) -> SilenceView:
    """Have nobody told of some devices for a time: maintenance. What lasts longer than that is told then."""
    now = services.now()
    with services.database.write() as session:
        silence = create_silence(
            session,
            query=asked.query,
            kinds=asked.kinds,
            comment=asked.comment,
            starts_at=now if asked.starts_at is None else asked.starts_at,
            ends_at=asked.ends_at,
            actor=caller.actor,
            now=now,
        )
        return SilenceView.model_validate(silence)


@router.get("/alert-silences/{silence_id}", dependencies=[Depends(require(Role.VIEWER))])
def show_silence(silence_id: RowId, services: Annotated[Services, Depends(get_services)]) -> SilenceView:
    """One silence."""
    with services.database.read() as session:
        silence = session.get(AlertSilence, silence_id)
        if silence is None:
            raise NotFoundError(f"there is no silence {silence_id}; list them with GET /v1/alert-silences")
        return SilenceView.model_validate(silence)


@router.post("/alert-silences/{silence_id}:end")
def end_silence_now(
    silence_id: RowId,
    caller: Annotated[Caller, Depends(require(Role.OPERATOR))],
    services: Annotated[Services, Depends(get_services)],
) -> SilenceView:
    """End a silence before its time; what it covers and still lasts is told. 409 where it has ended."""
    with services.database.write() as session:
        silence = end_silence(session, silence_id, actor=caller.actor, now=services.now())
        return SilenceView.model_validate(silence)


def _is(condition: ColumnElement[bool], wanted: bool | None) -> ColumnElement[bool]:
    return true() if wanted is None else (condition if wanted else ~condition)


def _receiver(services: Services, name: str) -> AnyReceiver:
    for receiver in services.settings.alerts.receivers:
        if receiver.name == name:
            return receiver
    names = ", ".join(receiver.name for receiver in services.settings.alerts.receivers)
    raise NotFoundError(
        f"there is no receiver {name[:80]!r}; {f'there are {names}' if names else 'none is set: [[alerts.receivers]]'}"
    )


def _note(services: Services, caller: Caller, action: str, name: str) -> None:
    with services.database.write() as session:
        _record(session, services, caller, action, name)


def _record(session: Session, services: Services, caller: Caller, action: str, name: str) -> None:
    audit.record(
        session, at=services.now(), actor=caller.actor, action=action, subject=f"alert-receiver/{name}"
    )
