"""The roles' files: how long each is good, how one is written, signed and read.

Files are compact JSON, one form per content, so that a length or hash means the same to everyone. What comes from
outside is bounded, parsed, and written anew before it is kept: two readers can never see different things in it.

Source: The Update Framework specification 1.0.33, sections 3 to 5.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.signer import CryptoSigner, Key, SSlibKey
from tuf.api.metadata import DelegatedRole, Metadata, Role, Root, Signed, Snapshot, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from fleet.errors import UnacceptableError

__all__ = [
    "DAY_S",
    "LIFETIME_S",
    "LISTING_LIFETIME_S",
    "MAXIMUM_METADATA_BYTES",
    "MAXIMUM_VERSION",
    "AnyMetadata",
    "PublicKey",
    "SigningKey",
    "delegated_role",
    "encode",
    "expiry",
    "public_key",
    "read_key",
    "read_metadata",
    "remaining_s",
    "role_of",
    "sign",
    "signers_of",
]

SigningKey = Ed25519PrivateKey | EllipticCurvePrivateKey
PublicKey = Ed25519PublicKey | EllipticCurvePublicKey
AnyMetadata = Metadata[Root] | Metadata[Targets] | Metadata[Snapshot] | Metadata[Timestamp]
T = TypeVar("T", Root, Targets, Snapshot, Timestamp)
M = TypeVar("M", bound=AnyMetadata)

DAY_S: Final = 86_400.0
LIFETIME_S: Final = {
    Root.type: 730 * DAY_S,
    Targets.type: 365 * DAY_S,
    Snapshot.type: 7 * DAY_S,
    Timestamp.type: DAY_S,
}
"""From signing to expiry. What people sign lasts until they meet again, and is warned about for two months before; what
the fleet signs by itself is short: it bounds how long somebody in the middle can hide a new release."""

LISTING_LIFETIME_S: Final = 365 * DAY_S
"""Of a family's list of releases; the aggregator renews it at half, so a year without one stops no fleet overnight."""

MAXIMUM_METADATA_BYTES: Final = 256 * 1024
"""Of one file: some 1,300 releases in a list."""

MAXIMUM_VERSION: Final = 999_999_999
"""Nine digits, as of a release: a version near the end of all numbers would leave no room for the next one."""

_WRITTEN: Final = JSONSerializer(compact=True)


def expiry(now: float, lifetime_s: float) -> datetime:
    """When what is signed at Unix second `now` ends."""
    return datetime.fromtimestamp(int(now), UTC) + timedelta(seconds=lifetime_s)


def remaining_s(signed: Signed, now: float) -> float:
    """Seconds until `signed` expires; negative once it has."""
    return signed.expires.timestamp() - now


def public_key(key: PublicKey) -> Key:
    """A key as metadata names it: Ed25519, or P-256 as ecdsa-sha2-nistp256."""
    return SSlibKey.from_crypto(key)


def read_key(key: Key) -> PublicKey:
    """The key that metadata names, which must go by its own digest: or one key under two names would count twice.

    Raises:
        UnacceptableError: it is none, of another kind, or goes by another name.
    """
    text = str(key.keyval.get("public"))
    try:
        if key.keytype == "ed25519":
            found: object = Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
        else:
            found = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        found = None
    is_key = isinstance(found, Ed25519PublicKey) or (
        isinstance(found, EllipticCurvePublicKey) and isinstance(found.curve, SECP256R1)
    )
    if not is_key or public_key(found) != key:  # type: ignore[arg-type] # one of the two, by the line above
        raise UnacceptableError(
            f"key {key.keyid[:12]}… is not named as an Ed25519 or P-256 key is: by its digest, and with its own scheme"
        )
    return found  # type: ignore[return-value] # as above


def sign(metadata: M, *keys: SigningKey) -> M:
    """Add each key's signature to what is there, and return `metadata`."""
    for key in keys:
        metadata.sign(CryptoSigner(key), append=True)
    return metadata


def encode(metadata: AnyMetadata) -> bytes:
    """The file."""
    return metadata.to_bytes(_WRITTEN)


def read_metadata(content: bytes, kind: type[T], name: str) -> Metadata[T]:
    """Parse a file of type `kind`; `name` says which in the error. No signature is checked.

    Raises:
        UnacceptableError: too long, not metadata, of another type, or with a version that is none.
    """
    if len(content) > MAXIMUM_METADATA_BYTES:
        raise UnacceptableError(f"{name} has {len(content)} bytes; at most {MAXIMUM_METADATA_BYTES} are read")
    try:
        metadata = Metadata.from_bytes(content)
        metadata.signed_bytes  # noqa: B018 - what has no canonical form (a fraction, a deep nest) can be signed by nobody
    except Exception as error:  # noqa: BLE001 - whatever the parsers of tuf and its libraries trip over
        cause = error.__cause__ or error
        raise UnacceptableError(
            f"{name} is no signed metadata: {str(cause)[:200] or type(cause).__name__}"
        ) from None
    if not isinstance(metadata.signed, kind):
        raise UnacceptableError(f"{name} is of type {metadata.signed.type!r}; expected {kind.type!r}")
    version = metadata.signed.version
    if type(version) is not int or version > MAXIMUM_VERSION:  # JSON's true is an int too
        raise UnacceptableError(
            f"{name} has version {version!r}; a whole number up to {MAXIMUM_VERSION} is possible"
        )
    return metadata


def signers_of(metadata: AnyMetadata, delegator: Root | Targets, role: str) -> tuple[int, int]:
    """How many keys of `role` have validly signed, and how many must.

    Raises:
        UnacceptableError: `delegator` names no such role.
    """
    try:
        found = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    except ValueError:
        raise UnacceptableError(f"no keys are named for role {role!r}; delegate to it first") from None
    return len(found.signed), found.threshold


def delegated_role(name: str, keys: Iterable[Key], paths: list[str]) -> DelegatedRole:
    """A role to which targets delegates `paths`; any one of `keys` may sign for it."""
    return DelegatedRole(name, [key.keyid for key in keys], 1, terminating=True, paths=paths)


def role_of(keys: Iterable[Key], threshold: int) -> Role:
    """A role of root."""
    return Role([key.keyid for key in keys], threshold)
