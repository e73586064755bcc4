"""Devices of a site whose service runs, played by the test: they obey what the fleet wishes, and say what they are told to say.

What they say goes through the fleet's own ingest, from this process into the database that the service serves; so a test may watch a
page follow without a broker.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from dashboard_site import DashboardSite
from fleet_world import TENANT, Machine, anomaly, health
from seeded_fleet import installed, machine_of
from sqlalchemy import select

from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.storage.base import open_database
from fleet.storage.device_tables import Desired
from protocol.messages.payloads import Payload

__all__ = ["LiveDevices"]

LOOK_EVERY_S = 0.2


class LiveDevices:
    """Used with ``with``: while it lasts, each device that a rollout reaches installs at once what it shall run."""

    def __init__(self, site: DashboardSite) -> None:
        self._database = open_database(site.database_url)
        self._store = EventStore(self._database, TENANT, FleetMetrics())
        self._machines: dict[str, Machine] = {}
        self._obeyed: dict[str, int] = {}
        self._over = threading.Event()
        self._speaking = threading.Lock()
        self._thread = threading.Thread(target=self._obey, name="live-devices")

    def say(self, device: str, *data: Payload) -> None:
        """Have a device say something now."""
        with self._speaking:
            machine = self._machines.setdefault(device, machine_of(device, boot="boot-live", number=2))
            self._store.store([machine.arrival(one, at=time.time()) for one in data])

    def alarm(self, device: str, **said: Any) -> None:
        """Have a device publish an anomaly."""
        self.say(device, anomaly(**said))

    def tell_health(self, devices: Sequence[str], **said: Any) -> None:
        """Have devices say how they are."""
        for device in devices:
            self.say(device, health(**said))

    def _obey(self) -> None:
        with self._database.read() as session:
            self._obeyed = {row.device: row.counter for row in session.scalars(select(Desired))}
        while not self._over.wait(LOOK_EVERY_S):
            with self._database.read() as session:
                wanted = session.scalars(select(Desired)).all()
            for row in wanted:
                if self._obeyed.get(row.device, 0) < row.counter:
                    self._obeyed[row.device] = row.counter
                    self.say(row.device, installed(row))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._database.close()
