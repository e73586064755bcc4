"""Who a device is: one P-256 key, and what it may sign.

The same key is the device's HTTPS identity (a short-lived ES256 token), its Flower node key, and its signature
under reports. Each use has its own domain-separation prefix, so that a signature made for one is void for another.
The key is P-256 because TPMs and secure elements hold P-256.

Source: RFC 7515/7519 (JWS, JWT), RFC 7518 section 3.4 (ES256); claims checked: iss, sub, aud, iat, exp.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, Final, Protocol

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from msgspec import Meta

from protocol.errors import IdentityError, TokenError
from protocol.limits import MAX_NAME_CHARS
from runtime.unreadable import UNREADABLE

__all__ = [
    "IdentityKey",
    "compressed_key",
    "fingerprint",
    "issue_token",
    "key_from_compressed",
    "load_private_key",
    "load_public_key",
    "private_key_pem",
    "public_key_pem",
    "sign_statement",
    "token_subject",
    "verify_statement",
    "verify_token",
]

TOKEN_LIFETIME_S: Final = 300.0
"""How long a device token is good for. Short, because it cannot be revoked by itself."""

CLOCK_LEEWAY_S: Final = 300.0
"""How far a device's clock may be off; Flower's own node authentication allows about as much."""

_HEADER: Final = b'{"alg":"ES256","typ":"JWT"}'


class _Claims(msgspec.Struct, frozen=True, kw_only=True):
    sub: Annotated[str, Meta(max_length=MAX_NAME_CHARS, pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)")]
    aud: str
    iat: float
    exp: float


class IdentityKey(Protocol):
    """A P-256 private key, wherever it lies: `cryptography`'s own from a file, or one that a chip keeps to itself."""

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Its public half."""

    def sign(self, data: bytes, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """A DER ECDSA signature over `data`; the algorithm is always ECDSA with SHA-256."""


def load_private_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Read an unencrypted PEM (PKCS#8 or SEC 1) P-256 key; raises IdentityError for anything else."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"not an unencrypted PEM private key: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError("the device key must be a P-256 (secp256r1) key")
    return key


def load_public_key(pem: bytes) -> ec.EllipticCurvePublicKey:
    """Read a PEM SubjectPublicKeyInfo P-256 key; raises IdentityError for anything else."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"not a PEM public key: {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError("the device key must be a P-256 (secp256r1) key")
    return key


def private_key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8 PEM, unencrypted: store it with mode 0600."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_key_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """SubjectPublicKeyInfo PEM."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def compressed_key(key: ec.EllipticCurvePublicKey) -> str:
    """A public key as a compressed point (SEC 1), base64: 44 characters instead of the 178 of a PEM, for long lists."""
    point = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    return base64.b64encode(point).decode()


def key_from_compressed(text: str) -> ec.EllipticCurvePublicKey:
    """Read `compressed_key`; raises IdentityError for anything that is no point of P-256."""
    try:
        point = base64.b64decode(text, validate=True)
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError as error:
        raise IdentityError(f"{text[:60]!r} is not a compressed P-256 key in base64: {error}") from None


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of the DER SubjectPublicKeyInfo, hex."""
    return hashlib.sha256(
        key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def sign_statement(key: IdentityKey, domain: str, statement: bytes) -> bytes:
    """Sign `statement` (ECDSA, SHA-256, DER) for one purpose, e.g. domain ``enrolment/v1``."""
    return key.sign(_framed(domain, statement), ec.ECDSA(hashes.SHA256()))


def verify_statement(key: ec.EllipticCurvePublicKey, domain: str, statement: bytes, signature: bytes) -> None:
    """Raise IdentityError unless `signature` was made by `key` over `statement` for `domain`."""
    try:
        key.verify(signature, _framed(domain, statement), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise IdentityError(
            f"the signature over this {domain} statement does not verify under the device's key"
        ) from None


def issue_token(key: IdentityKey, device: str, audience: str, now: float) -> str:
    """Make a device's bearer token for one audience (``fleet``), good for `TOKEN_LIFETIME_S` from `now` (Unix s)."""
    claims = msgspec.json.encode(_Claims(sub=device, aud=audience, iat=now, exp=now + TOKEN_LIFETIME_S))
    signed = _b64(_HEADER) + b"." + _b64(claims)
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256())))
    return (signed + b"." + _b64(r.to_bytes(32, "big") + s.to_bytes(32, "big"))).decode()


def token_subject(token: str) -> str:
    """The device a token claims to be from, UNVERIFIED: only to look its key up."""
    return _parse(token)[0].sub


def verify_token(token: str, key: ec.EllipticCurvePublicKey, audience: str, now: float) -> str:
    """Return the device id of a valid token.

    Raises:
        TokenError: malformed, for another audience, expired or from the future (± `CLOCK_LEEWAY_S`), or not
            signed by `key`; the device should check its clock and make a new one.
    """
    claims, signed, signature = _parse(token)
    try:
        key.verify(signature, signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise TokenError(f"the token of device {claims.sub!r} is not signed by its enrolled key") from None
    if claims.aud != audience:
        raise TokenError(
            f"the token of device {claims.sub!r} is for audience {claims.aud!r}, not {audience!r}"
        )
    if not (
        claims.iat - CLOCK_LEEWAY_S <= now <= min(claims.exp, claims.iat + TOKEN_LIFETIME_S) + CLOCK_LEEWAY_S
    ):
        raise TokenError(
            f"the token of device {claims.sub!r} is {now - claims.iat:.0f} s old; it is good for {TOKEN_LIFETIME_S:.0f} s (is the device's clock right?)"
        )
    return claims.sub


def _parse(token: str) -> tuple[_Claims, bytes, bytes]:
    parts = token.encode("utf-8", "replace").split(b".")
    if len(parts) != 3 or len(token) > 4096:
        raise TokenError("a device token has three parts separated by dots (a JWT)")
    try:
        header, claims, raw = (base64.urlsafe_b64decode(part + b"==") for part in parts)
        parsed = msgspec.json.decode(claims, type=_Claims)
    except (ValueError, *UNREADABLE) as error:
        raise TokenError(f"the device token does not parse: {error}") from None
    if header != _HEADER or len(raw) != 64:
        raise TokenError("a device token is signed with ES256")
    signature = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    return parsed, parts[0] + b"." + parts[1], signature


def _b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _framed(domain: str, statement: bytes) -> bytes:
    return b"fedge/" + domain.encode() + b"\x00" + statement
