"""Puts the broker's accounts together as the settings say: which adapter, which services, which key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from fleet.broker_accounts.accounts import AccountBook, BrokerAccounts, UnmanagedAccounts
from fleet.broker_accounts.broker_state import broker_state
from fleet.broker_accounts.dynamic_security import DynamicSecurity
from fleet.broker_accounts.password_file import PasswordFile
from fleet.broker_accounts.passwords import BrokerPasswords, load_password_key
from fleet.settings import Settings
from fleet.storage.base import Database
from runtime.errors import SettingsError
from service.secret_files import read_secret

__all__ = ["ACL_SERVICES", "open_accounts", "open_passwords", "service_names", "state_of_broker"]

ACL_SERVICES: Final = frozenset({"fleet", "aggregator"})
"""Fedge's own services, as deploy/mosquitto/acl names them, whether or not a fleet's settings do."""


def open_passwords(settings: Settings, random_bytes: Callable[[int], bytes]) -> BrokerPasswords:
    """The maker of passwords, with the key in ``data_dir``; raises what `load_password_key` raises."""
    key_file = settings.data_dir / "broker-passwords.key"
    return BrokerPasswords(load_password_key(key_file, random_bytes), random_bytes)


def open_accounts(
    settings: Settings, database: Database, passwords: BrokerPasswords, *, session: str
) -> BrokerAccounts:
    """The accounts where the settings keep them; `session` is that of `DynamicSecurity`.

    A password file is brought up to date at once.

    Raises:
        SettingsError: the password of a service cannot be read.
        StorageError: the password file cannot be written.
    """
    mqtt = settings.mqtt
    if mqtt is None or mqtt.accounts == "none":
        return UnmanagedAccounts()
    if mqtt.accounts_file is None:
        return DynamicSecurity(_book(settings, database, passwords, mqtt.services), session=session)
    own = {mqtt.username: mqtt.password_file} if mqtt.password_file else {}
    kept = PasswordFile(_book(settings, database, passwords, mqtt.services | own), mqtt.accounts_file)
    kept.write()
    return kept


def service_names(settings: Settings) -> frozenset[str]:
    """Accounts that the settings name: no device may have such an id."""
    return frozenset({settings.mqtt.username, *settings.mqtt.services}) if settings.mqtt else frozenset()


def state_of_broker(settings: Settings, database: Database, passwords: BrokerPasswords) -> dict[str, Any]:
    """What Mosquitto's dynamic-security plugin starts from; raises SettingsError where the settings do not suffice."""
    mqtt = settings.mqtt
    if mqtt is None or mqtt.password_file is None:
        raise SettingsError("[mqtt] password_file is missing: the fleet enters the broker with it")
    own = read_secret(mqtt.password_file, "mqtt.password_file")
    return broker_state(
        _book(settings, database, passwords, mqtt.services),
        fleet_name=mqtt.username,
        fleet_entry=passwords.entry_of_chosen(mqtt.username, own),
    )


def _book(
    settings: Settings, database: Database, passwords: BrokerPasswords, services: Mapping[str, Path]
) -> AccountBook:
    chosen = {name: read_secret(path, f"mqtt.services.{name}") for name, path in services.items()}
    return AccountBook(database, passwords, chosen, tenant=settings.tenant)
