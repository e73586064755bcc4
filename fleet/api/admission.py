"""What people decide about devices: who waits gets in or stays out, and what a device is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from fleet.admission import Assignment, approve, assign, refuse
from fleet.api.dependencies import Services, get_services
from fleet.lookups.devices import find_device_view
from fleet.views.devices import DeviceView
from service.access import require
from service.confirmation import Confirmation, check_confirmed
from service.json_bodies import json_body
from service.roles import Caller, Role

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["devices"])

ASSIGNED = {"family": "rotating-machine", "site": "hall-2", "labels": {"line": "3"}}

Admin = Annotated[Caller, Depends(require(Role.ADMIN))]
Fleet = Annotated[Services, Depends(get_services)]


class ApprovalAsked(BaseModel):
    """`fingerprint`: of the key that was looked at, SHA-256 of its DER SubjectPublicKeyInfo in hex."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"fingerprint": "3f" * 32}})
    fingerprint: str = Field(max_length=64)


@router.post("/devices/{device_id}:approve")
async def approve_device(
    device_id: str,
    asked: ApprovalAsked,
    caller: Annotated[Caller, Depends(require(Role.ADMIN, in_person=True))],
    services: Fleet,
) -> DeviceView:
    """Let a device in that waits: it gets its certificate when it asks next. 409 where it has another key.

    403 for a program: only a person lets in who waits for one.
    """

    def decide(session: Session) -> None:
        approve(session, device_id, fingerprint=asked.fingerprint, actor=caller.actor, now=services.now())

    return await _decide(services, device_id, decide)


@router.post("/devices/{device_id}:refuse")
async def refuse_device(
    device_id: str, caller: Admin, services: Fleet, asked: Confirmation | None = None
) -> DeviceView:
    """Keep a device out that waits: its key is revoked, under any name. 409 where it is enrolled.

    422 where `confirm` is not its id.
    """
    check_confirmed(asked, device_id, f"refusing device {device_id[:80]}")
    return await _decide(
        services,
        device_id,
        lambda session: refuse(session, device_id, actor=caller.actor, now=services.now()),
    )


@router.post("/devices/{device_id}:assign")
async def assign_device(
    device_id: str,
    wanted: Annotated[Assignment, Depends(json_body(Assignment, example=ASSIGNED))],
    caller: Admin,
    services: Fleet,
) -> DeviceView:
    """Change a device's family, site or labels. Of another family, nothing is desired of it until a rollout says so.

    409 while a rollout is under way on it and the family is to change.
    """
    view = await _decide(
        services,
        device_id,
        lambda session: assign(session, device_id, wanted, actor=caller.actor, now=services.now()),
    )
    services.publisher.announce([device_id])
    return view


async def _decide(services: Services, device_id: str, decide: Callable[[Session], object]) -> DeviceView:
    def within() -> DeviceView:
        with services.database.write() as session:
            decide(session)
            session.flush()
            return find_device_view(session, device_id)

    return await asyncio.to_thread(within)
