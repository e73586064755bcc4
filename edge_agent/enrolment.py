"""Enrolling: a device with a claim token becomes a device with an identity, once.

::

    device.key made (0600) ─► POST /v1/enrolments, signed by the key ─► enrolment.json (0600): id, tenant, broker account

The key is on disk before the fleet hears of it, so that a power cut in between leaves a device that can enrol again with
the same key (the fleet answers that anew). The claim token is read, used, and neither stored nor logged.
"""

from __future__ import annotations

import base64
import logging
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent.enrolled import Enrolled, load_device_key
from edge_agent.errors import FleetAnswerError, FleetConflictError, FleetDeniedError
from edge_agent.fleet_client import FleetEndpoint
from edge_agent.settings import Settings
from protocol.identity import fingerprint, private_key_pem, public_key_pem, sign_statement
from runtime.durable_files import private_directory, read_bytes, write_durably
from runtime.errors import SettingsError

__all__ = ["DEFAULT_NAME_DIGITS", "device_name", "enrol_device"]

log: Final = logging.getLogger(__name__)

DEFAULT_NAME_DIGITS: Final = 12
"""Hex digits of the key's fingerprint in a device's name: 48 bits, unique in any fleet."""

STATEMENT: Final = "enrolment/v1"


def enrol_device(settings: Settings) -> Enrolled:
    """Enrol with the fleet of `settings` and write ``device.key`` and ``enrolment.json``; repeating it is harmless.

    A repeated enrolment keeps key and name, and gets a new broker password.

    Raises:
        SettingsError: no ``[fleet]``, no claim token file, or an unusable one.
        FleetError: the fleet cannot be reached or refuses; one line says why and what to do.
        NotEnrolledError: ``device.key`` is there but damaged; remove it to begin anew as another device.
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
    if read_bytes(paths.device_key) is None:
        pem = private_key_pem(ec.generate_private_key(ec.SECP256R1()))
        write_durably(paths.device_key, pem, mode=0o600)
    key = load_device_key(paths.device_key)
    device = settings.device or device_name(key.public_key())
    endpoint = FleetEndpoint(url=fleet.url, ca_file=fleet.ca_file)
    path = "/v1/enrolments"
    try:
        answer = endpoint.exchange(
            "POST",
            path,
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            body=msgspec.json.encode(_request(settings, device, key)),
        )
    except FleetDeniedError as error:
        raise FleetDeniedError(
            f"{error} The claim token in {fleet.claim_token_file} may be used up or wrong; ask the fleet's operator for another",
            status=error.status,
        ) from None
    except FleetConflictError as error:
        raise FleetConflictError(
            f"{error} To join as another device, remove {paths.device_key} and enrol again",
            status=error.status,
        ) from None
    enrolled = _parse(answer.body, path, device)
    write_durably(paths.enrolment, answer.body, mode=0o600)
    log.info("device_enrolled device=%s tenant=%s", enrolled.device, enrolled.tenant)
    return enrolled


def device_name(key: ec.EllipticCurvePublicKey) -> str:
    """The id a device enrols under: ``device-`` and the start of its key's fingerprint, so no two ever collide."""
    return f"device-{fingerprint(key)[:DEFAULT_NAME_DIGITS]}"


def _request(settings: Settings, device: str, key: ec.EllipticCurvePrivateKey) -> dict[str, object]:
    public = key.public_key()
    statement = f"{device}\n{fingerprint(public)}".encode()
    return {
        "device": device,
        "public_key": public_key_pem(public).decode(),
        "hardware": settings.hardware,
        "family": settings.family,
        "labels": settings.labels,
        "signature": base64.b64encode(sign_statement(key, STATEMENT, statement)).decode(),
    }


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


def _parse(body: bytes, path: str, device: str) -> Enrolled:
    try:
        enrolled = msgspec.json.decode(body, type=Enrolled)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FleetAnswerError(f"POST {path}: the fleet's answer is not an enrolment: {error}") from None
    if enrolled.device != device:
        raise FleetAnswerError(
            f"POST {path}: asked to enrol device {device!r}, the fleet answered for {enrolled.device!r}"
        )
    return enrolled
