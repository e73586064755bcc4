"""From bytes to a bundle that may be run: whole-file hash, hashes of the parts, and their meaning.

Pure: bytes and the hash that somebody trusted gave in, a checked `ModelBundle` out. Who that is: the signed repository for what
is new here (`edge_agent.update_trust`), the journal for what it let in once. It asks nobody whether the release is wanted
(`acceptance`) and does not run the model (`probe`).
"""

from __future__ import annotations

import hashlib
from typing import Protocol

from edge_agent.errors import ReleaseRefusedError
from models.bundles import ModelBundle, read_bundle
from models.errors import ModelError
from protocol.bundle import open_listed
from protocol.errors import BundleError

__all__ = ["ReleaseList", "check_still_listed", "has_hash", "verify"]


class ReleaseList(Protocol):
    """The signed repository, as far as installing asks it; `edge_agent.update_trust.UpdateTrust` is one."""

    def check_listed(self, release: str, sha256: str, length: int) -> None:
        """Let a release in; raises ReleaseRefusedError, UpdateTrustError, FleetError as `UpdateTrust.check_listed`."""

    def has_listed(self, release: str, sha256: str, length: int) -> bool:
        """Whether what this device knows of the repository lists exactly these bytes, fresh or not."""

    def problems(self) -> list[str]:
        """What a person should know of it, a sentence each."""


def check_still_listed(trust: ReleaseList, release: str, sha256: str, length: int) -> None:
    """Refuse what lies on this disk and is not listed (any more) as far as this device knows: nobody is asked.

    Raises:
        ReleaseRefusedError: the list, fresh or not, does not name exactly these bytes.
    """
    if not trust.has_listed(release, sha256, length):
        raise ReleaseRefusedError(
            f"{release} (SHA-256 {sha256[:12]}…) is not listed in the signed repository as this device knows it"
        )


def has_hash(content: bytes, sha256: str) -> bool:
    """Whether these are the bytes that were promised."""
    return hashlib.sha256(content).hexdigest() == sha256


def verify(content: bytes, sha256: str) -> ModelBundle:
    """Check everything that can be checked without running the model.

    Args:
        content: the whole file.
        sha256: what it must hash to, hex.

    Raises:
        ReleaseRefusedError: a byte differs, or the files contradict the manifest; one line that says which.
    """
    try:
        return read_bundle(open_listed(content, sha256))
    except (BundleError, ModelError) as error:
        raise ReleaseRefusedError(str(error)) from None
