"""Devices at the HTTP door: an ES256 token signed by the enrolled key (`protocol.identity`), audience ``fleet``."""

from __future__ import annotations

from typing import Final

from sqlalchemy.orm import Session

from fleet.storage.device_tables import Device, DeviceState
from protocol.errors import TokenError
from protocol.identity import load_public_key, token_subject, verify_token
from service.errors import ForbiddenError, UnauthenticatedError
from service.roles import Caller, CallerKind

__all__ = ["AUDIENCE", "authenticate_device", "check_admitted"]

AUDIENCE: Final = "fleet"


def authenticate_device(session: Session, token: str, now: float) -> Caller:
    """The device that signed this token.

    Raises:
        UnauthenticatedError: no device token, of an unknown device, expired, or signed by another key.
        ForbiddenError: the device is revoked, or waits for a person.
    """
    try:
        device = session.get(Device, token_subject(token))
        if device is None:
            raise UnauthenticatedError("the token is of a device that is not enrolled here; enrol it first")
        verify_token(token, load_public_key(device.public_key.encode()), AUDIENCE, now)
    except TokenError as error:
        raise UnauthenticatedError(str(error)) from None
    check_admitted(device)
    return Caller(name=device.id, kind=CallerKind.DEVICE, families=frozenset({device.family}))


def check_admitted(device: Device) -> None:
    """Raise ForbiddenError unless the fleet lets this device in."""
    if device.state == DeviceState.REVOKED:
        raise ForbiddenError(
            f"device {device.id!r} is revoked; with another key it may enrol under another id"
        )
    if device.state != DeviceState.ENROLLED:
        raise ForbiddenError(
            f"device {device.id!r} waits for a person: fedge-fleet devices approve {device.id}"
        )
