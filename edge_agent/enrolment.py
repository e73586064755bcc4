"""Enrolling: a device with a claim token becomes a device with an identity, once.

::

    identity key made ─► POST /v1/enrolments, signed by it ─┬─ waiting  ─► enrolment.json: a person must approve; asked again
                         a fresh connection key asks for     └─ enrolled ─► connection.pem ─► enrolment.json
                         its certificate

The identity key is on disk, or in its chip, before the fleet hears of it, and the certificate before ``enrolment.json``
says that there is one: a power cut anywhere in between leaves a device that can enrol again with the same key (the fleet
answers that anew, and spends no further claim). The claim token is read, used, and neither stored nor logged.
"""

from __future__ import annotations

import base64
import logging
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from edge_agent.connection_certificate import accept_certificate, make_request
from edge_agent.enrolled import Enrolled, save_enrolled
from edge_agent.errors import FleetAnswerError, FleetConflictError, FleetDeniedError
from edge_agent.fleet_client import FleetEndpoint
from edge_agent.identity_key import make_identity
from edge_agent.pinned_tls import KnownTime, known_time
from edge_agent.settings import Settings
from protocol.enrolment import ENROLMENT_DOMAIN, EnrolmentAnswer, EnrolmentQuestion, enrolment_statement
from protocol.identity import IdentityKey, fingerprint, public_key_pem, sign_statement
from runtime.durable_files import private_directory
from runtime.errors import SettingsError
from runtime.unreadable import UNREADABLE

__all__ = ["DEFAULT_NAME_DIGITS", "device_name", "enrol_device"]

log: Final = logging.getLogger(__name__)

DEFAULT_NAME_DIGITS: Final = 12
"""Hex digits of the key's fingerprint in a device's name: 48 bits, unique in any fleet."""

PATH: Final = "/v1/enrolments"


def enrol_device(settings: Settings, now: KnownTime = known_time) -> Enrolled:
    """Ask the fleet of `settings` once, and keep what it answers; repeating it is harmless, and keeps key and name.

    Raises:
        SettingsError: no ``[fleet]``, no claim token file, or an unusable one.
        FleetError: the fleet cannot be reached or refuses, or its answer is not for this device; one line says why and what to do.
        NotEnrolledError: ``device.key`` is there but damaged; remove it to begin anew as another device.
        IdentityKeyError: the chip that holds the identity key does not sign.
        StorageError: the state directory cannot be written.
    """
    fleet = settings.fleet
    if fleet is None or fleet.claim_token_file is None:
        raise SettingsError(
            f"{settings.config_file}: enrolling needs [fleet] with url, ca_file and claim_token_file"
        )
    token = _read_token(fleet.claim_token_file)
    paths = settings.paths
    private_directory(settings.state_dir)
    identity = make_identity(settings)
    public = identity.public_key()
    device = settings.device or device_name(public)
    connection_key, request = make_request(device)
    body = _asked(
        settings, fleet.claim_token_file, token, _question(settings, device, identity, request), now
    )
    answer = _parse(body, settings, device)
    enrolled = Enrolled(
        device=device,
        tenant=answer.tenant,
        family=answer.family,
        site=answer.site,
        labels=answer.labels,
        fingerprint=fingerprint(public),
        is_waiting=answer.status == "waiting",
    )
    if not enrolled.is_waiting:
        accept_certificate(paths.connection, answer.certificate, connection_key, device=device, now_s=now())
    save_enrolled(paths.enrolment, enrolled)
    log.info("device_%s device=%s tenant=%s", answer.status, enrolled.device, enrolled.tenant)
    return enrolled


def device_name(key: EllipticCurvePublicKey) -> str:
    """The id a device enrols under: ``device-`` and the start of its key's fingerprint, so no two ever collide."""
    return f"device-{fingerprint(key)[:DEFAULT_NAME_DIGITS]}"


def _asked(
    settings: Settings, token_file: Path, token: str, question: EnrolmentQuestion, now: KnownTime
) -> bytes:
    assert settings.fleet is not None  # noqa: S101 - for the type checker; the caller asked
    endpoint = FleetEndpoint(url=settings.fleet.url, ca_file=settings.fleet.ca_file, now=now)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    try:
        return endpoint.exchange("POST", PATH, headers=headers, body=msgspec.json.encode(question)).body
    except FleetDeniedError as error:
        raise FleetDeniedError(
            f"{error} The claim token in {token_file} may be used up or wrong; ask the fleet's operator for another",
            status=error.status,
        ) from None
    except FleetConflictError as error:
        where = settings.paths.device_key if settings.identity is None else "[identity] key from its token"
        raise FleetConflictError(
            f"{error} To join as another device, remove {where} and enrol again", status=error.status
        ) from None


def _question(settings: Settings, device: str, key: IdentityKey, request: str) -> EnrolmentQuestion:
    public = key.public_key()
    statement = enrolment_statement(
        device=device,
        tenant=settings.tenant,
        family=settings.family,
        identity=public,
        certificate_request=request,
    )
    return EnrolmentQuestion(
        device=device,
        tenant=settings.tenant,
        family=settings.family,
        public_key=public_key_pem(public).decode(),
        certificate_request=request,
        hardware=settings.hardware,
        labels=settings.labels,
        signature=base64.b64encode(sign_statement(key, ENROLMENT_DOMAIN, statement)).decode(),
    )


def _read_token(path: Path) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"[fleet] claim_token_file {path} cannot be read: {error}") from None
    if not token or len(token) > 1000 or any(sign.isspace() for sign in token):
        raise SettingsError(
            f"[fleet] claim_token_file {path} must hold one token on one line, as `fedge-fleet claims create` prints it"
        )
    return token


def _parse(body: bytes, settings: Settings, device: str) -> EnrolmentAnswer:
    try:
        answer = msgspec.json.decode(body, type=EnrolmentAnswer)
    except UNREADABLE as error:
        raise FleetAnswerError(f"POST {PATH}: the fleet's answer is not an enrolment: {error}") from None
    for what, asked, said in (
        ("device", device, answer.device),
        ("tenant", settings.tenant, answer.tenant),
        ("family", settings.family, answer.family),
    ):
        if asked != said:
            raise FleetAnswerError(
                f"POST {PATH}: asked to enrol {what} {asked!r}, the fleet answered for {said!r}"
            )
    return answer
