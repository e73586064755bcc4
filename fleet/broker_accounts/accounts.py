"""What the broker must hold: an account for every enrolled device and for every service of the settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import select

from fleet.broker_accounts.passwords import BrokerPasswords, salt_of
from fleet.storage.base import Database
from fleet.storage.device_tables import Device, DeviceState

__all__ = ["Account", "AccountBook", "BrokerAccounts", "UnmanagedAccounts"]


class BrokerAccounts(Protocol):
    """Where accounts are kept; one adapter for each kind of broker."""

    async def update(self, name: str) -> None:
        """Make the broker's account of `name` what the database says now: there, with its password, or gone.

        Repeating it changes nothing. A device that is shut out is disconnected.

        Raises:
            BrokerError: the broker refused, or did not confirm in time; it is told as soon as it can be: call again to
                wait for it.
            ConflictError: the broker has an account of that name that is not this fleet's; it is left alone.
            StorageError: the password file cannot be written.
        """


class UnmanagedAccounts:
    """`BrokerAccounts` where somebody else decides who enters: no broker at all, or one that admits everybody."""

    async def update(self, name: str) -> None:
        """Nothing to do."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """One account. `password` is None where only its hash is known: made by an older fleet, or with a lost key."""

    name: str
    entry: str
    password: str | None

    def __repr__(self) -> str:
        return f"Account(name={self.name!r})"


class AccountBook:
    """Reads the accounts out of the database and the settings, and tells them from other people's."""

    def __init__(
        self, database: Database, passwords: BrokerPasswords, services: Mapping[str, str], *, tenant: str
    ) -> None:
        """`services`: user name → password. Fleets of different tenants may share a broker."""
        self.owner = f"fedge {tenant} "
        self._database = database
        self._passwords = passwords
        self._services = {
            name: Account(name=name, entry=passwords.entry_of_chosen(name, password), password=password)
            for name, password in services.items()
        }

    def labels(self, name: str, entry: str) -> dict[str, str]:
        """What is written beside an account: that it is this fleet's, which password it has, and who may use it.

        A device has one MQTT client id, its name: with another's it would throw that one out. A service has another
        client id at each start.
        """
        label = {"textname": f"{self.owner}{salt_of(entry)}"}
        return label if name in self._services else label | {"clientid": name}

    def entries(self) -> dict[str, str]:
        """Name → entry of every account that must exist."""
        enrolled = select(Device.id, Device.broker_password_hash).where(Device.state == DeviceState.ENROLLED)
        with self._database.read() as session:
            devices = dict(session.execute(enrolled).tuples().all())
        return devices | {name: account.entry for name, account in self._services.items()}

    def find(self, names: Collection[str]) -> dict[str, Account]:
        """Those of `names` that must exist, with their passwords."""
        enrolled = select(Device.id, Device.broker_password_hash).where(
            Device.state == DeviceState.ENROLLED, Device.id.in_(names)
        )
        with self._database.read() as session:
            rows = session.execute(enrolled).tuples().all()
        devices = {
            name: Account(name=name, entry=entry, password=self._passwords.recover(name, entry))
            for name, entry in rows
        }
        return devices | {name: self._services[name] for name in names if name in self._services}
