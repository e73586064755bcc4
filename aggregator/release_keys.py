"""Ed25519 release keys as PEM files: made, read, never shown.

The private key is written with mode 0600 and never over an existing file: a release key that is lost or replaced by
mistake locks every device out of updates.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from runtime.durable_files import write_durably
from runtime.errors import SettingsError

__all__ = ["create_key_files", "public_key_path", "read_private_key", "read_public_key"]


def public_key_path(private: Path) -> Path:
    """Where the public half goes: ``release.key`` → ``release.pub.pem``."""
    return private.with_suffix(".pub.pem")


def create_key_files(private: Path, key: Ed25519PrivateKey) -> Path:
    """Write a release key and its public half, both durably; returns the public file's path.

    Raises:
        SettingsError: one of the files exists.
        StorageError: the folder cannot be written to, or somebody else made one of the files meanwhile.
    """
    public = public_key_path(private)
    private_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public_pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for path in (private, public):
        if path.exists():
            raise SettingsError(f"{path} exists; a release key is never overwritten: choose another --out")
    # Said kindly above; held to here, whoever writes at the same time.
    write_durably(private, private_pem, mode=0o600, exclusive=True)
    write_durably(public, public_pem, exclusive=True)
    return public


def read_private_key(path: Path, key: str) -> Ed25519PrivateKey:
    """Read the signing key of the setting `key`; raises SettingsError, which never quotes the content."""
    content = _read(path, key)
    try:
        private = serialization.load_pem_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        private = None
    if not isinstance(private, Ed25519PrivateKey):
        raise SettingsError(
            f"{key} {path} is not an unencrypted Ed25519 private key in PEM; make one with: fedge-aggregator keys create"
        )
    return private


def read_public_key(path: Path, key: str) -> Ed25519PublicKey:
    """Read a trusted release key of the setting `key`; raises SettingsError."""
    content = _read(path, key)
    try:
        public = serialization.load_pem_public_key(content)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        public = None
    if not isinstance(public, Ed25519PublicKey):
        raise SettingsError(f"{key} {path} is not an Ed25519 public key in PEM")
    return public


def _read(path: Path, key: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{key} {path} cannot be read: {error.strerror or error}") from None
