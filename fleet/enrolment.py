"""How a device gets in: a claim token, a key of its own, and a signature that proves it holds that key.

The same device with the same key may enrol again (its first answer got lost): it gets a new broker password and
spends no further use of the claim. A known device with another key is refused: keys do not change silently.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Final

from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Meta, Struct, field
from sqlalchemy import select
from sqlalchemy.orm import Session

from fleet import audit
from fleet.auth.claim_tokens import find_claim, use_claim
from fleet.broker_accounts.passwords import BrokerPasswords
from fleet.device_commands import find_device
from fleet.errors import BadRequestError, ConflictError
from fleet.storage.base import Database
from fleet.storage.device_tables import Device, DeviceState
from protocol.errors import IdentityError, TopicError
from protocol.identity import fingerprint, load_public_key, public_key_pem, verify_statement
from protocol.messages.kinds import Kind
from protocol.names import check_name
from protocol.topics import device_topic
from service.errors import ForbiddenError

__all__ = ["Applicant", "confirm", "enrol", "revoke"]

STATEMENT_DOMAIN: Final = "enrolment/v1"


Label = Annotated[str, Meta(max_length=200, pattern=r"^[^\x00]*$")]
"""Without NUL: PostgreSQL keeps one in JSON, and then fails with each query for devices that meets it."""


class Applicant(Struct, frozen=True, kw_only=True):
    """What a device says about itself: the body of ``POST /v1/enrolments``.

    public_key: PEM of its P-256 identity key.
    signature: base64 of a DER ECDSA signature over device id, newline, key fingerprint; proves that it holds the key.
    """

    device: Annotated[str, Meta(min_length=1, max_length=64)]
    public_key: Annotated[str, Meta(max_length=4096)]
    hardware: Annotated[str, Meta(min_length=1, max_length=200)]
    family: Annotated[str, Meta(min_length=1, max_length=64)]
    labels: Annotated[dict[Label, Label], Meta(max_length=32)] = field(default_factory=dict)
    signature: Annotated[bytes, Meta(max_length=768)]


def enrol(
    database: Database,
    applicant: Applicant,
    claim: str,
    *,
    tenant: str,
    reserved: Collection[str],
    now: float,
    passwords: BrokerPasswords,
) -> str:
    """Enrol a device durably and return its new broker password. Its broker user name is its id.

    The broker is told by whoever calls (`fleet.broker_accounts`), once this has returned.

    Raises:
        BadRequestError: id or key is not valid, or the signature is not by that key.
        UnauthenticatedError: the claim token is unknown, expired or used up.
        ConflictError: the id is taken by another key, by a service's broker account, or the key by another id.
        ForbiddenError: the device was revoked.
    """
    key = _checked_key(applicant, tenant)
    if applicant.device in reserved:
        raise ConflictError(
            f"device id {applicant.device!r} is the broker account of a service; choose another"
        )
    password, entry = passwords.new(applicant.device)
    with database.write() as session:
        token = find_claim(session, claim, now)
        device = session.get(Device, applicant.device)
        if device is None:
            use_claim(session, token)
            _admit(session, applicant, key, entry, now)
        else:
            _recognise(device, key)
            device.broker_password_hash, device.enrolled_again_at = entry, now
            device.hardware, device.family = applicant.hardware, applicant.family
            device.labels = dict(applicant.labels)
        audit.record(
            session,
            at=now,
            actor=f"claim:{token.name}",
            action="device_enrolled" if device is None else "device_enrolled_again",
            subject=applicant.device,
            fingerprint=fingerprint(key),
        )
    return password


def confirm(database: Database, device_id: str, password: str, *, passwords: BrokerPasswords) -> None:
    """Check that what `enrol` returned still holds once the broker was told.

    Raises:
        ForbiddenError: the device was revoked meanwhile.
        ConflictError: it was enrolled once more meanwhile, so another password holds.
    """
    with database.read() as session:
        device = session.get_one(Device, device_id)
        _check_not_revoked(device)
        if passwords.recover(device_id, device.broker_password_hash) != password:
            raise ConflictError(f"device {device_id!r} was enrolled once more meanwhile; repeat this call")


def revoke(session: Session, device_id: str, *, actor: str, now: float) -> Device:
    """Shut a device out; raises NotFoundError. Revoking twice changes nothing."""
    device = find_device(session, device_id)
    if device.state != DeviceState.REVOKED:
        device.state, device.revoked_at, device.online = DeviceState.REVOKED, now, False
        audit.record(session, at=now, actor=actor, action="device_revoked", subject=device_id)
    return device


def _checked_key(applicant: Applicant, tenant: str) -> ec.EllipticCurvePublicKey:
    try:
        device_topic(tenant, applicant.device, Kind.BIRTH)  # the id must be usable as a topic level
        check_name(applicant.family, "family")
        key = load_public_key(applicant.public_key.encode())
        statement = f"{applicant.device}\n{fingerprint(key)}".encode()
        verify_statement(key, STATEMENT_DOMAIN, statement, applicant.signature)
    except (TopicError, IdentityError) as error:
        raise BadRequestError(str(error)) from None
    return key


def _admit(
    session: Session, applicant: Applicant, key: ec.EllipticCurvePublicKey, entry: str, now: float
) -> None:
    other = session.scalar(select(Device.id).where(Device.fingerprint == fingerprint(key)))
    if other is not None:
        raise ConflictError(f"this key is already enrolled as device {other!r}; each device needs its own")
    session.add(
        Device(
            id=applicant.device,
            fingerprint=fingerprint(key),
            public_key=public_key_pem(key).decode(),
            hardware=applicant.hardware,
            family=applicant.family,
            labels=dict(applicant.labels),
            enrolled_at=now,
            broker_password_hash=entry,
        )
    )


def _recognise(device: Device, key: ec.EllipticCurvePublicKey) -> None:
    if device.fingerprint != fingerprint(key):
        raise ConflictError(
            f"device {device.id!r} is enrolled with key {device.fingerprint[:12]}…, this is {fingerprint(key)[:12]}…; enrol the new key under another id"
        )
    _check_not_revoked(device)


def _check_not_revoked(device: Device) -> None:
    if device.state == DeviceState.REVOKED:
        raise ForbiddenError(f"device {device.id!r} is revoked and cannot enrol again")
