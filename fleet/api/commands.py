"""Commands: tell one device, or all that a query selects, to do something once."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from sqlalchemy import select
from sqlalchemy.orm import Session

from fleet.api.dependencies import Services, get_services, require_device
from fleet.command_results import hear_results
from fleet.device_commands import (
    Given,
    Order,
    batched,
    cancel_command,
    check_reachable,
    find_command,
    give_commands,
)
from fleet.device_query import device_filter
from fleet.errors import ConflictError, NotFoundError, UnacceptableError
from fleet.ingest.report_seals import check_sealed_by
from fleet.lookups import devices as lookups
from fleet.storage.device_tables import Device, DeviceState
from fleet.views.commands import CommandsGiven, CommandView
from protocol.limits import MAX_INTEGER
from protocol.messages.commands import CommandResult
from protocol.messages.envelope import CLOUD_EVENT, decode
from protocol.messages.kinds import CommandAction, CommandStatus, Kind
from service.access import require
from service.idempotency import IdempotencyKey, request_digest
from service.paging import After, Limit, Page
from service.roles import Caller, Role

__all__ = ["SelectedBy", "chosen_by", "router"]

router = APIRouter(prefix="/v1", tags=["commands"])

WEEK_S: Final = 7 * 86400.0
Action = Literal["reactivate", "recommission", "diagnose", "retry-parked"]
Number = Annotated[int, Path(ge=1, le=MAX_INTEGER)]
SelectedBy = Annotated[str, StringConstraints(strip_whitespace=True), Field(min_length=1)]


class CommandAsked(BaseModel):
    """What a device shall do once, and how long it may take to hear of it.

    `afresh` goes with `recommission`: the scale so far is forgotten, which the device's own agent.toml must allow.
    (`accept-as-normal` has a call of its own, because alarms that were judged true hold it back.)
    """

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"action": "recommission", "expires_in_s": 86400}}
    )
    action: Action
    afresh: bool = False
    expires_in_s: Annotated[float, Field(ge=60, le=90 * 86400)] = WEEK_S

    @model_validator(mode="after")
    def _check_arguments(self) -> Self:
        if self.afresh and self.action != "recommission":
            raise ValueError(f"afresh goes with recommission, and not with {self.action}")
        return self

    def order(self, now: float, caller: Caller, key: str | None) -> Order:
        """The request as it is carried out."""
        return Order(
            action=CommandAction(self.action),
            arguments={"afresh": True} if self.afresh else {},
            expires_at=now + self.expires_in_s,
            request_key=key and request_digest(caller, key),
        )


class CommandAskedByQuery(CommandAsked):
    """The same for every enrolled device that `query` selects; ``id==*`` is how all of them are meant."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"action": "diagnose", "query": "agent_state==blind", "dry_run": True}}
    )
    query: SelectedBy
    dry_run: bool = False


@router.post("/devices/{device_id}/commands", status_code=201)
def give_one(
    device_id: str,
    asked: CommandAsked,
    response: Response,
    caller: Annotated[Caller, Depends(require(Role.OPERATOR))],
    services: Annotated[Services, Depends(get_services)],
    idempotency_key: IdempotencyKey = None,
) -> CommandView:
    """Tell a device to do something once. Durable when answered; the device hears of it as soon as it can.

    409 where one of its kind is outstanding, or the device is shut out. With an ``Idempotency-Key`` that was used
    before: 200 and that command.
    """
    now = services.now()
    with services.database.write() as session:
        check_reachable(session, device_id)
        order = asked.order(now, caller, idempotency_key)
        given = give_commands(session, [device_id], order, actor=caller.actor, now=now)
        if device_id in given.held_back:
            raise ConflictError(given.held_back[device_id])
        session.flush()
        view = CommandView.model_validate(find_command(session, device_id, given.numbers[device_id]))
    _announce(services, given, asked.action)
    if not given.new:
        response.status_code = 200
    return view


@router.post("/devices:command")
def give_many(
    asked: CommandAskedByQuery,
    caller: Annotated[Caller, Depends(require(Role.OPERATOR))],
    services: Annotated[Services, Depends(get_services)],
    idempotency_key: IdempotencyKey = None,
) -> CommandsGiven:
    """Tell many devices: those a query selects now. Ask with `dry_run` first.

    Devices that have one of its kind outstanding are held back and named; the others are told, 500 at a time: should the
    service end in between, the same ``Idempotency-Key`` goes on where it was.
    """
    now = services.now()
    order = asked.order(now, caller, idempotency_key)
    total = Given(numbers={}, held_back={}, new=0)
    with services.database.read() as session:
        chosen = chosen_by(session, asked.query)
    for some in batched(chosen):
        with services.database.read() if asked.dry_run else services.database.write() as session:
            given = give_commands(session, some, order, actor=caller.actor, now=now, dry_run=asked.dry_run)
        total.numbers.update(given.numbers)
        total.held_back.update(given.held_back)
        if not asked.dry_run:
            _announce(services, given, asked.action)
    return CommandsGiven(
        action=asked.action, dry_run=asked.dry_run, commands=total.numbers, held_back=total.held_back
    )


