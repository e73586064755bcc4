"""The pinned release keys: whose signature a bundle must bear to be run or trained on this device."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from protocol.bundle import TrustedKeys
from runtime.errors import SettingsError

__all__ = ["load_release_keys"]


def load_release_keys(files: Iterable[Path]) -> TrustedKeys:
    """Read the pinned release keys.

    Raises:
        SettingsError: a file is missing or holds no Ed25519 public key.
    """
    keys = []
    for file in files:
        try:
            key = serialization.load_pem_public_key(file.read_bytes())
        except (OSError, ValueError, UnsupportedAlgorithm) as error:
            raise SettingsError(f"release_keys: {file} is not a public key file: {error}") from None
        if not isinstance(key, Ed25519PublicKey):
            raise SettingsError(
                f"release_keys: {file} holds a {type(key).__name__}; expected an Ed25519 public key"
            )
        keys.append(key)
    return TrustedKeys(keys)
