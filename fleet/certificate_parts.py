"""What certificates of this fleet have in common, whichever of its two CAs signs them (`fleet.device_ca`, `fleet.plant.certificates`).

Source: RFC 5280, sections 4.1.2 and 4.2.1.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

__all__ = ["BACKDATED", "key_usage", "unsigned_certificate"]

BACKDATED: Final = timedelta(hours=1)
"""A certificate is good from a little before it was made: clocks of brokers and devices are not ours."""


def unsigned_certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    serial: int,
    start: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    """What every certificate says; what it may be used for is added."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    """What a key may do: sign what is said, or sign certificates and their revocations."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
