"""Enrolment: the one call a device makes before it has an identity."""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from fleet.api.dependencies import Services, get_services
from fleet.enrolment import Applicant, enrol
from fleet.errors import BadRequestError
from service.access import bearer_token

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["for devices"])

Label = Annotated[str, Field(max_length=200)]


class EnrolmentRequest(BaseModel):
    """What a device says about itself. `signature`: base64 of the DER signature that proves it holds the key."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "device": "press-7",
                "public_key": "-----BEGIN PUBLIC KEY-----…",
                "hardware": "rpi4",
                "family": "rotating-machine",
                "labels": {"site": "hall-1"},
                "signature": "MEUCIQ…",
            }
        }
    )
    device: str = Field(min_length=1, max_length=64)
    public_key: str = Field(max_length=4096)
    hardware: str = Field(min_length=1, max_length=200)
    family: str = Field(min_length=1, max_length=64)
    labels: dict[Label, Label] = Field(default_factory=dict, max_length=32)
    signature: str = Field(max_length=1024)


class BrokerLogin(BaseModel):
    """How the device enters the MQTT broker. The password is told once and stored only as a hash."""

    username: str
    password: str


class EnrolmentResponse(BaseModel):
    """The device is in."""

    device: str
    tenant: str
    mqtt: BrokerLogin


@router.post("/enrolments", status_code=201)
async def enrol_device(
    body: EnrolmentRequest,
    claim: Annotated[str, Depends(bearer_token)],
    services: Annotated[Services, Depends(get_services)],
) -> EnrolmentResponse:
    """Enrol with a claim token. The same device with the same key may repeat this; it gets a new password.

    503 says that the broker has not confirmed the account; the device then repeats this and spends no further use.
    """
    try:
        signature = base64.b64decode(body.signature, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequestError("signature is not base64") from None
    applicant = Applicant(
        device=body.device,
        public_key=body.public_key,
        hardware=body.hardware,
        family=body.family,
        labels=body.labels,
        signature=signature,
    )
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
    await services.accounts.update(body.device)
    return EnrolmentResponse(
        device=body.device,
        tenant=services.settings.tenant,
        mqtt=BrokerLogin(username=body.device, password=password),
    )
