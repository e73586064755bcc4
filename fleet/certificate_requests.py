"""A device's certificate request (PKCS#10), read with suspicion: only its public key is ever used.

Source: RFC 2986 (PKCS#10); RFC 5480 (P-256 as a named curve).
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fleet.errors import BadRequestError

__all__ = ["requested_key"]

MAX_REQUEST_CHARS: Final = 4096
"""A request for a P-256 key has about 400."""

_BEGIN: Final = "-----BEGIN CERTIFICATE REQUEST-----"
_END: Final = "-----END CERTIFICATE REQUEST-----"


def requested_key(pem: str, device: str) -> ec.EllipticCurvePublicKey:
    """The key that `device` asks a certificate for; whoever sent the request holds its private half.

    Extensions and attributes of the request are not looked at.

    Args:
        pem: one PKCS#10 request in PEM and nothing around it.
        device: the name that must be its one subject attribute (CN).

    Raises:
        BadRequestError: it is anything else, or not signed by the key that it holds.
    """
    text = pem.strip()
    if len(pem) > MAX_REQUEST_CHARS or not text.startswith(_BEGIN) or not text.endswith(_END):
        raise _refused(f"expected one PEM block {_BEGIN}… of at most {MAX_REQUEST_CHARS} characters")
    if text.count("-----BEGIN") != 1:
        raise _refused("it holds more than one PEM block")
    try:
        request = x509.load_pem_x509_csr(text.encode("ascii"))
        names = [(attribute.oid, attribute.value) for attribute in request.subject]
        key = request.public_key()
        is_signed = isinstance(request.signature_hash_algorithm, hashes.SHA256) and request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise _refused(f"it does not parse as PKCS#10: {str(error)[:200]}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _refused("its key is not a P-256 (secp256r1) key")
    if not is_signed:
        raise _refused("it is not signed by its own key with SHA-256")
    if names != [(NameOID.COMMON_NAME, device)]:
        raise _refused(f"its subject must be CN={device} and nothing else")
    return key


def _refused(reason: str) -> BadRequestError:
    return BadRequestError(f"the certificate request is refused: {reason}")
