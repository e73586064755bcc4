"""Whether the files that aggregator.toml names can be used: ``fedge-aggregator check-config``.

Opens no connection, binds no port and writes nothing; `app` finds the same mistakes at its start, one at a time.
"""

from __future__ import annotations

import ssl

from aggregator.errors import SettingsError
from aggregator.fleet_client import FleetClient
from aggregator.invitations import broker_account
from aggregator.release_keys import read_private_key, read_public_key
from aggregator.settings import Settings

__all__ = ["check_files"]


def check_files(settings: Settings) -> None:
    """Read every key, certificate, token and password once.

    Raises:
        SettingsError: one of them is missing or is not what it should be; the message names it.
    """
    read_private_key(settings.signing_key, "signing_key")
    for path in settings.release_keys:
        read_public_key(path, "release_keys")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key)
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(
            f"tls_cert {settings.tls_cert} and tls_key {settings.tls_key} cannot be used: {error}; both are PEM files and belong together"
        ) from None
    broker_account(settings.mqtt)
    FleetClient(settings.fleet).close()
