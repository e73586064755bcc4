"""A model bundle: one deterministic, signed file.

::

    "FEDGEB01" | manifest length u32 LE | manifest JSON | key id 32 B | Ed25519 signature 64 B | file 1 | file 2 | ...

Every byte is accounted for: the magic and the lengths are checked, the manifest and key id are under the signature, each file is
under a hash in the manifest, and bytes left over are refused. So one flipped bit anywhere is an error. The same
content gives the same bytes; there is no clock, no compression and no padding.

The signature covers ``fedge/bundle/v1`` 0x00 key id, manifest: a release key cannot be made to sign anything else.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocol.errors import BundleFormatError, BundleIntegrityError, UntrustedBundleError
from protocol.limits import MAX_BUNDLE_BYTES, MAX_BUNDLE_FILES, MAX_MANIFEST_BYTES
from protocol.manifest import FileEntry, Manifest
from protocol.manifest_text import check_manifest_text
from runtime.unreadable import UNREADABLE

__all__ = [
    "TrustedKeys",
    "VerifiedBundle",
    "entries_for",
    "key_id",
    "open_bundle",
    "open_listed",
    "pack_bundle",
    "peek_manifest",
]

MAGIC: Final = b"FEDGEB01"
DOMAIN: Final = b"fedge/bundle/v1\x00"
KEY_ID_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
_HEAD: Final = struct.Struct("<8sI")
_decoder: Final = msgspec.json.Decoder(Manifest)


@dataclass(frozen=True, kw_only=True)
class VerifiedBundle:
    """A bundle whose signature and every hash held. `files` maps name → content."""

    manifest: Manifest
    files: Mapping[str, bytes]
    sha256: str
    signed_by: bytes


class TrustedKeys:
    """The Ed25519 release keys a machine accepts, by key id; pinned by who set it up, never taken from a server."""

    def __init__(self, keys: Iterable[Ed25519PublicKey]) -> None:
        self._keys = {key_id(key): key for key in keys}

    def __len__(self) -> int:
        """How many keys are trusted."""
        return len(self._keys)

    def find(self, identifier: bytes) -> Ed25519PublicKey:
        """The key with this id, or UntrustedBundleError."""
        try:
            return self._keys[identifier]
        except KeyError:
            known = ", ".join(sorted(k.hex()[:12] for k in self._keys)) or "none"
            raise UntrustedBundleError(
                f"the manifest is signed by release key {identifier.hex()[:12]}…, which is not trusted here (trusted: {known})"
            ) from None


def key_id(key: Ed25519PublicKey) -> bytes:
    """SHA-256 of the raw 32-byte public key."""
    return hashlib.sha256(key.public_bytes_raw()).digest()


def entries_for(files: Mapping[str, bytes]) -> tuple[FileEntry, ...]:
    """The manifest's file list for these contents, sorted by name."""
    return tuple(
        FileEntry(name=n, size=len(files[n]), sha256=hashlib.sha256(files[n]).hexdigest())
        for n in sorted(files)
    )


def pack_bundle(manifest: Manifest, files: Mapping[str, bytes], key: Ed25519PrivateKey) -> bytes:
    """Write and sign a bundle.

    Raises:
        BundleIntegrityError: `manifest.files` is not exactly `entries_for(files)`.
        BundleFormatError: a limit of `protocol.limits` is exceeded.
    """
    if manifest.files != entries_for(files):
        raise BundleIntegrityError(
            "manifest.files does not describe the files given; build it with entries_for(files)"
        )
    body = msgspec.json.encode(manifest)
    if len(body) > MAX_MANIFEST_BYTES or len(files) > MAX_BUNDLE_FILES:
        raise BundleFormatError(
            f"manifest of {len(body)} bytes / {len(files)} files exceeds {MAX_MANIFEST_BYTES} bytes / {MAX_BUNDLE_FILES} files"
        )
    identifier = key_id(key.public_key())
    signature = key.sign(DOMAIN + identifier + body)
    packed = b"".join(
        [_HEAD.pack(MAGIC, len(body)), body, identifier, signature, *(files[e.name] for e in manifest.files)]
    )
    if len(packed) > MAX_BUNDLE_BYTES:
        raise BundleFormatError(f"bundle of {len(packed)} bytes exceeds {MAX_BUNDLE_BYTES}")
    return packed


