"""``POST /v1/devices/{id}:erase``: everything that a device ever sent is removed."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from fleet.api.dependencies import Services, get_services
from fleet.erasure import erase_device
from fleet.storage.device_tables import Device, DeviceState
from fleet.views.devices import Erasure
from protocol.messages.kinds import Kind
from service.access import require
from service.confirmation import Confirmation, check_confirmed
from service.roles import Caller, Role

__all__ = ["Erasure", "router"]

router = APIRouter(prefix="/v1", tags=["devices"])


@router.post("/devices/{device_id}:erase")
def erase(
    device_id: str,
    caller: Annotated[Caller, Depends(require(Role.ADMIN))],
    services: Annotated[Services, Depends(get_services)],
    asked: Confirmation | None = None,
) -> Erasure:
    """Remove everything the device ever sent, for good; the audit log says who did it, when, and how many rows of what.

    A device that is enrolled goes on, and what it sends from now on is stored: revoke it first if nothing more shall come.
    Of a revoked device only what keeps it out stays. 422 where `confirm` is not its id. Once more removes what has come
    since.
    """
    check_confirmed(asked, device_id, f"erasing what device {device_id[:80]} sent")
    with services.database.write() as session:
        rows = erase_device(session, device_id, actor=caller.actor, now=services.now())
        state = session.get_one(Device, device_id).state
    services.database.forget_deleted()
    if state == DeviceState.REVOKED:
        for kind in (Kind.DESIRED, Kind.COMMANDS):
            services.publisher.announce([device_id], kind)
    return Erasure(device=device_id, state=state, rows=rows)
