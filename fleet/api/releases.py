"""Releases: publish a signed bundle, read its record, withdraw it, download its bytes whole or in part."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import ConfigDict, Field
from sqlalchemy import select, tuple_

from fleet.api.dependencies import Services, get_services, require_device_or
from fleet.api.paging import equals, within
from fleet.releases import bundle_path, count_devices, find_release
from fleet.rollouts.operations import withdraw_release
from fleet.storage.release_tables import Release
from fleet.views.releases import ReleaseView
from protocol.names import split_release_id
from service.access import require
from service.confirmation import Confirmation, check_confirmed
from service.etags import is_known
from service.paging import After, Limit, Page, cut_page, decode_cursor
from service.problems import Problem
from service.roles import Caller, Role

__all__ = ["byte_range", "router"]

router = APIRouter(prefix="/v1", tags=["releases"])

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def _view(release: Release, devices: Mapping[str, int]) -> ReleaseView:
    """The view of a row; `devices` is what `count_devices` says."""
    name = f"{release.family}/{release.version}"
    derived = {
        "id": name,
        "bundle_path": bundle_path(release.family, release.version),
        "provenance": release.manifest["provenance"],
        "desired_devices": devices.get(name, 0),
    }
    own = {name: getattr(release, name) for name in ReleaseView.model_fields if name not in derived}
    return ReleaseView(**own, **derived)


class Withdrawal(Confirmation):
    """Why a release is withdrawn, for whoever would roll it out or build upon it. `confirm` repeats its id."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {"confirm": "rotating-machine/2", "reason": "alarms on every cold start"}
        },
    )
    reason: str = Field(min_length=1, max_length=500)


@router.post(
    "/releases",
    status_code=201,
    responses={200: {"description": "these bytes were published before"}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"format": "binary"}}},
        }
    },
)
async def publish_release(
    request: Request,
    response: Response,
    caller: Annotated[Caller, Depends(require(Role.PUBLISHER))],
    services: Annotated[Services, Depends(get_services)],
) -> ReleaseView:
    """Hand in a bundle (the raw bytes as body), signed by a release key of its family. Devices take it once it is listed too.

    It is verified before anything of it is kept, as a device would: signature, digests, and that the files are what the
    manifest promises. 201 for a new release, 200 for the very bytes that were published before; 409 for other bytes under
    a version that exists, 413 beyond `maximum_bundle_bytes`, 422 for a bundle that no device would take.
    """
    content = await request.body()
    release, is_new = await asyncio.to_thread(
        services.releases.publish, content, caller=caller, now=services.now()
    )
    if not is_new:
        response.status_code = 200
    response.headers["Location"] = f"/v1/releases/{release.family}/{release.version}"
    return await asyncio.to_thread(_show, services, release.family, release.version)


def _show(services: Services, family: str, version: int) -> ReleaseView:
    with services.database.read() as session:
        return _view(find_release(session, family, version), count_devices(session, [family]))


@router.get("/releases")
def list_releases(
    caller: Annotated[Caller, Depends(require(Role.VIEWER, Role.PUBLISHER))],
    services: Annotated[Services, Depends(get_services)],
    family: Annotated[str | None, Query(max_length=64)] = None,
    after: After = None,
    limit: Limit = 100,
) -> Page[ReleaseView]:
    """Releases, by family and version; `family` leaves out the others. Withdrawn ones are listed, and say why."""
    rows = select(Release).where(equals(Release.family, family), within(Release.family, caller.families))
    rows = rows.order_by(Release.family, Release.version).limit(limit + 1)
    if after:
        after_family, after_version = split_release_id(decode_cursor(after))
        rows = rows.where(tuple_(Release.family, Release.version) > tuple_(after_family, after_version))
    with services.database.read() as session:
        found = session.scalars(rows).all()
        devices = count_devices(session, {release.family for release in found})
        views = [_view(release, devices) for release in found]
    return cut_page(views, limit, key=lambda view: view.id)


@router.get("/releases/{family}/{version}")
def show_release(
    family: str,
    version: int,
    caller: Annotated[Caller, Depends(require(Role.VIEWER, Role.PUBLISHER))],
    services: Annotated[Services, Depends(get_services)],
) -> ReleaseView:
    """One release's record."""
    caller.check_family(family)
    return _show(services, family, version)


@router.post("/releases/{family}/{version}:withdraw")
def withdraw(
    *,
    family: str,
    version: int,
    asked: Withdrawal,
    caller: Annotated[Caller, Depends(require(Role.OPERATOR))],
    services: Annotated[Services, Depends(get_services)],
) -> ReleaseView:
    """Take a release back: nobody builds upon it any more, and a rollout of it needs `force`. It cannot be undone.

    It sends no device anywhere: `desired_devices` says how many shall still run it, until another release is rolled out to
    them. 409 names a rollout of it that is under way: roll that back instead. Withdrawing twice changes nothing.
    """
    check_confirmed(asked, f"{family}/{version}", f"withdrawing release {family[:80]}/{version}")
    withdraw_release(
        services.database, family, version, reason=asked.reason, actor=caller.actor, now=services.now()
    )
    return _show(services, family, version)


@router.get(
    "/releases/{family}/{version}/bundle",
    tags=["for devices"],
    response_class=StreamingResponse,
    responses={206: {"description": "the bytes asked for"}, 304: {"description": "unchanged"}},
)
def download_bundle(
    *,
    request: Request,
    family: str,
    version: int,
    caller: Annotated[Caller, Depends(require_device_or(Role.VIEWER, Role.PUBLISHER))],
    services: Annotated[Services, Depends(get_services)],
    range_header: Annotated[str | None, Header(alias="Range")] = None,
    if_range: Annotated[str | None, Header()] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The bundle's bytes; a download that broke off continues with Range.

    The ETag is the SHA-256, and a release never changes: with If-Range a device can never splice two releases together,
    and If-None-Match costs no bytes. 416 names the size where the range lies outside.
    """
    caller.check_family(family)
    with services.database.read() as session:
        release = find_release(session, family, version)
    size, etag = release.size_bytes, f'"{release.sha256}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, immutable, max-age=31536000",
    }
    if is_known(etag, if_none_match):
        return Response(status_code=304, headers=headers)
    wanted = byte_range(range_header, size) if if_range in {None, etag} else (0, size)
    if wanted is None:
        return Problem(
            416,
            f"Range {str(range_header)[:80]!r} lies outside the bundle's {size} bytes",
            path=request.url.path,
            headers={"Content-Range": f"bytes */{size}"},
        )
    start, stop = wanted
    headers["Content-Length"] = str(stop - start)
    if (start, stop) != (0, size):
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return StreamingResponse(
        services.releases.read_range(release.sha256, start, stop),
        status_code=206 if "Content-Range" in headers else 200,
        media_type="application/octet-stream",
        headers=headers,
    )


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The half-open span a Range header asks of `size` bytes; None when none of it exists.

    A header of another unit, or of several ranges, means the whole: RFC 9110 section 14.2 lets a server ignore it.
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match[0] == "bytes=-":
        return 0, size
    first, last = match[1], match[2]
    if not first:
        return (max(size - int(last), 0), size) if int(last) else None
    if last and int(last) < int(first):
        return 0, size
    if int(first) >= size:
        return None
    return int(first), min(int(last) + 1, size) if last else size
