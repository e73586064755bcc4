"""TLS as a device speaks it: one pinned CA for each road, nothing older than TLS 1.2, no way to switch verification off."""

from __future__ import annotations

import ssl
from pathlib import Path

from runtime.errors import SettingsError

__all__ = ["pinned_context"]


def pinned_context(ca_file: Path, key: str) -> ssl.SSLContext:
    """A client's context that trusts `ca_file` alone; `key` is the setting that named it.

    Raises:
        SettingsError: the file cannot be read or holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cafile=str(ca_file))
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(
            f"{key} {ca_file} cannot be used: {error.strerror or error}; it must be the PEM of the CA"
        ) from None
    return context
