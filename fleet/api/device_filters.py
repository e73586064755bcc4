"""Queries that people keep under a name: the ones of the devices page, for programs too."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, Field

from fleet.api.dependencies import Services, get_services
from fleet.api.paging import RowId
from fleet.saved_filters import forget_filter, list_filters, save_filter
from fleet.views.devices import FilterView
from service.access import require
from service.roles import Caller, Role

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["devices"])


class FilterKept(BaseModel):
    """A query under a name; `is_shared`: everybody sees it."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"name": "short of sight", "query": "sight=lt=0.5"}}
    )
    name: str = Field(min_length=1, max_length=64)
    query: str = Field(min_length=1, max_length=2000)
    is_shared: bool = False


@router.get("/device-filters")
def list_device_filters(
    caller: Annotated[Caller, Depends(require(Role.VIEWER))],
    services: Annotated[Services, Depends(get_services)],
) -> list[FilterView]:
    """The caller's own and those that are shared, by name."""
    with services.database.read() as session:
        return [FilterView.model_validate(kept) for kept in list_filters(session, caller)]


@router.put("/device-filters")
def keep_device_filter(
    asked: FilterKept,
    caller: Annotated[Caller, Depends(require(Role.VIEWER))],
    services: Annotated[Services, Depends(get_services)],
) -> FilterView:
    """Keep a query; the caller's filter of that name is this one from then on. Sharing takes an operator."""
    with services.database.write() as session:
        kept = save_filter(
            session, asked.name, asked.query, is_shared=asked.is_shared, caller=caller, now=services.now()
        )
        return FilterView.model_validate(kept)


@router.delete("/device-filters/{filter_id}", status_code=204, response_class=Response)
def forget_device_filter(
    filter_id: RowId,
    caller: Annotated[Caller, Depends(require(Role.VIEWER))],
    services: Annotated[Services, Depends(get_services)],
) -> None:
    """Forget one of the caller's own; an admin, any that is shared. 404 where it is neither."""
    with services.database.write() as session:
        forget_filter(session, filter_id, caller=caller, now=services.now())
