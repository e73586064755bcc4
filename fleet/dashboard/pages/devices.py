"""``/devices``: those that a query selects, how many are in which plight, queries that people keep, and all of them as a CSV file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import Response, StreamingResponse

from fleet.api.dependencies import Services, get_services
from fleet.dashboard.access import signed_in
from fleet.dashboard.notices import see_other
from fleet.dashboard.rendering import page
from fleet.device_query import FIELDS
from fleet.errors import QuerySyntaxError
from fleet.lookups.csv_rows import device_lines
from fleet.lookups.devices import STANDING, count_devices, list_devices
from fleet.saved_filters import forget_filter, list_filters, owner_of, save_filter
from service.paging import MAXIMUM_ROW_ID, Page
from service.roles import Caller

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

ON_A_PAGE: Final = 50
TONES: Final = {"silent": "bad", "blind": "bad", "in alarm": "bad"}

Asked = Annotated[str, Query(max_length=4000)]


@dataclass(frozen=True)
class Plight:
    """How many of those selected are in one plight too, and the query that selects these."""

    count: int
    name: str
    tone: str
    query: str


@router.get("/devices")
def show_devices(
    request: Request,
    caller: Annotated[Caller, Depends(signed_in())],
    services: Annotated[Services, Depends(get_services)],
    query: Asked = "",
    after: Annotated[str | None, Query(max_length=400)] = None,
) -> Response:
    """A page of devices; where the query does not parse, what is wrong beside its box."""
    query = query.strip()
    problem, nearest = "", None
    with services.database.read() as session:
        try:
            found = list_devices(session, query, families=caller.families, after=after, limit=ON_A_PAGE)
            counts = count_devices(session, query, families=caller.families)
        except QuerySyntaxError as error:
            found, counts, problem = Page(items=[]), {}, str(error)
            nearest = _mended(query, error)
        kept = list_filters(session, caller)
    return page(
        request,
        "devices.html",
        title="Devices",
        live=() if problem else ("device", "anomaly", "drift"),
        status=400 if problem else 200,
        query=query,
        fields=FIELDS,
        problem=problem,
        nearest=nearest,
        total=counts.get("", 0),
        plights=_plights(query, counts),
        devices=found.items,
        first=_address(query) if after else None,
        next=_address(query, found.next_cursor) if found.next_cursor else None,
        filters=kept,
        owner=owner_of(caller),
    )


@router.get("/devices.csv")
def download_devices(
    caller: Annotated[Caller, Depends(signed_in())],
    services: Annotated[Services, Depends(get_services)],
    query: Asked = "",
) -> Response:
    """Every device that the query selects, as it is read: a hundred thousand take no memory."""
    lines = device_lines(services.database, query.strip(), caller.families)
    headers = {"Content-Disposition": 'attachment; filename="devices.csv"'}
    return StreamingResponse(lines, media_type="text/csv; charset=utf-8", headers=headers)


@router.post("/devices/filters")
def keep_filter(
    caller: Annotated[Caller, Depends(signed_in())],
    services: Annotated[Services, Depends(get_services)],
    name: Annotated[str, Form(max_length=64)],
    query: Annotated[str, Form(max_length=2000)],
    shared: Annotated[str, Form(max_length=10)] = "",
) -> Response:
    """Keep the query of the box under a name."""
    with services.database.write() as session:
        kept = save_filter(session, name, query, is_shared=bool(shared), caller=caller, now=services.now())
        said = f"kept as {kept.name!r}" + (", for everybody" if kept.is_shared else "")
    return see_other(_address(query.strip()), said)


@router.post("/devices/filters/{filter_id}/forget")
def drop_filter(
    filter_id: int,
    caller: Annotated[Caller, Depends(signed_in())],
    services: Annotated[Services, Depends(get_services)],
) -> Response:
    """Forget a kept query."""
    with services.database.write() as session:
        forget_filter(session, min(filter_id, MAXIMUM_ROW_ID), caller=caller, now=services.now())
    return see_other("/devices", "that filter is forgotten")


def _plights(query: str, counts: dict[str, int]) -> list[Plight]:
    return [
        Plight(counts[name], name, TONES.get(name, "wait"), f"({query});{standing}" if query else standing)
        for name, standing in STANDING.items()
        if counts.get(name)
    ]


def _address(query: str, after: str | None = None) -> str:
    asked = {name: value for name, value in (("query", query), ("after", after)) if value}
    return f"/devices?{urlencode(asked, quote_via=quote)}" if asked else "/devices"


def _mended(query: str, error: QuerySyntaxError) -> str | None:
    """The query with the nearest word that would have been valid; None where nothing is near."""
    refused = error.refused
    if refused is None or refused.nearest is None or not refused.value:
        return None
    word = re.compile(rf"(?<![\w.-]){re.escape(str(refused.value))}(?![\w-])")
    mended, many = word.subn(refused.nearest, query, count=1)
    return mended if many else None
