"""Ed25519 release keys as PEM files: made, read, never shown.

The private key is written with mode 0600 and never over an existing file: a release key that is lost or replaced by
mistake locks every device out of updates.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from aggregator.errors import SettingsError

__all__ = ["create_key_files", "public_key_path", "read_private_key", "read_public_key"]


def public_key_path(private: Path) -> Path:
    """Where the public half goes: ``release.key`` → ``release.pub.pem``."""
    return private.with_suffix(".pub.pem")


def create_key_files(private: Path, key: Ed25519PrivateKey) -> Path:
    """Write a release key and its public half, both durably; returns the public file's path.

    Raises:
        SettingsError: one of the files exists, or the folder cannot be written to.
    """
    public = public_key_path(private)
    private_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public_pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    if public.exists():
        raise SettingsError(f"{public} exists; a release key is never overwritten: choose another --out")
    _write_new(private, private_pem, 0o600)
    _write_new(public, public_pem, 0o644)
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


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError:
        raise SettingsError(
            f"{path} exists; a release key is never overwritten: choose another --out"
        ) from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror or error}") from None
