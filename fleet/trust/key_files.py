"""Private keys of the repository as files: mode 0600, with a passphrase where people hold them, never overwritten.

A key that people hold is Ed25519 in PKCS#8 PEM; its public half lies beside it (``alice.key`` → ``alice.pub.pem``) and is
what is handed around. Nothing here ever prints a private key.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fleet.trust.metadata import PublicKey, SigningKey
from runtime.durable_files import write_durably
from runtime.errors import SettingsError

__all__ = [
    "load_private_key",
    "load_public_key",
    "public_path",
    "public_pem",
    "write_key_pair",
    "write_private_key",
]


def public_path(private: Path) -> Path:
    """Where the public half goes: ``alice.key`` → ``alice.pub.pem``."""
    return private.with_suffix(".pub.pem")


def write_key_pair(private: Path, key: SigningKey, passphrase: bytes | None) -> Path:
    """Write a new key and its public half, both durably; returns the public file.

    Raises:
        SettingsError: one of the files exists.
        StorageError: the folder cannot be written to, or somebody made one of the files meanwhile.
    """
    public = public_path(private)
    for path in (private, public):
        if path.exists():
            raise SettingsError(f"{path} exists, and a key is never overwritten; choose another name")
    write_private_key(private, key, passphrase)
    write_durably(public, public_pem(key.public_key()), exclusive=True)
    return public


def write_private_key(path: Path, key: SigningKey, passphrase: bytes | None) -> None:
    """Write a private key alone (mode 0600), durably and never over another; raises StorageError."""
    encryption = (
        serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    write_durably(path, pem, mode=0o600, exclusive=True)


def public_pem(key: PublicKey) -> bytes:
    """SubjectPublicKeyInfo PEM."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def load_private_key(path: Path, passphrase: Callable[[Path], bytes] | None) -> SigningKey:
    """Read a key that signs metadata; `passphrase` is asked only where the file needs one.

    Raises:
        SettingsError: it cannot be read, others may read it too, the passphrase is wrong, or it is another kind of key.
    """
    try:
        content, mode = path.read_bytes(), path.stat().st_mode & 0o777
    except OSError as error:
        raise SettingsError(f"cannot read the key {path}: {error.strerror or error}") from None
    if mode & 0o077:
        raise SettingsError(f"the key {path} has mode {mode:04o}, so others may read it: chmod 600 {path}")
    try:
        key = _parse(content, None)
    except TypeError:  # what cryptography says where a passphrase is missing
        if passphrase is None:
            raise SettingsError(
                f"the key {path} is protected by a passphrase, which nobody can type here"
            ) from None
        try:
            key = _parse(content, passphrase(path))
        except (ValueError, TypeError):
            raise SettingsError(f"the passphrase does not open {path}; try again") from None
    except ValueError:
        raise SettingsError(
            f"{path} is no private key in PEM; make one with: fedge-fleet trust keys create"
        ) from None
    return key


def _parse(content: bytes, passphrase: bytes | None) -> SigningKey:
    try:
        key = serialization.load_pem_private_key(content, passphrase)
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from None
    if isinstance(key, Ed25519PrivateKey):
        return key
    if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
        return key
    raise ValueError("another kind of key")


def load_public_key(path: Path) -> PublicKey:
    """Read a public key, Ed25519 or P-256, in PEM; raises SettingsError, and says so kindly of a private one."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read the public key {path}: {error.strerror or error}") from None
    if b"PRIVATE KEY" in content:
        raise SettingsError(
            f"{path} is a PRIVATE key; name its public half ({public_path(path)}), and keep this one to yourself"
        )
    try:
        key = serialization.load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if isinstance(key, Ed25519PublicKey):
        return key
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return key
    raise SettingsError(f"{path} is no public key in PEM of Ed25519 or P-256")
