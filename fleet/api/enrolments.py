"""Enrolment: the one call a device makes before it has an identity."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from fleet.api.dependencies import Services, get_services
from fleet.enrolment import Applicant, confirm, enrol
from service.access import bearer_token, require_kind
from service.json_bodies import json_body
from service.roles import CallerKind

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["for devices"])

EXAMPLE: Final = {
    "device": "press-7",
    "public_key": "-----BEGIN PUBLIC KEY-----…",
    "hardware": "rpi4",
    "family": "rotating-machine",
    "labels": {"site": "hall-1"},
    "signature": "MEUCIQ…",
}

ApplicantBody = Annotated[Applicant, Depends(json_body(Applicant, example=EXAMPLE))]


class BrokerLogin(BaseModel):
    """How the device enters the MQTT broker. The password is told once and stored only as a hash."""

    username: str
    password: str


class EnrolmentResponse(BaseModel):
    """The device is in."""

    device: str
    tenant: str
    mqtt: BrokerLogin


@router.post("/enrolments", status_code=201, dependencies=[Depends(require_kind(CallerKind.CLAIM))])
async def enrol_device(
    claim: Annotated[str, Depends(bearer_token)],
    services: Annotated[Services, Depends(get_services)],
    applicant: ApplicantBody,
) -> EnrolmentResponse:
    """Enrol with a claim token. The same device with the same key may repeat this; it gets a new password.

    503 says that the broker has not confirmed the account; the device then repeats this and spends no further use.
    403 and 409 also say that the device was revoked, or enrolled once more, while this was under way.
    """
    password = await asyncio.to_thread(
        enrol,
        services.database,
        applicant,
        claim,
        tenant=services.settings.tenant,
        reserved=services.reserved_devices,
        now=services.now(),
        passwords=services.passwords,
    )
    # only now: the answer promises a password that the broker accepts
    await services.accounts.update(applicant.device)
    await asyncio.to_thread(
        confirm, services.database, applicant.device, password, passwords=services.passwords
    )
    return EnrolmentResponse(
        device=applicant.device,
        tenant=services.settings.tenant,
        mqtt=BrokerLogin(username=applicant.device, password=password),
    )
