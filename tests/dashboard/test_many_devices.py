"""Ten thousand devices and as many alarms make no page longer: what a browser is given has a bound."""

from __future__ import annotations

import pytest
from dashboard_world import Browser
from databases import Databases, SqliteDatabases
from fleet_api_world import Fleet, fleet
from fleet_world import anomaly
from seeded_fleet import machine_of
from sqlalchemy import insert

from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.storage.device_tables import Device
from protocol.identity import public_key_pem
from service.roles import Role

__all__ = ["fleet"]  # the fixture

pytestmark = pytest.mark.slow
MANY, ALARMS = 10_000, 10_000
LARGEST_BYTES, MOST_ELEMENTS = 100_000, 3000


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Databases:
    """SQLite alone: how long a page is does not hang on the database."""
    return SqliteDatabases(tmp_path_factory.mktemp("databases"))


@pytest.fixture(scope="module")
def crowded(fleet: Fleet) -> Fleet:
    now, machine = fleet.now(), machine_of("press-00000")
    key = public_key_pem(machine.key.public_key()).decode()
    rows = [
        {
            "id": f"press-{number:05}",
            "fingerprint": f"{number:064x}",
            "public_key": key,
            "hardware": "rpi4",
            "family": f"family-{number % 40}",
            "site": f"hall-{number % 200}",
            "labels": {"line": str(number % 9)},
            "enrolled_at": now,
            "release": f"family-{number % 40}/{number % 7 + 1}",
        }
        for number in range(MANY)
    ]
    with fleet.database.write() as session:
        session.execute(insert(Device), rows)
    store = EventStore(fleet.database, "demo", FleetMetrics())
    for first in range(0, ALARMS, 500):
        alarms = (anomaly(window_index=number, episode=f"e-{number}") for number in range(first, first + 500))
        store.store([machine.arrival(one, at=now - 1000 + first / 500) for one in alarms])
    return fleet


@pytest.mark.parametrize(
    "path", ["/", "/devices", "/devices?limit=500", "/anomalies", "/devices/press-00000", "/precision"]
)
def test_a_page_of_ten_thousand_devices_is_as_long_as_one_of_a_hundred(crowded: Fleet, path: str) -> None:
    answer = Browser(crowded, Role.VIEWER).get(path)
    assert answer.status_code in {200, 422}, answer.text[-300:]
    assert len(answer.content) <= LARGEST_BYTES
    assert answer.text.count("<") <= 2 * MOST_ELEMENTS
