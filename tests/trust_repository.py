"""A signed repository for tests, every file of which can be made wrong in a way of its own: built from `tuf.api.metadata`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Key,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from protocol.trust_roles import FLEET_ROLE, family_role, model_target

NOW = datetime(2026, 7, 1, tzinfo=UTC)
NOW_S = NOW.timestamp()


def signer(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey | None = None) -> CryptoSigner:
    """Signs with this key; a new Ed25519 key where none is given."""
    return CryptoSigner(key or Ed25519PrivateKey.generate())


class TrustRepository:
    """Root 2 of 3, targets, a role of a family, and the fleet's. `files` is what a server gives: name → bytes.

    Change `root`, `targets`, ... and `publish`; or put anything into `files` by hand.
    """

    def __init__(
        self,
        family: str = "pump",
        *,
        release_key: Ed25519PrivateKey | None = None,
        fleet_key: ec.EllipticCurvePrivateKey | None = None,
        now: datetime = NOW,
    ) -> None:
        self.now, self.family_name, self.role = now, family, family_role(family)
        self.fleet_key = fleet_key or ec.generate_private_key(ec.SECP256R1())
        self.signers: dict[str, list[CryptoSigner]] = {
            "root": [signer() for _ in range(3)],
            "targets": [signer()],
            "snapshot": [signer()],
            "timestamp": [signer()],
            self.role: [signer(release_key)],
        }
        self.files: dict[str, bytes] = {}
        self.root = Root(expires=self.day(365))
        for name in ("root", "targets", "snapshot", "timestamp"):
            for one in self.signers[name]:
                self.root.add_key(one.public_key, name)
        self.root.roles["root"].threshold = 2
        self.targets = Targets(expires=self.day(180))
        self.targets.delegations = Delegations(keys={}, roles={})
        self.delegate(self.role, self.signers[self.role], [f"models/{family}/*"])
        fleet = SSlibKey.from_crypto(self.fleet_key.public_key())
        self.delegate(FLEET_ROLE, [fleet], [])
        self.family = Targets(expires=self.day(90))
        self.snapshot = Snapshot(expires=self.day(7))
        self.timestamp = Timestamp(expires=self.day(1))
        self.publish_root(is_first=True)
        self.publish()

    def day(self, days: float) -> datetime:
        return self.now + timedelta(days=days)

    def delegate(
        self, role: str, signers: Iterable[CryptoSigner | Key], paths: list[str], **more: Any
    ) -> DelegatedRole:
        """Delegate `paths` to a role; what it was before is forgotten."""
        delegations = self.targets.delegations
        assert delegations is not None
        assert delegations.roles is not None
        keys = [one.public_key if isinstance(one, CryptoSigner) else one for one in signers]
        arguments = {"threshold": 1, "terminating": False, **more}
        delegations.roles[role] = DelegatedRole(role, [key.keyid for key in keys], paths=paths, **arguments)
        delegations.keys.update({key.keyid: key for key in keys})
        return delegations.roles[role]

    def list(self, release: str, content: bytes) -> None:
        """List a release in the family's role; `publish` makes it known."""
        path = model_target(release)
        self.family.targets[path] = TargetFile(
            len(content), {"sha256": hashlib.sha256(content).hexdigest()}, path
        )

    def signed(self, signed: Any, role: str, *, by: Iterable[CryptoSigner] | None = None) -> bytes:
        metadata: Metadata[Any] = Metadata(signed)
        for one in self.signers[role] if by is None else by:
            metadata.sign(one, append=True)
        return metadata.to_bytes()

    def publish_root(self, *, is_first: bool = False, by: Iterable[CryptoSigner] | None = None) -> bytes:
        """Sign the root as it is under the next version, and serve it."""
        if not is_first:
            self.root.version += 1
        content = self.signed(self.root, "root", by=by)
        self.files[f"{self.root.version}.root.json"] = content
        return content

    def publish(self, *roles: str) -> None:
        """Sign what changed (default: everything but the root), each under its next version, and what leads there."""
        chosen = roles or ("targets", self.role, "snapshot", "timestamp")
        if "targets" in chosen:
            self._publish_targets("targets", self.targets)
        if self.role in chosen:
            self._publish_targets(self.role, self.family)
        if "snapshot" in chosen:
            self.snapshot.version += 1
            self.files[f"{self.snapshot.version}.snapshot.json"] = self.signed(self.snapshot, "snapshot")
        if "timestamp" in chosen:
            self.timestamp.snapshot_meta = MetaFile(self.snapshot.version)
            self.timestamp.version += 1
            self.files["timestamp.json"] = self.signed(self.timestamp, "timestamp")

    def _publish_targets(self, role: str, targets: Targets) -> None:
        targets.version += 1
        self.files[f"{targets.version}.{role}.json"] = self.signed(targets, role)
        self.snapshot.meta[f"{role}.json"] = MetaFile(targets.version)

    def mirror(self, folder: Path) -> None:
        """Write what is served, as an image brings it along."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)

    @property
    def pinned(self) -> bytes:
        """The first root."""
        return self.files["1.root.json"]
