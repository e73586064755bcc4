"""What this device shows a broker: a key for connections only, and the fleet's word in a certificate that it is this device's.

::

    connection.pem (0600)   the key, the certificate, the device CA      replaced as one file: never a key without its certificate

The key is made anew for each certificate and never leaves this disk. The certificate came over HTTPS from the pinned fleet; it is
looked at all the same before it takes the place of one that works.

Source: RFC 2986 (PKCS#10); RFC 5280, sections 4.1 and 4.2.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_agent.errors import FleetAnswerError
from edge_agent.private_file import read_private
from edge_agent.version import MADE_AFTER_S
from protocol.errors import IdentityError
from protocol.identity import load_private_key, private_key_pem
from runtime.durable_files import write_durably

__all__ = ["Lifetime", "accept_certificate", "make_request", "read_lifetime"]

_PEM: Final = serialization.Encoding.PEM
_LONGEST_S: Final = 400 * 86400.0
"""Nobody gives a device a certificate for longer; a date far ahead would end all renewal."""
_CLOCKS_APART_S: Final = 86400.0
"""A clock that is known may still be off by a time zone."""


@dataclass(frozen=True, kw_only=True)
class Lifetime:
    """When a certificate is good, Unix seconds."""

    begins_s: float
    ends_s: float

    @property
    def length_s(self) -> float:
        """How long it is good in all."""
        return self.ends_s - self.begins_s


def make_request(device: str) -> tuple[ec.EllipticCurvePrivateKey, str]:
    """A fresh connection key, and the request for its certificate: PEM, whose one name is the device's."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return key, request.public_bytes(_PEM).decode()


def accept_certificate(
    path: Path, chain: str, key: ec.EllipticCurvePrivateKey, *, device: str, now_s: float | None
) -> Lifetime:
    """Check what the fleet answered, and keep it with its key in ``connection.pem``, durably.

    Args:
        path: the file.
        chain: PEM, leaf first, then the device CA.
        key: the connection key that the certificate was asked for.
        device: this device's name.
        now_s: Unix seconds where they are known to be right.

    Raises:
        FleetAnswerError: it is for another key or name, not a client's, not signed by the CA beside it, or its dates cannot be.
        StorageError: the disk refuses; what was there before is untouched.
    """
    lifetime = _checked(chain, key.public_key(), device, now_s)
    write_durably(path, private_key_pem(key) + chain.encode(), mode=0o600)
    return lifetime


def read_lifetime(path: Path, device: str) -> Lifetime | None:
    """When the certificate in ``connection.pem`` is good; None where there is none that this device could show.

    Raises:
        StorageError: the file cannot be read.
    """
    content = read_private(path)
    try:
        if content is None:
            return None
        return _checked(content.decode("ascii"), load_private_key(content).public_key(), device, None)
    except (IdentityError, UnicodeDecodeError, FleetAnswerError):
        return None


def _checked(chain: str, key: ec.EllipticCurvePublicKey, device: str, now_s: float | None) -> Lifetime:
    try:
        leaf, *issuers = x509.load_pem_x509_certificates(chain.encode())
        names = [(name.oid, name.value) for name in leaf.subject]
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        leaf.verify_directly_issued_by(issuers[0])
        is_its_key = leaf.public_key() == key
    except InvalidSignature:
        raise _refused("it is not signed by the device CA that came with it") from None
    except Exception as error:  # noqa: BLE001 - from outside comes anything, and a library has many words for it
        raise _refused(
            f"it does not parse: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from None
    if not is_its_key:
        raise _refused("it is for another key than the one that it was asked for")
    if names != [(NameOID.COMMON_NAME, device)]:
        raise _refused(f"it is for {leaf.subject.rfc4514_string()[:100]!r}, and this is device {device!r}")
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        raise _refused("it is not for clients")
    lifetime = Lifetime(
        begins_s=leaf.not_valid_before_utc.timestamp(), ends_s=leaf.not_valid_after_utc.timestamp()
    )
    if not 0 < lifetime.length_s <= _LONGEST_S or lifetime.ends_s < MADE_AFTER_S:
        raise _refused(f"it is good from {_day(lifetime.begins_s)} to {_day(lifetime.ends_s)}")
    if now_s is not None and not lifetime.begins_s - _CLOCKS_APART_S <= now_s < lifetime.ends_s:
        raise _refused(
            f"it is good from {_day(lifetime.begins_s)} to {_day(lifetime.ends_s)}, and it is {_day(now_s)} by a clock that is kept"
        )
    return lifetime


def _refused(why: str) -> FleetAnswerError:
    return FleetAnswerError(f"the fleet's certificate for this device is refused: {why}")


def _day(time_s: float) -> str:
    return dt.datetime.fromtimestamp(time_s, dt.UTC).strftime("%Y-%m-%d")
