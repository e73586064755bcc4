"""The list of a family's releases as its release key signs it: what devices take, by length and SHA-256.

A list that a server hands out is extended only if a key that we trust signed it: or who holds the server could have us
sign a release of his. Each is one file of the signed repository (a delegated targets role); the fleet publishes it.

Source: The Update Framework specification 1.0.33, section 4.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Metadata, TargetFile, Targets
from tuf.api.serialization.json import JSONSerializer

from aggregator.errors import UntrustedListError
from protocol.trust_roles import model_target

__all__ = ["LIFETIME_S", "ListedFile", "ReleaseList", "read_list", "sign_list"]

LIFETIME_S: Final = 365 * 86_400.0
"""From signing to expiry; signed anew at half, so a year without an aggregator stops no fleet overnight."""

MAXIMUM_BYTES: Final = 256 * 1024


@dataclass(frozen=True, kw_only=True)
class ListedFile:
    """A bundle as it is listed."""

    sha256: str
    length: int


@dataclass(frozen=True, kw_only=True)
class ReleaseList:
    """A verified list: `version`, expiry in Unix seconds, and each release's file by release id ``family/version``."""

    version: int
    expires_at: float
    files: Mapping[str, ListedFile]


def sign_list(files: Mapping[str, ListedFile], version: int, key: Ed25519PrivateKey, now: float) -> bytes:
    """The list of `files` (by release id) as version `version`, signed at Unix second `now`; raises TopicError."""
    listed = Targets(
        version=version,
        expires=datetime.fromtimestamp(int(now), UTC) + timedelta(seconds=LIFETIME_S),
        targets={
            path: TargetFile(file.length, {"sha256": file.sha256}, path)
            for path, file in sorted((model_target(release), file) for release, file in files.items())
        },
    )
    metadata = Metadata(listed)
    metadata.sign(CryptoSigner(key))
    return metadata.to_bytes(JSONSerializer(compact=True))


def read_list(content: bytes, trusted: Iterable[Ed25519PublicKey]) -> ReleaseList:
    """Read a list that one of the `trusted` keys signed.

    Raises:
        UntrustedListError: none did, or it is no list of releases.
    """
    try:
        metadata = Metadata[Targets].from_bytes(content[: MAXIMUM_BYTES + 1])
        signed_bytes, listed = metadata.signed_bytes, metadata.signed
        targets = listed.targets if isinstance(listed, Targets) and listed.delegations is None else None
        files = {
            path.removeprefix("models/").removesuffix(".fedge"): ListedFile(
                sha256=file.hashes["sha256"], length=file.length
            )
            for path, file in (targets or {}).items()
        }
        is_list = targets is not None and set(map(model_target, files)) == set(targets)
    except Exception as error:  # noqa: BLE001 - whatever tuf and its libraries trip over
        raise UntrustedListError(
            f"the fleet's list of releases is none: {error.__cause__ or error}"
        ) from None
    if not is_list:
        raise UntrustedListError(
            f"the fleet's list of releases is of type {listed.type!r}, or lists something else"
        )
    for key in map(SSlibKey.from_crypto, trusted):
        signature = metadata.signatures.get(key.keyid)
        try:
            if signature is not None:
                key.verify_signature(signature, signed_bytes)
                return ReleaseList(version=listed.version, expires_at=listed.expires.timestamp(), files=files)
        except UnverifiedSignatureError:
            continue
    raise UntrustedListError(
        f"version {listed.version} of the fleet's list of releases is signed by none of the keys trusted here, so nothing is added to it"
    )
