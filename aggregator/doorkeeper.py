"""Shuts devices out of the Flower door that the fleet lets in no more, also in the middle of a run.

Who takes part in a run is settled when it opens (`aggregator.federation`). This only ever takes devices away: whoever is new waits
for the next run. A fleet that is away changes nothing: nobody was revoked in the meantime, as far as anybody knows.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import structlog

from protocol.names import DeviceId

__all__ = ["Door", "Doorkeeper", "ShutOut"]

_log = structlog.get_logger()


class ShutOut(Protocol):
    """Who knows which devices are shut out; the fleet client implements it."""

    def shut_out(self) -> Collection[DeviceId]:
        """Devices that are enrolled no more, or not yet; raises FleetError."""


class Door(Protocol):
    """The Flower door; the Flower server implements it."""

    def roster(self) -> Collection[DeviceId]:
        """Everybody who is let in."""

    def dismiss(self, devices: Collection[DeviceId]) -> None:
        """Let these in no more; durable."""


class Doorkeeper:
    """Compares the two."""

    def __init__(self, fleet: ShutOut, door: Door) -> None:
        self._fleet, self._door = fleet, door

    def look(self) -> None:
        """Dismiss who is shut out; raises FleetError, RosterError."""
        if not self._door.roster():
            return
        gone = sorted(set(self._fleet.shut_out()) & set(self._door.roster()))
        if gone:
            self._door.dismiss(gone)
            _log.warning("devices_dismissed", devices=gone)
