"""From bytes to a bundle that may be run: whole-file hash, signature, hashes of the parts, and their meaning.

Pure: bytes and keys in, a checked `ModelBundle` out. It asks nobody whether the release is wanted (`acceptance`) and does
not run the model (`probe`).
"""

from __future__ import annotations

import hashlib

from edge_agent.errors import ReleaseRefusedError
from models.bundles import ModelBundle, read_bundle
from models.errors import ModelError
from protocol.bundle import TrustedKeys, open_bundle
from protocol.errors import BundleError

__all__ = ["has_hash", "verify"]


def has_hash(content: bytes, sha256: str) -> bool:
    """Whether these are the bytes that were promised."""
    return hashlib.sha256(content).hexdigest() == sha256


def verify(content: bytes, sha256: str, keys: TrustedKeys) -> ModelBundle:
    """Check everything that can be checked without running the model.

    Args:
        content: the whole file.
        sha256: what it must hash to, hex.
        keys: the pinned release keys.

    Raises:
        ReleaseRefusedError: a byte differs, the signature is wrong or by an unknown key, or the files contradict the
            manifest; one line that says which.
    """
    if not has_hash(content, sha256):
        raise ReleaseRefusedError(
            f"the bundle's {len(content)} bytes do not have the SHA-256 {sha256[:12]}… that was promised; it was altered or badly copied"
        )
    try:
        return read_bundle(open_bundle(content, keys))
    except (BundleError, ModelError) as error:
        raise ReleaseRefusedError(str(error)) from None
