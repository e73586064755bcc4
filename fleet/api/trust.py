"""The signed repository, as devices and people read it: each file by its name, nothing else of the folder."""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Header, Response

from fleet.api.dependencies import Services, get_services, require_device_or
from service.roles import Caller, Role

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["for devices"])

FOR_EVER: Final = "private, immutable, max-age=31536000"


@router.get(
    "/trust/{name}",
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
    if if_none_match is not None and etag in {tag.strip() for tag in if_none_match.split(",")}:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type="application/json", headers=headers)
