"""Enrolment, the one call a device makes before it has an identity, and the renewal of its certificate."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Body, Depends, Response
from pydantic import WithJsonSchema

from fleet.api.dependencies import Services, get_services
from fleet.errors import BadRequestError
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
REQUEST: Final = {
    "certificate_request": "-----BEGIN CERTIFICATE REQUEST-----…",
    "signature": "MEUCIQ…",
}

Question = Annotated[dict[str, Any], WithJsonSchema(json_schema(EnrolmentQuestion, EXAMPLE)), Body()]
Renewal = Annotated[CertificateQuestion, Depends(json_body(CertificateQuestion, example=REQUEST))]


@router.post(
    "/enrolments",
    status_code=201,
    responses={201: json_answer(EnrolmentAnswer)},
    dependencies=[Depends(require_kind(CallerKind.CLAIM))],
)
def enrol_device(
    claim: Annotated[str, Depends(bearer_token)],
    services: Annotated[Services, Depends(get_services)],
    question: Question,
) -> Response:
    """Enrol with a claim token. ``waiting``: a person must approve; ask again later with the same key.

    The same device with the same key may repeat this at any time: it gets a certificate anew, spends nothing, and stays what it is.
    """
    if "certificate_request" not in question:
        raise BadRequestError(
            "this agent is older than certificates: install the agent of this fleet's version and start it with the state "
            "directory that is there, from which nothing is lost; see docs/agent.md"
        )
    asked = read_json_body(question, EnrolmentQuestion)
    answer = services.enrolments.enrol(asked, claim, services.now())
    return Response(msgspec.json.encode(answer), status_code=201, media_type="application/json")


@router.post("/device/certificate", responses={200: json_answer(CertificateAnswer)})
def renew_certificate(
    caller: Annotated[Caller, Depends(require_kind(CallerKind.DEVICE))],
    services: Annotated[Services, Depends(get_services)],
    question: Renewal,
) -> Response:
    """The next certificate of the calling device, for a connection key of its choice; at any time."""
    answer = services.enrolments.renew(caller.name, question, services.now())
    return Response(msgspec.json.encode(answer), media_type="application/json")
