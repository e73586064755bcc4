"""Real fleet processes and a real receiver: a kill -9 between sending and noting it tells the same once more, under the same id."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from fleet_world import TENANT, Machine, anomaly, enrol_directly, fleet_process, make_trust
from sqlalchemy import select
from told_servers import Authority, Heard, http_listener
from waiting import wait_until

from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.storage.alert_tables import AlertDelivery, AlertPlace
from fleet.storage.base import Database

pytestmark = [pytest.mark.slow, pytest.mark.long]


def looked(database: Database) -> bool:
    with database.read() as session:
        return session.scalar(select(AlertPlace.number).limit(1)) is not None


def states(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(select(AlertDelivery.state)))


def test_whoever_dies_between_sending_and_noting_it_another_one_tells_the_same(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    is_shared = database_url.startswith("postgresql")
    make_trust(tmp_path / "data")
    with http_listener(Authority(tmp_path)) as listener, ExitStack() as running:
        for number in (1, 2):
            (tmp_path / f"fleet-{number}.toml").write_text(
                f"""
                listen = "127.0.0.1:0"
                data_dir = "data"
                tenant = "{TENANT}"
                database_url = "{database_url}"
                [alerts]
                group_wait_s = 0
                [[alerts.receivers]]
                name = "programs"
                type = "webhook"
                url = "{listener.url}"
                ca_file = "{tmp_path / "ca.pem"}"
                """
            )
        first, _ = running.enter_context(fleet_process(tmp_path / "fleet-1.toml", tmp_path / "log-1"))
        wait_until(lambda: looked(database), "the first one to lead")
        if is_shared:
            running.enter_context(fleet_process(tmp_path / "fleet-2.toml", tmp_path / "log-2"))

        def die(_heard: Heard) -> tuple[int, dict[str, str], bytes]:
            if first.poll() is None:
                first.kill()
                first.wait()
            return 200, {}, b""

        listener.answer = die
        machine = Machine(name="press-1")
        enrol_directly(database, machine)
        EventStore(database, TENANT, FleetMetrics()).store(
            [machine.arrival(anomaly(episode="one"), at=time.time())]
        )
        wait_until(lambda: first.poll() is not None, "the first one to be killed at its message")
        assert states(database) == ["waiting"], "it died before it noted anything"
        if not is_shared:
            running.enter_context(fleet_process(tmp_path / "fleet-2.toml", tmp_path / "log-2"))
        wait_until(lambda: states(database) == ["delivered"], "another one to tell it")
        told = Counter(heard.body["id"] for heard in listener.heard)
        assert list(told.values()) == [2], "the same, under the same id"
