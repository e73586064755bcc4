"""Devices at the HTTP door: an ES256 token signed by the enrolled key (`protocol.identity`), audience ``fleet``."""

from __future__ import annotations

from typing import Final

from sqlalchemy.orm import Session

from fleet.storage.device_tables import Device, DeviceState
from protocol.errors import TokenError
from protocol.identity import load_public_key, token_subject, verify_token
from service.errors import ForbiddenError, UnauthenticatedError
from service.roles import Caller, CallerKind

__all__ = ["AUDIENCE", "authenticate_device"]

AUDIENCE: Final = "fleet"


def authenticate_device(session: Session, token: str, now: float) -> Caller:
    """The device that signed this token.

    Raises:
        UnauthenticatedError: no device token, of an unknown device, expired, or signed by another key.
        ForbiddenError: the device is revoked.
    """
    try:
        device = session.get(Device, token_subject(token))
        if device is None:
            raise UnauthenticatedError("the token is of a device that is not enrolled here; enrol it first")
        verify_token(token, load_public_key(device.public_key.encode()), AUDIENCE, now)
    except TokenError as error:
        raise UnauthenticatedError(str(error)) from None
    if device.state == DeviceState.REVOKED:
        raise ForbiddenError(f"device {device.id!r} is revoked; an admin must enrol it anew under another id")
    return Caller(name=device.id, kind=CallerKind.DEVICE)