def open_bundle(content: bytes, trusted: TrustedKeys) -> VerifiedBundle:
    """Verify a bundle completely and hand out its files.

    Order: sizes, signature over the manifest, schema, then each file's size and hash.

    Raises:
        BundleFormatError: not a bundle, truncated, oversized, bytes left over, or a manifest of another schema.
        UntrustedBundleError: signed by an unknown key, or the signature is wrong.
        BundleIntegrityError: a file's bytes differ from the manifest.
    """
    body, identifier, signature, rest = _split(content)
    try:
        trusted.find(identifier).verify(signature, DOMAIN + identifier + body)
    except InvalidSignature:
        raise UntrustedBundleError(
            f"the manifest's signature does not verify under release key {identifier.hex()[:12]}…; the file was altered or badly copied: fetch it again"
        ) from None
    return _opened(content, _parse(body), identifier, rest)


def open_listed(content: bytes, sha256: str) -> VerifiedBundle:
    """Open a bundle of which somebody trusted said the SHA-256: the signed repository, or what verified it here once.

    Every byte is under that hash, the signature's too: whose key it was does not matter any more, so that a release outlives
    the key it was made with for as long as it is listed.

    Raises:
        BundleIntegrityError: other bytes than that, or a file differs from the manifest.
        BundleFormatError: as `open_bundle`.
    """
    if hashlib.sha256(content).hexdigest() != sha256:
        raise BundleIntegrityError(
            f"the bundle's {len(content)} bytes do not have the SHA-256 {sha256[:12]}… that was promised; it was altered or badly copied"
        )
    body, identifier, _, rest = _split(content)
    return _opened(content, _parse(body), identifier, rest)


def _opened(content: bytes, manifest: Manifest, identifier: bytes, rest: memoryview) -> VerifiedBundle:
    files: dict[str, bytes] = {}
    for entry in manifest.files:
        part, rest = rest[: entry.size], rest[entry.size :]
        if len(part) != entry.size:
            raise BundleFormatError(
                f"bundle ends inside {entry.name!r}: {len(part)} of {entry.size} bytes; fetch it again"
            )
        if hashlib.sha256(part).hexdigest() != entry.sha256:
            raise BundleIntegrityError(
                f"file {entry.name!r} of {manifest.release} does not have the SHA-256 its manifest promises; fetch it again"
            )
        if entry.name in files:
            raise BundleFormatError(f"the manifest of {manifest.release} names {entry.name!r} twice")
        files[entry.name] = bytes(part)
    if rest:
        raise BundleFormatError(
            f"{len(rest)} bytes follow the last file of {manifest.release}; expected none"
        )
    return VerifiedBundle(
        manifest=manifest, files=files, sha256=hashlib.sha256(content).hexdigest(), signed_by=identifier
    )


def peek_manifest(content: bytes) -> Manifest:
    """Read the manifest WITHOUT verifying anything: for showing to people, never for deciding."""
    return _parse(_split(content)[0])


def _split(content: bytes) -> tuple[bytes, bytes, bytes, memoryview]:
    if len(content) > MAX_BUNDLE_BYTES:
        raise BundleFormatError(f"bundle of {len(content)} bytes exceeds {MAX_BUNDLE_BYTES}")
    if len(content) < _HEAD.size or content[: len(MAGIC)] != MAGIC:
        raise BundleFormatError(
            f"not a Fedge model bundle: it starts with {content[:8]!r}, expected {MAGIC!r}"
        )
    _, length = _HEAD.unpack_from(content)
    start = _HEAD.size + length
    if length > MAX_MANIFEST_BYTES or len(content) < start + KEY_ID_BYTES + SIGNATURE_BYTES:
        raise BundleFormatError(
            f"bundle of {len(content)} bytes is too short for its manifest of {length} bytes; fetch it again"
        )
    middle = start + KEY_ID_BYTES
    end = middle + SIGNATURE_BYTES
    return content[_HEAD.size : start], content[start:middle], content[middle:end], memoryview(content)[end:]


def _parse(body: bytes) -> Manifest:
    check_manifest_text(body)
    try:
        return _decoder.decode(body)
    except UNREADABLE as error:
        raise BundleFormatError(
            f"the bundle's manifest says what no manifest of format 1 may ({error}); this build reads no other format"
        ) from None
