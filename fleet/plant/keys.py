"""A plant's keys: who signs releases, and the signed repository that says so to devices.

One person makes a plant and holds every key of it at first: three root keys of which two sign, and targets. They lie in
``pki/offline`` without a passphrase and are needed again only for a new family or a lost key; docs/releases.md says how each comes
into other hands. Each is made once and never overwritten.
"""

from __future__ import annotations

import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.metadata import Targets

from fleet.instruction_key import InstructionKey
from fleet.plant.written import Outcome, WrittenFiles
from fleet.trust.changes import change_delegation
from fleet.trust.creation import create_repository
from fleet.trust.key_files import (
    load_private_key,
    load_public_key,
    public_path,
    public_pem,
    write_key_pair,
)
from fleet.trust.metadata import encode, public_key, read_metadata, sign
from fleet.trust.repository import TrustRepository
from protocol.trust_roles import family_role
from runtime.durable_files import private_directory, write_durably
from runtime.errors import SettingsError
from service.plant import Plant

__all__ = ["admit_family", "is_admitted", "make_release_key", "make_repository"]


def make_release_key(plant: Plant, files: WrittenFiles) -> None:
    """The key that signs releases, which the aggregator holds."""
    _make_pair(plant.release_key, files)


def make_repository(plant: Plant, files: WrittenFiles) -> None:
    """The signed repository, without a family yet, and the keys that change it.

    Raises:
        SettingsError: it is there, and the root that devices pin is not; or a key is missing.
        StorageError: a file can be neither read nor written.
    """
    repository = TrustRepository(plant.fleet_data / "trust")
    if repository.exists:
        if not plant.root_file.exists():
            write_durably(plant.root_file, repository.read("1.root.json"))
            files.note(plant.root_file, Outcome.MADE)
        for path in (*plant.root_keys, plant.targets_key, plant.root_file):
            if path.exists():
                files.note(path, Outcome.KEPT)
        return
    for path in (*plant.root_keys, plant.targets_key):
        _make_pair(path, files)
    instruction_key = InstructionKey(private_directory(plant.fleet_data)).current()
    made = create_repository(
        repository.directory,
        root_keys=[_ed25519(path) for path in plant.root_keys],
        targets_key=_ed25519(plant.targets_key),
        online_keys=[Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()],
        families={},
        fleet_key=instruction_key.public_key(),
        now=time.time(),
    )
    write_durably(plant.root_file, made.read("1.root.json"))
    files.note(plant.root_file, Outcome.MADE)


def admit_family(plant: Plant, family: str) -> None:
    """Let the plant's release key speak for a family in the signed repository; again: nothing changes.

    Raises:
        SettingsError: the targets key is not here, or a key cannot be read.
        TopicError: the family has no valid name.
        StorageError: the repository can be neither read nor written.
    """
    role = family_role(family)
    repository = TrustRepository(plant.fleet_data / "trust")
    before = repository.published()
    public = load_public_key(public_path(plant.release_key))
    if is_admitted(plant, family):
        return
    if before.role_keys(role):
        raise SettingsError(
            f"family {family!r} is released under another key than {plant.release_key}; change that with:"
            f" fedge-fleet trust rotate family --family {family}"
        )
    if not plant.targets_key.exists():
        raise SettingsError(
            f"{plant.targets_key} is not here, and only it admits a family to the signed repository:"
            " bring it back for as long as this takes"
        )
    changed = change_delegation(before, role, [public], time.time())
    signed = {
        name: encode(sign(read_metadata(content, Targets, name), load_private_key(plant.targets_key, None)))
        for name, content in changed.items()
    }
    repository.publish(signed, time.time())


def is_admitted(plant: Plant, family: str) -> bool:
    """Whether the plant's release key speaks for a family already; raises as `admit_family`."""
    published = TrustRepository(plant.fleet_data / "trust").published()
    public = public_key(load_public_key(public_path(plant.release_key)))
    return public.keyid in {key.keyid for key in published.role_keys(family_role(family))}


def _make_pair(private: Path, files: WrittenFiles) -> None:
    if private.exists():
        if not public_path(private).exists():  # whoever made it was interrupted
            write_durably(public_path(private), public_pem(_ed25519(private).public_key()))
        files.note(private, Outcome.KEPT)
        return
    private_directory(private.parent)
    write_key_pair(private, Ed25519PrivateKey.generate(), None)
    files.note(private, Outcome.MADE)


def _ed25519(path: Path) -> Ed25519PrivateKey:
    key = load_private_key(path, None)
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError(f"{path} is no Ed25519 key; move it away, and a new one is made")
    return key
