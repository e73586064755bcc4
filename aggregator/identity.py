"""Who this aggregator is to its devices: one P-256 key, made at the first start, whose public half every device has pinned.

It signs invitations and answers to devices, and requests of devices name it. It is neither the release signing key, which may lie
elsewhere, nor the key of the TLS certificate, which changes with the certificate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from protocol.errors import IdentityError
from protocol.identity import load_private_key, private_key_pem
from runtime.durable_files import private_directory, read_bytes, write_durably
from runtime.errors import SettingsError, StorageError

__all__ = ["IDENTITY_FILE", "check_identity", "open_identity"]

IDENTITY_FILE: Final = "identity.key"
"""In the aggregator's data directory."""


def open_identity(data_dir: Path) -> ec.EllipticCurvePrivateKey:
    """The key in `data_dir`, which is made where there is none.

    Raises:
        SettingsError: it cannot be read or written, is no P-256 key, or may be read by others.
    """
    found = check_identity(data_dir)
    if found is None:
        made = private_key_pem(ec.generate_private_key(ec.SECP256R1()))
        try:
            private_directory(data_dir)
            write_durably(data_dir / IDENTITY_FILE, made, mode=0o600, exclusive=True)
        except StorageError as error:
            # Somebody else may have made it meanwhile; then it is there.
            if (found := check_identity(data_dir)) is None:
                raise SettingsError(f"no identity key can be made in data_dir: {error}") from None
            return found
        found = check_identity(data_dir)
    assert found is not None  # noqa: S101 - for the type checker: it was written just now
    return found


def check_identity(data_dir: Path) -> ec.EllipticCurvePrivateKey | None:
    """The key in `data_dir`, or None where none was made yet; raises as `open_identity`."""
    path = data_dir / IDENTITY_FILE
    try:
        content = read_bytes(path)
        if content is None:
            return None
        mode = path.stat().st_mode & 0o777
    except (OSError, StorageError) as error:
        raise SettingsError(f"the identity key {path} cannot be used: {error}") from None
    if mode & 0o077:
        raise SettingsError(
            f"the identity key {path} has mode {mode:04o}, so others may read it: chmod 600 {path}"
        )
    try:
        return load_private_key(content)
    except IdentityError as error:
        raise SettingsError(
            f"the identity key {path} cannot be used: {error}; restore it from a backup, or remove it and give every device the new one"
        ) from None
