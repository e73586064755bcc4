"""Who else is of a device's family: against this list devices check each other's keys in a secure sum."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel
from sqlalchemy import select

from fleet.api.dependencies import Services, get_services
from fleet.storage.device_tables import Device, DeviceState
from protocol.identity import compressed_key, load_public_key
from service.access import require_kind
from service.paging import After, Limit, decode_cursor, encode_cursor
from service.roles import Caller, CallerKind

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["for devices"])


class RosterView(BaseModel):
    """Devices of the caller's family that are not shut out: id → identity key, a compressed P-256 point (base64)."""

    family: str
    devices: dict[str, str]
    next_cursor: str | None


@router.get("/device/roster", tags=["for devices"])
def read_roster(
    caller: Annotated[Caller, Depends(require_kind(CallerKind.DEVICE))],
    services: Annotated[Services, Depends(get_services)],
    after: After = None,
    cursor: Annotated[str | None, Query(max_length=400, deprecated=True)] = None,
    limit: Limit = 500,
) -> RosterView:
    """Who else is of the calling device's family, by id.

    Devices check each other's keys in a secure sum against this list. It comes from the fleet and not from the aggregator, who
    could otherwise fill a cohort with devices of its own and be left with one real answer in the sum. `cursor` is what older agents
    call `after`.
    """
    with services.database.read() as session:
        family = session.scalar(select(Device.family).where(Device.id == caller.name)) or ""
        rows = (
            select(Device.id, Device.public_key)
            .where(Device.family == family, Device.state == DeviceState.ENROLLED)
            .order_by(Device.id)
            .limit(limit + 1)
        )
        if after := after or cursor:
            rows = rows.where(Device.id > decode_cursor(after))
        found = session.execute(rows).all()
    return RosterView(
        family=family,
        devices={name: compressed_key(load_public_key(pem.encode())) for name, pem in found[:limit]},
        next_cursor=encode_cursor(found[limit - 1][0]) if len(found) > limit else None,
    )
