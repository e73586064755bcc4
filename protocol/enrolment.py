"""How a device gets in: what it asks, what it is answered, and what it signs.

::

    claim (one device; fixes family, site, labels) ─► POST /v1/enrolments, signed by the identity key ─► waiting | enrolled, with a certificate
    identity key ─► POST /v1/device/certificate, before the certificate ends ─► the next one

A device has one identity key, for good. What it shows a broker is a certificate for a connection key, which the fleet's device CA
gives it for weeks and under its own name; both are made on the device. So the identity key may lie in a chip that no TLS
library can reach. What a device says of itself (hardware, labels) is reported and shown, and decides nothing: family, site and
labels are the claim's.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, Final, Literal

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from msgspec import Meta, Struct, field

from protocol.identity import IdentityKey, fingerprint, sign_statement
from protocol.labels import Label, Labels, OneLine
from protocol.limits import MAX_NAME_CHARS

__all__ = [
    "CERTIFICATE_DOMAIN",
    "ENROLMENT_DOMAIN",
    "CertificateAnswer",
    "CertificateQuestion",
    "EnrolmentAnswer",
    "EnrolmentQuestion",
    "certificate_question",
    "certificate_statement",
    "enrolment_statement",
]

ENROLMENT_DOMAIN: Final = "enrolment/v2"
CERTIFICATE_DOMAIN: Final = "certificate/v1"

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
Pem = Annotated[str, Meta(max_length=4096)]


class EnrolmentQuestion(Struct, frozen=True, kw_only=True):
    """The body of ``POST /v1/enrolments``; the claim token is its bearer token.

    public_key: PEM of the P-256 identity key.
    certificate_request: PEM of a PKCS#10 request for the connection key, whose one name (CN) is the device's.
    family, tenant: what the device's settings say, so that a wrong one is told before the claim is used.
    labels: reported.
    signature: base64 of a DER ECDSA signature by the identity key over `enrolment_statement`.
    """

    device: Name
    tenant: Name
    family: Name
    public_key: Pem
    certificate_request: Pem
    hardware: OneLine
    labels: Labels = field(default_factory=dict)
    signature: Annotated[str, Meta(max_length=200)]


class EnrolmentAnswer(Struct, frozen=True, kw_only=True):
    """What the fleet made of it. ``waiting``: a person must approve; the same question again gives the answer of then.

    certificate: PEM, leaf first, then the device CA; empty while it waits.
    """

    status: Literal["enrolled", "waiting"]
    device: Name
    tenant: Name
    family: Name
    site: Label = ""
    labels: Labels = field(default_factory=dict)
    certificate: Annotated[str, Meta(max_length=16_384)] = ""


class CertificateQuestion(Struct, frozen=True, kw_only=True):
    """The body of ``POST /v1/device/certificate``; the device's own bearer token says who asks.

    certificate_request: as that of an `EnrolmentQuestion`.
    signature: base64 of a DER ECDSA signature by the identity key over `certificate_statement`: who overheard the token has none.
    """

    certificate_request: Pem
    signature: Annotated[str, Meta(max_length=200)]


class CertificateAnswer(Struct, frozen=True, kw_only=True):
    """The next certificate: PEM, leaf first, then the device CA."""

    certificate: Annotated[str, Meta(max_length=16_384)]


def enrolment_statement(
    *, device: str, tenant: str, family: str, identity: EllipticCurvePublicKey, certificate_request: str
) -> bytes:
    """What the identity key signs under `ENROLMENT_DOMAIN`: it is this device's, and so is the connection key."""
    request = hashlib.sha256(certificate_request.encode()).hexdigest()
    return f"{tenant}\n{device}\n{family}\n{fingerprint(identity)}\n{request}".encode()


def certificate_statement(device: str, certificate_request: str) -> bytes:
    """What the identity key signs under `CERTIFICATE_DOMAIN`: this connection key is `device`'s."""
    return f"{device}\n{hashlib.sha256(certificate_request.encode()).hexdigest()}".encode()


def certificate_question(key: IdentityKey, device: str, certificate_request: str) -> CertificateQuestion:
    """The question for the next certificate of `device`, whose identity key is `key`; raises as its `sign`."""
    signature = sign_statement(key, CERTIFICATE_DOMAIN, certificate_statement(device, certificate_request))
    return CertificateQuestion(
        certificate_request=certificate_request, signature=base64.b64encode(signature).decode()
    )
