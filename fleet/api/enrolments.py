"""Enrolment, the one call a device makes before it has an identity, and the renewal of its certificate."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Body, Depends, Response
from pydantic import WithJsonSchema

from fleet.api.dependencies import Services, get_services
from fleet.former_enrolment import FormerQuestion, confirm_password, give_password, read_former
from protocol.enrolment import CertificateAnswer, CertificateQuestion, EnrolmentAnswer, EnrolmentQuestion
from service.access import bearer_token, require_kind
from service.json_bodies import json_answer, json_body, json_schema, read_json_body
from service.roles import Caller, CallerKind

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["for devices"])

EXAMPLE: Final = {
    "device": "press-7",
    "tenant": "demo",
    "family": "rotating-machine",
    "public_key": "-----BEGIN PUBLIC KEY-----…",
    "certificate_request": "-----BEGIN CERTIFICATE REQUEST-----…",
    "hardware": "rpi4",
    "labels": {"machine": "press"},
    "signature": "MEUCIQ…",
}
REQUEST: Final = {"certificate_request": "-----BEGIN CERTIFICATE REQUEST-----…"}

Question = Annotated[dict[str, Any], WithJsonSchema(json_schema(EnrolmentQuestion, EXAMPLE)), Body()]
Renewal = Annotated[CertificateQuestion, Depends(json_body(CertificateQuestion, example=REQUEST))]


@router.post(
    "/enrolments",
    status_code=201,
    responses={201: json_answer(EnrolmentAnswer)},
    dependencies=[Depends(require_kind(CallerKind.CLAIM))],
)
async def enrol_device(
    claim: Annotated[str, Depends(bearer_token)],
    services: Annotated[Services, Depends(get_services)],
    question: Question,
) -> Response:
    """Enrol with a claim token. ``waiting``: a person must approve; ask again later with the same key.

    The same device with the same key may repeat this at any time: it gets a certificate anew, spends nothing, and stays what it is.
    """
    if "certificate_request" not in question:
        return await _enrol_former(read_json_body(question, FormerQuestion), claim, services)
    asked = read_json_body(question, EnrolmentQuestion)
    answer = await asyncio.to_thread(services.enrolments.enrol, asked, claim, services.now())
    return await _answer(answer, services)


@router.post("/device/certificate", responses={200: json_answer(CertificateAnswer)})
def renew_certificate(
    caller: Annotated[Caller, Depends(require_kind(CallerKind.DEVICE))],
    services: Annotated[Services, Depends(get_services)],
    question: Renewal,
) -> Response:
    """The next certificate of the calling device, for a connection key of its choice; at any time."""
    answer = services.enrolments.renew(caller.name, question, services.now())
    return Response(msgspec.json.encode(answer), media_type="application/json")


async def _enrol_former(question: FormerQuestion, claim: str, services: Services) -> Response:
    applicant = read_former(question, services.settings.tenant)
    answer = await asyncio.to_thread(services.enrolments.admit, applicant, claim, services.now())
    return await _answer(answer, services)


async def _answer(answer: EnrolmentAnswer, services: Services) -> Response:
    if answer.status == "waiting":
        return Response(msgspec.json.encode(answer), status_code=201, media_type="application/json")
    # UNTIL the broker asks for certificates: a password beside them, which the broker has confirmed
    password = await asyncio.to_thread(give_password, services.database, answer.device, services.passwords)
    await services.accounts.update(answer.device)
    await asyncio.to_thread(confirm_password, services.database, answer.device, password, services.passwords)
    login = {"mqtt": {"username": answer.device, "password": password}}
    content = msgspec.json.encode(msgspec.to_builtins(answer) | login)
    return Response(content, status_code=201, media_type="application/json")
