"""The fleet client over real HTTPS: what it takes, what it retries, what it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aggregator_service_world import TOKEN, HttpFleet, serve_fleet
from aggregator_world import FAMILY, first_bundle
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from flower_world import Tls, make_tls
from free_ports import free_port
from secret_file import secret_file
from waiting import AMPLE_S

from aggregator.errors import FleetRefusedError, FleetUnreachableError
from aggregator.fleet_client import FleetClient
from aggregator.rounds.ports import ReleaseRecord
from aggregator.settings import FleetSettings
from aggregator.triggers import DriftSummary
from runtime.errors import SettingsError

DEVICE = {"family": FAMILY, "state": "enrolled", "online": True, "public_key": "PEM"}


@dataclasses.dataclass
class PagingFleet(HttpFleet):
    """Gives one item a page, and may fail or answer nonsense."""

    status: int = 200
    nonsense: Any = None

    def app(self) -> FastAPI:
        app = super().app()

        @app.middleware("http")
        async def trouble(request: Request, call_next: Any) -> Any:
            if self.status != 200:
                return JSONResponse({"detail": "the disk is full"}, self.status)
            if self.nonsense is not None:
                return JSONResponse(self.nonsense)
            if request.url.path == "/v1/devices":
                at = int(request.query_params.get("after", "0"))
                following = str(at + 1) if at + 1 < len(self.devices) else None
                return JSONResponse({"items": self.devices[at : at + 1], "next_cursor": following})
            return await call_next(request)

        return app


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    return make_tls(tmp_path)


@pytest.fixture
def fleet(tls: Tls) -> Iterator[PagingFleet]:
    with serve_fleet(PagingFleet(), tls) as served:
        assert isinstance(served, PagingFleet)
        yield served


def settings(tls: Tls, port: int, token: str = TOKEN) -> FleetSettings:
    token_file = tls.ca.parent / "token"
    secret_file(token_file, token + "\n")
    return FleetSettings(
        url=f"https://127.0.0.1:{port}", ca_file=tls.ca, token_file=token_file, timeout_s=AMPLE_S
    )


@pytest.fixture
def client(tls: Tls, fleet: PagingFleet) -> Iterator[FleetClient]:
    made = FleetClient(settings(tls, fleet.port))
    yield made
    made.close()


def test_every_page_is_read_and_only_devices_that_may_train_are_taken(
    client: FleetClient, fleet: PagingFleet
) -> None:
    fleet.devices = [
        {**DEVICE, "id": "a"},
        {**DEVICE, "id": "b", "state": "revoked"},
        {**DEVICE, "id": "c", "family": "other"},
        {**DEVICE, "id": "d", "online": False},
    ]
    assert [(m.device, m.is_online) for m in client.members(FAMILY)] == [("a", True), ("d", False)]


def test_publishing_the_same_bytes_twice_is_fine_and_others_are_a_conflict(
    client: FleetClient, fleet: PagingFleet
) -> None:
    client.publish(first_bundle())
    client.publish(first_bundle())
    assert [record.release for record in client.releases(FAMILY)] == ["pump/1"]
    assert client.bundle(FAMILY, 1) == first_bundle()
    fleet.bundles["pump/1"] = b"another"
    with pytest.raises(FleetRefusedError, match="pump/1 exists") as refused:
        client.publish(first_bundle())
    assert refused.value.status == 409


def test_a_release_comes_with_how_many_devices_shall_run_it_and_from_an_older_fleet_with_none(
    client: FleetClient, fleet: PagingFleet
) -> None:
    fleet.nonsense = {
        "items": [
            {"id": "pump/1", "withdrawn_at": None, "desired_devices": 7, "approved_at": 3.0},
            {"id": "pump/2", "withdrawn_at": 5.0},
        ],
        "next_cursor": None,
    }
    assert client.releases(FAMILY) == [
        ReleaseRecord(release="pump/1", version=1, desired_devices=7, is_approved=True),
        ReleaseRecord(release="pump/2", version=2, is_withdrawn=True),
    ]


def test_a_rollout_is_made_and_started_once(client: FleetClient, fleet: PagingFleet) -> None:
    for _ in range(2):
        assert client.start_rollout({"groups": []}, "pump/2", "pump/2 by run-1") == "r1"
    assert len(fleet.rollouts) == 1
    assert fleet.rollouts[0]["state"] == "RUNNING"


def test_a_rollout_that_was_made_but_not_started_before_a_kill_is_started(
    client: FleetClient, fleet: PagingFleet
) -> None:
    fleet.rollouts = [{"id": "r1", "name": "pump/2 by run-1", "state": "READY"}]
    client.start_rollout({}, "pump/2", "pump/2 by run-1")
    assert fleet.rollouts[0]["state"] == "RUNNING"


def test_what_a_person_approved_after_a_kill_is_left_for_a_person_to_start(
    client: FleetClient, fleet: PagingFleet
) -> None:
    fleet.rollouts = [{"id": "r1", "name": "pump/2 by run-1", "state": "READY", "needs_approval": True}]
    assert client.start_rollout({}, "pump/2", "pump/2 by run-1") == "r1"
    assert fleet.rollouts[0]["state"] == "READY"


def test_a_token_that_was_rotated_is_taken_up_without_a_restart(
    client: FleetClient, fleet: PagingFleet, tls: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.releases(FAMILY) == []
    monkeypatch.setattr("aggregator_service_world.TOKEN", "fo_new")
    with pytest.raises(FleetRefusedError, match="401"):
        client.releases(FAMILY)
    secret_file(tls.ca.parent / "token", "fo_new\n")
    assert client.releases(FAMILY) == []


def test_drift_comes_with_its_dates(client: FleetClient, fleet: PagingFleet) -> None:
    fleet.devices, fleet.drift_since = [{**DEVICE, "id": "a"}], {"a": 17.0}
    assert client.drift(FAMILY) == DriftSummary(devices=1, drifted_since=(17.0,))
    fleet.precision_drifted_since = 18.0
    assert client.drift(FAMILY).precision_drifted_since == 18.0


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_fleet_in_trouble_is_worth_another_try(
    client: FleetClient, fleet: PagingFleet, status: int
) -> None:
    fleet.status = status
    with pytest.raises(FleetUnreachableError, match="the disk is full"):
        client.releases(FAMILY)


def test_a_fleet_that_is_not_there_is_worth_another_try(tls: Tls) -> None:
    client = FleetClient(settings(tls, free_port()))
    with pytest.raises(FleetUnreachableError, match="cannot be reached"):
        client.releases(FAMILY)
    client.close()


def test_a_wrong_token_is_final_and_is_never_quoted(tls: Tls, fleet: PagingFleet) -> None:
    client = FleetClient(settings(tls, fleet.port, "fo_secret"))
    with pytest.raises(FleetRefusedError, match="unknown token") as refused:
        client.drift(FAMILY)
    assert "fo_secret" not in str(refused.value)
    client.close()


def test_a_certificate_of_another_ca_is_not_talked_to(tls: Tls, fleet: PagingFleet, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    client = FleetClient(settings(make_tls(tmp_path / "other"), fleet.port))
    with pytest.raises(FleetUnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
        client.releases(FAMILY)
    client.close()


@pytest.mark.parametrize("nonsense", [[], {"items": 3}, {"items": [{"id": "pump"}]}, {"items": [{"id": 7}]}])
def test_an_answer_of_another_version_is_refused_in_words(
    client: FleetClient, fleet: PagingFleet, nonsense: object
) -> None:
    fleet.nonsense = nonsense
    with pytest.raises(FleetRefusedError):
        client.releases(FAMILY)


def test_a_secret_file_must_hold_one_line(tls: Tls) -> None:
    with pytest.raises(SettingsError, match="exactly one line"):
        FleetClient(settings(tls, 1, "two\nlines"))
