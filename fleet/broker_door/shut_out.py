"""Who must stay out of the broker though a certificate would let him in: the devices that were revoked."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from sqlalchemy import select

from fleet.storage.base import Database
from fleet.storage.device_tables import Device, DeviceState

__all__ = ["BrokerDoor", "OpenDoor", "names_let_in", "names_shut_out"]


class BrokerDoor(Protocol):
    """Where the broker is told who stays out; one adapter for each kind of broker."""

    async def shut_out(self, name: str) -> None:
        """Throw `name` out and keep it out, as the database says already. Repeating it changes nothing.

        Raises:
            BrokerError: the broker refused, or did not confirm in time; it is told as soon as it can be: call again to
                wait for it.
            StorageError: the embedded broker's file cannot be written.
        """


class OpenDoor:
    """`BrokerDoor` where somebody else decides who enters: no broker at all, or one that admits everybody."""

    async def shut_out(self, name: str) -> None:
        """Nothing to do."""


def names_shut_out(database: Database) -> frozenset[str]:
    """Every device that must stay out."""
    with database.read() as session:
        return frozenset(session.scalars(select(Device.id).where(Device.state == DeviceState.REVOKED)))


def names_let_in(database: Database, names: Collection[str]) -> frozenset[str]:
    """Of `names`, every device that is known and was not revoked."""
    with database.read() as session:
        known = select(Device.id).where(Device.id.in_(names), Device.state != DeviceState.REVOKED)
        return frozenset(session.scalars(known))
