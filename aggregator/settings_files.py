"""Whether the files that aggregator.toml names can be used: ``fedge-aggregator check-config``.

Opens no connection, binds no port and writes nothing; `app` finds the same mistakes at its start, one at a time.
"""

from __future__ import annotations

import time

from aggregator.family_folder import Families
from aggregator.fleet_client import FleetClient
from aggregator.identity import check_identity
from aggregator.invitations import SOURCE
from aggregator.release_keys import read_private_key, read_public_key
from aggregator.settings import Settings
from runtime.errors import SettingsError
from service.broker_account import BrokerAccount
from service.served_certificate import ServedCertificate

__all__ = ["check_files"]


def check_files(settings: Settings) -> None:
    """Read every key, certificate and token once.

    Raises:
        SettingsError, StartError: one of them is missing or is not what it should be; the message names it.
    """
    read_private_key(settings.signing_key, "signing_key")
    if problems := Families(settings.families, settings.families_dir).problems:
        raise SettingsError("; ".join(problems.values()))
    for path in settings.release_keys:
        read_public_key(path, "release_keys")
    check_identity(settings.data_dir)
    ServedCertificate(settings.tls_cert, settings.tls_key, time.time)
    BrokerAccount(settings.mqtt, client_id=SOURCE, draw=lambda: 0.0)
    FleetClient(settings.fleet).close()
