"""The fleet keeps its repository from ending by itself, and says in good time what only people can keep."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from fleet_api_world import is_problem
from fleet_world import RELEASE_KEY, bundle, make_trust, operator_token
from prometheus_client import CollectorRegistry, Gauge
from structlog.testing import capture_logs
from trust_world import OneDevice, list_bundles, make_repository
from tuf.api.exceptions import ExpiredMetadataError
from waiting import wait_until

from fleet.app import build_app
from fleet.settings import Settings
from fleet.storage.base import Database
from fleet.trust import renewal
from fleet.trust.metadata import DAY_S
from fleet.trust.published import Published
from fleet.trust.renewal import TrustRenewal
from fleet.trust.repository import TrustRepository
from service.roles import Role


class Clock:
    def __init__(self, at: float) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


def renewal_of(folder: Path, clock: Clock) -> tuple[TrustRenewal, Gauge, list[Published]]:
    gauge, seen = Gauge("left", "-", ["role"], registry=CollectorRegistry()), []
    made = TrustRenewal(TrustRepository(folder / "trust"), gauge, now=clock, watch=seen.append)
    return made, gauge, seen


def bearer(database: Database, name: str, role: Role) -> dict[str, str]:
    with database.write() as session:
        return {"Authorization": f"Bearer {operator_token(session, name, role)}"}


def test_a_fleet_that_was_off_for_a_week_is_fresh_again_at_its_first_look(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    repository.renew(time.time() - 8 * DAY_S)
    device = OneDevice(tmp_path / "device", repository)
    with pytest.raises(ExpiredMetadataError):
        device.refresh()
    looks, _, _ = renewal_of(tmp_path, Clock(time.time()))
    looks.look()
    device.refresh()


def test_what_people_sign_is_warned_about_for_two_months_once_a_day_and_is_a_metric(tmp_path: Path) -> None:
    start = time.time()
    make_repository(tmp_path, now=start)
    clock = Clock(start)
    looks, gauge, _ = renewal_of(tmp_path, clock)
    with capture_logs() as quiet:
        looks.look()
    assert not [line for line in quiet if line["event"] == "trust_expires_soon"]
    clock.at = start + (365 - 59) * DAY_S
    with capture_logs() as logs:
        for _ in range(3):
            looks.look()
        clock.at += DAY_S
        looks.look()
    told = [line["detail"] for line in logs if line["event"] == "trust_expires_soon"]
    assert [words.split()[0] for words in told] == ["targets", "targets"]
    assert "sign it anew" in told[0]
    assert gauge.labels("targets")._value.get() == pytest.approx(58 * DAY_S, abs=5)
    assert gauge.labels("timestamp")._value.get() > DAY_S / 2 - 5


def test_a_disk_that_refuses_and_a_key_that_is_gone_are_told_and_tried_again(tmp_path: Path) -> None:
    start = time.time()
    make_repository(tmp_path, now=start)
    clock = Clock(start + DAY_S)
    keys = tmp_path / "trust" / "keys"
    keys.rename(tmp_path / "elsewhere")
    looks, _, seen = renewal_of(tmp_path, clock)
    with capture_logs() as logs:
        looks.look()
    assert [line["event"] for line in logs] == ["trust_renewal_failed"]
    assert "trust rotate online" in logs[0]["detail"]
    assert seen == []
    (tmp_path / "elsewhere").rename(keys)
    looks.look()
    assert len(seen) == 1


def test_a_fleet_without_a_repository_starts_and_says_what_is_missing(
    database: Database, tmp_path: Path
) -> None:
    with (
        capture_logs() as logs,
        TestClient(build_app(Settings(data_dir=tmp_path, tenant="demo"), database)) as client,
    ):
        headers = bearer(database, "agg", Role.PUBLISHER)
        wait_until(lambda: any(line["event"] == "trust_missing" for line in logs), "the warning")
        is_problem(client.post("/v1/releases", content=bundle(1), headers=headers), 404, "trust init")
        assert client.get("/v1/trust/timestamp.json", headers=headers).status_code in {403, 404}


def test_what_another_process_published_is_noted_at_the_next_look(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "EVERY_S", 0.05)
    trust = make_trust(tmp_path)
    with TestClient(build_app(Settings(data_dir=tmp_path, tenant="demo"), database)) as client:
        headers = bearer(database, "root", Role.ADMIN)

        def shown() -> Any:
            return client.get("/v1/releases/motor/1", headers=headers).json()

        assert client.post("/v1/releases", content=bundle(1), headers=headers).status_code == 201
        assert shown()["listed_at"] is None
        list_bundles(trust, {"motor/1": bundle(1)}, RELEASE_KEY)
        wait_until(lambda: shown()["listed_at"] is not None, "the release to be listed")
