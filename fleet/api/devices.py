"""Devices: list by query, look at one, shut one out, and what a device itself asks for."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Header, Query, Response

from fleet.admission import revoke
from fleet.api.dependencies import Services, get_services, require_device
from fleet.desired import desired_state
from fleet.device_commands import words_for
from fleet.errors import NotAcceptableError
from fleet.instructions import Word
from fleet.lookups import devices as lookups
from fleet.lookups.devices import find_device_view
from fleet.releases import approved_among
from fleet.storage.device_tables import Desired
from fleet.views.devices import BootView, DeviceView
from protocol.messages.envelope import CLOUD_EVENT
from service.access import require
from service.confirmation import Confirmation, check_confirmed
from service.etags import is_known
from service.paging import After, Limit, Page
from service.roles import Caller, Role

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["devices"])


@router.get("/devices")
def list_devices(
    caller: Annotated[Caller, Depends(require(Role.VIEWER, Role.PUBLISHER))],
    services: Annotated[Services, Depends(get_services)],
    query: Annotated[
        str,
        Query(
            description="see fleet.device_query; empty selects all",
            examples=["hardware=in=(rpi4,rpi5) and site!=lab"],
        ),
    ] = "",
    after: After = None,
    limit: Limit = 100,
) -> Page[DeviceView]:
    """The devices a query selects, by id; the same language as a rollout's `target_query`.

    What a device is shown to run (`release`) is what it last said itself; `desired_release` is what it was told to run.
    """
    with services.database.read() as session:
        return lookups.list_devices(session, query, families=caller.families, after=after, limit=limit)


@router.get("/devices/{device_id}")
def show_device(
    device_id: str,
    _caller: Annotated[Caller, Depends(require(Role.VIEWER))],
    services: Annotated[Services, Depends(get_services)],
) -> DeviceView:
    """One device; 404 where it never enrolled. A revoked one is still shown."""
    with services.database.read() as session:
        return find_device_view(session, device_id)


@router.get("/devices/{device_id}/boots")
def list_boots(
    device_id: str,
    _caller: Annotated[Caller, Depends(require(Role.VIEWER))],
    services: Annotated[Services, Depends(get_services)],
    limit: Limit = 100,
) -> list[BootView]:
    """The latest starts of a device in their order, and where events of each are missing.

    Those are on their way, or were evicted from its outbox before they could be sent.
    """
    with services.database.read() as session:
        return lookups.list_boots(session, device_id, limit)


@router.post("/devices/{device_id}:revoke")
async def revoke_device(
    device_id: str,
    caller: Annotated[Caller, Depends(require(Role.ADMIN))],
    services: Annotated[Services, Depends(get_services)],
    asked: Confirmation | None = None,
) -> DeviceView:
    """Shut a device out for good: of HTTPS and ingest at once, of the broker before this answers.

    422 where `confirm` is not its id.

    503 says that the broker has not confirmed; the device is revoked all the same, and the broker hears of it as soon as
    it answers.
    """
    check_confirmed(asked, device_id, f"shutting out device {device_id[:80]}")

    def shut_out() -> DeviceView:
        with services.database.write() as session:
            revoke(session, device_id, actor=caller.actor, now=services.now())
            return find_device_view(session, device_id)

    view = await asyncio.to_thread(shut_out)
    await services.door.shut_out(device_id)
    return view


_SEALED: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "content": {CLOUD_EVENT: {}},
        "description": "the word as it is retained at the broker: a sealed CloudEvent",
    },
    304: {"description": "unchanged since If-None-Match"},
    406: {"description": "the caller does not accept sealed CloudEvents: its agent is older than this fleet"},
}


@router.get(
    "/device/desired",
    tags=["for devices"],
    response_class=Response,
    responses=_SEALED | {204: {"description": "nothing is desired"}},
)
def read_desired(
    caller: Annotated[Caller, Depends(require_device)],
    services: Annotated[Services, Depends(get_services)],
    accept: Annotated[str, Header()] = "",
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """What the calling device shall run, sealed for it by the fleet's instruction key: what its retained MQTT message says.

    `is_approved`: a person approved a rollout of this release, and it was not withdrawn since. The ETag is of what is said, and
    not of the seal, which is another one each time.
    """
    with services.database.read() as session:
        row = session.get(Desired, caller.name)
        approved = row is not None and row.release in approved_among(session, {row.release})
    word = None if row is None else desired_state(row, is_approved=approved)
    return _sealed_answer(services, caller, word, accept, if_none_match)


@router.get(
    "/device/commands",
    tags=["for devices"],
    response_class=Response,
    responses=_SEALED | {204: {"description": "nothing was ever asked"}},
)
def read_commands(
    caller: Annotated[Caller, Depends(require_device)],
    services: Annotated[Services, Depends(get_services)],
    accept: Annotated[str, Header()] = "",
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Commands and settings of the calling device, sealed and with an ETag as what it shall run is."""
    with services.database.read() as session:
        word = words_for(session, [caller.name]).get(caller.name)
    return _sealed_answer(services, caller, word, accept, if_none_match)


def _sealed_answer(
    services: Services, caller: Caller, word: Word | None, accept: str, if_none_match: str | None
) -> Response:
    """The word sealed for the caller; 204 where there is none, 304 where the caller has it."""
    if accept and not any(kind in accept for kind in (CLOUD_EVENT, "application/*", "*/*")):
        raise NotAcceptableError(
            f"this fleet seals its instructions ({CLOUD_EVENT}), which this agent does not accept: it is older than the fleet;"
            " install the fleet's version of the agent"
        )
    if word is None:
        return Response(status_code=204)
    etag = f'W/"{hashlib.sha256(msgspec.json.encode(word)).hexdigest()[:32]}"'
    if is_known(etag, if_none_match):
        return Response(status_code=304, headers={"ETag": etag})
    message = services.instructions.message(word, caller.name)
    return Response(message, media_type=CLOUD_EVENT, headers={"ETag": etag})
