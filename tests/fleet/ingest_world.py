"""A store of events with one enrolled device, and what stands in its tables."""

from __future__ import annotations

import pytest
from fleet_world import TENANT, Machine, enrol_directly
from sqlalchemy import func, select

from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.storage.base import Database
from fleet.storage.device_tables import Device


@pytest.fixture
def store(database: Database) -> EventStore:
    return EventStore(database, TENANT, FleetMetrics())


@pytest.fixture
def machine(database: Database) -> Machine:
    machine = Machine(name="press-1")
    enrol_directly(database, machine)
    return machine


def count(database: Database, table: type) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def device(database: Database, name: str = "press-1") -> Device:
    with database.read() as session:
        row = session.get(Device, name)
        assert row is not None
        return row
