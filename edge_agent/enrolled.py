"""Who this device is, as enrolment left it in the state directory: ``enrolment.json`` and ``device.key``.

Reading only; `edge_agent.enrolment` writes both once. The file is the fleet's answer to the enrolment as it came.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from msgspec import Meta, Struct

from edge_agent.errors import NotEnrolledError
from protocol.errors import IdentityError
from protocol.identity import load_private_key
from runtime.durable_files import read_bytes

__all__ = ["Enrolled", "MqttAccess", "load_device_key", "load_enrolled"]

Name = Annotated[str, Meta(min_length=1, max_length=200)]


class MqttAccess(Struct, frozen=True, kw_only=True):
    """The broker account of this device; the password never appears in a repr."""

    username: Name
    password: Name

    def __repr__(self) -> str:
        return f"MqttAccess(username={self.username!r})"


class Enrolled(Struct, frozen=True, kw_only=True):
    """The content of ``enrolment.json``."""

    device: Name
    tenant: Name
    mqtt: MqttAccess


def load_enrolled(path: Path) -> Enrolled:
    """Read ``enrolment.json``.

    Raises:
        NotEnrolledError: it is missing or damaged; enrol (again).
    """
    content = read_bytes(path)
    if content is None:
        raise NotEnrolledError(f"there is no {path}: run `fedge-agent enrol --config agent.toml` once")
    try:
        return msgspec.json.decode(content, type=Enrolled)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotEnrolledError(
            f"{path} is damaged ({error}): run `fedge-agent enrol --config agent.toml` again"
        ) from None


def load_device_key(path: Path) -> EllipticCurvePrivateKey:
    """Read ``device.key``.

    Raises:
        NotEnrolledError: it is missing or no P-256 key.
    """
    content = read_bytes(path)
    if content is None:
        raise NotEnrolledError(f"there is no {path}: run `fedge-agent enrol --config agent.toml` once")
    try:
        return load_private_key(content)
    except IdentityError as error:
        raise NotEnrolledError(f"{path} is not a device key: {error}") from None
