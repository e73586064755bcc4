"""The signed repository, as devices and people read it: each file by its name, nothing else of the folder."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Header, Request, Response

from fleet.api.dependencies import Services, get_services, require_device_or
from fleet.errors import NotFoundError
from fleet.release_lists import publish_list
from fleet.trust.metadata import encode
from service.access import require
from service.etags import is_known
from service.roles import Caller, Role

__all__ = ["router"]

router = APIRouter(prefix="/v1")

FOR_EVER: Final = "private, immutable, max-age=31536000"


@router.get(
    "/trust/{name}",
    tags=["for devices"],
    response_class=Response,
    responses={200: {"content": {"application/json": {}}}, 304: {"description": "unchanged"}},
)
def read_trust(
    name: str,
    _caller: Annotated[Caller, Depends(require_device_or(Role.VIEWER))],
    services: Annotated[Services, Depends(get_services)],
    if_none_match: Annotated[str | None, Header(max_length=1000)] = None,
) -> Response:
    """A file of the signed repository: `timestamp.json`, `2.root.json`, `17.snapshot.json`, `5.targets.json`, `9.family-motor.json`.

    The signatures in it are what a device goes by, whoever hands it out. Start at `timestamp.json` (and the root after
    the one you have): everything else is found from there. 404 for a root that is not there yet, and for any other name.
    """
    content = services.trust.read(name)
    etag = f'"{hashlib.sha256(content).hexdigest()}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache" if name == "timestamp.json" else FOR_EVER}
    if is_known(etag, if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type="application/json", headers=headers)


@router.get(
    "/trust/roles/{role}",
    tags=["releases"],
    response_class=Response,
    responses={200: {"content": {"application/json": {}}}},
)
def read_list(
    role: str,
    _caller: Annotated[Caller, Depends(require(Role.VIEWER, Role.PUBLISHER))],
    services: Annotated[Services, Depends(get_services)],
) -> Response:
    """What a role (`family-motor`, `agent`) lists now, as it was signed: for whoever signs the next version."""
    found = services.trust.published().roles.get(role)
    if found is None:
        raise NotFoundError(f"{role[:100]!r} has listed nothing yet")
    return Response(encode(found), media_type="application/json")


@router.post(
    "/trust/roles/{role}",
    tags=["releases"],
    status_code=204,
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
    },
)
async def publish_role(
    role: str,
    request: Request,
    caller: Annotated[Caller, Depends(require(Role.PUBLISHER))],
    services: Annotated[Services, Depends(get_services)],
) -> None:
    """List releases: the metadata of a role, signed by its key. With it the fleet signs snapshot and timestamp anew.

    Every release it names must be stored here with this length and SHA-256, and what was listed stays as it was until it
    is withdrawn. 404 where nobody delegated to the role, 409 for a version that is not newer than the published one (fetch that,
    add to it, sign it anew), 422 for what its key may not say. The very list that is published changes nothing.
    """
    caller.check_family(role.removeprefix("family-") if role.startswith("family-") else f"of role {role}")
    content = await request.body()
    await asyncio.to_thread(
        publish_list, services.database, services.trust, role, content, actor=caller.actor, now=services.now()
    )