@router.get("/devices/{device_id}/commands", dependencies=[Depends(require(Role.VIEWER))])
def list_commands(
    device_id: str,
    after: After = None,
    limit: Limit = 100,
    services: Services = Depends(get_services),
) -> Page[CommandView]:
    """What a device was told to do and what became of it, newest first; the last hundred that are over are kept."""
    with services.database.read() as session:
        return lookups.list_commands(session, device_id, after=after, limit=limit)


@router.get("/devices/{device_id}/commands/{number}", dependencies=[Depends(require(Role.VIEWER))])
def show_command(device_id: str, number: Number, services: Services = Depends(get_services)) -> CommandView:
    """One command; 404 where there is none, or it was over long ago."""
    with services.database.read() as session:
        return CommandView.model_validate(find_command(session, device_id, number))


@router.get(
    "/devices/{device_id}/commands/{number}/report",
    dependencies=[Depends(require(Role.OPERATOR))],
    response_class=Response,
    responses={200: {"content": {"application/gzip": {}}, "description": "as the device sent it"}},
)
def read_report(device_id: str, number: Number, services: Services = Depends(get_services)) -> Response:
    """What a command fetched: of `diagnose` a bundle of log and state, gzip-compressed JSON. The last five are kept."""
    with services.database.read() as session:
        report = find_command(session, device_id, number).report
    if report is None:
        raise NotFoundError(f"command {number} of {device_id[:80]!r} has fetched nothing, or it was let go")
    name = f"{device_id}-{number}.json.gz"
    return Response(
        report,
        media_type="application/gzip",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


@router.post("/devices/{device_id}/commands/{number}:cancel")
def cancel(
    device_id: str,
    number: Number,
    caller: Annotated[Caller, Depends(require(Role.OPERATOR))],
    services: Annotated[Services, Depends(get_services)],
) -> CommandView:
    """Take a command back. A device that has begun it, or begins at this moment, may carry it out all the same; it says so."""
    with services.database.write() as session:
        cancel_command(session, device_id, number, actor=caller.actor, now=services.now())
        view = CommandView.model_validate(find_command(session, device_id, number))
    services.publisher.announce([device_id], Kind.COMMANDS)
    services.metrics.commands.labels(view.action, view.status.value).inc()
    return view


async def _sealed_message(request: Request) -> bytes:
    if not request.headers.get("content-type", "").startswith(CLOUD_EVENT):
        raise UnacceptableError(
            f"a result is a sealed message ({CLOUD_EVENT}), as over MQTT; this agent is older than the fleet: install the fleet's"
            " version of it"
        )
    return await request.body()


@router.post(
    "/device/results",
    tags=["for devices"],
    status_code=204,
    openapi_extra={
        "requestBody": {"required": True, "content": {CLOUD_EVENT: {"schema": {"type": "object"}}}}
    },
)
def hear_result(
    caller: Annotated[Caller, Depends(require_device)],
    message: Annotated[bytes, Depends(_sealed_message)],
    services: Annotated[Services, Depends(get_services)],
) -> None:
    """What became of a command of the calling device: its MQTT message, sealed by its identity key. Said again, it changes nothing."""
    event, now = decode(message, Kind.RESULT), services.now()
    with services.database.write() as session:
        key = session.get_one(Device, caller.name).public_key
        check_sealed_by(key, event, services.settings.tenant, now)
        if event.source != caller.name or not isinstance(event.data, CommandResult):
            raise UnacceptableError(
                f"this result is of device {event.source[:80]!r}, and {caller.name!r} brought it"
            )
        heard = hear_results(session, [(caller.name, event.data)], now)
    services.metrics.count_commands(heard.changed)
    services.publisher.announce(heard.commanded, Kind.COMMANDS)
    services.publisher.announce(heard.desiring)


def _announce(services: Services, given: Given, action: str) -> None:
    services.publisher.announce(given.numbers, Kind.COMMANDS)
    services.metrics.commands.labels(action, CommandStatus.WAITING.value).inc(given.new)


def chosen_by(session: Session, query: str) -> list[str]:
    """The enrolled devices that a query selects, by id."""
    enrolled = device_filter(query, where="body") & (Device.state == DeviceState.ENROLLED)
    return list(session.scalars(select(Device.id).where(enrolled).order_by(Device.id)))
