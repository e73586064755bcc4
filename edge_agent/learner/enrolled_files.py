"""What the learner reads from the device's files before it joins: key, active bundle, rows, invitation.

Reading only. The agent and its installer go on writing meanwhile; their files are replaced atomically, so what is
read here is one state or the next, never half of one. The bundle is verified again: signature, hashes, meaning.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from edge_agent.errors import NotEnrolledError, NotReadyError, ReleaseRefusedError
from edge_agent.installation.bundle_store import BundleStore
from edge_agent.installation.journal_file import JournalFile
from edge_agent.installation.verification import verify
from edge_agent.settings import StatePaths
from models.bundles import ModelBundle
from protocol.bundle import TrustedKeys
from protocol.errors import IdentityError
from protocol.identity import load_private_key
from protocol.messages.payloads import TrainingInvitation
from runtime.durable_files import read_bytes
from runtime.errors import SettingsError, StorageError

__all__ = ["read_active_bundle", "read_device_key", "read_invitation"]


def read_invitation(path: Path) -> TrainingInvitation:
    """The invitation that the agent left for its learner (JSON of `TrainingInvitation`).

    Raises:
        NotReadyError: there is none, or it does not parse.
    """
    content = read_bytes(path)
    if content is None:
        raise NotReadyError(f"there is no invitation at {path}")
    try:
        return msgspec.json.decode(content, type=TrainingInvitation)
    except msgspec.DecodeError as error:
        raise NotReadyError(f"{path} holds no training invitation: {error}") from None


def read_device_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The device's identity key.

    Raises:
        NotEnrolledError: there is none.
        StorageError: it cannot be read as a key.
    """
    content = read_bytes(path)
    if content is None:
        raise NotEnrolledError(f"there is no device key at {path}: run fedge-agent enrol")
    try:
        return load_private_key(content)
    except IdentityError as error:
        raise StorageError(f"{path} cannot be read: {error}") from None


def read_active_bundle(paths: StatePaths, release_keys: Iterable[Path]) -> ModelBundle:
    """The bundle that detection runs now, verified again.

    Raises:
        NotReadyError: no release is installed, or its file no longer verifies.
        SettingsError: a release key file cannot be used.
    """
    journal = JournalFile(paths.install_journal).load()
    if journal is None or journal.active is None:
        raise NotReadyError("no release is installed yet; there is no model to train")
    keys = TrustedKeys(_release_key(path) for path in release_keys)
    try:
        content = BundleStore(paths.bundles).read(journal.active.sha256)
        return verify(content, journal.active.sha256, keys)
    except (StorageError, ReleaseRefusedError) as error:
        raise NotReadyError(f"the active release {journal.active.release} cannot be used: {error}") from None


def _release_key(path: Path) -> ed25519.Ed25519PublicKey:
    content = read_bytes(path)
    try:
        key = serialization.load_pem_public_key(content or b"")
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"release key {path} cannot be used: {error}") from None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise SettingsError(f"release key {path} is no Ed25519 public key")
    return key
