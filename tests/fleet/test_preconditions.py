"""Who polls is told in few bytes that nothing changed; nobody overwrites what they have not seen; what is asked twice is done once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from fleet_world import operator_token
from rollout_world import PLAN, RolloutWorld
from sqlalchemy import func, select

from fleet.app import build_app
from fleet.settings import Settings
from fleet.storage.command_tables import CommandRecord
from fleet.storage.rollout_tables import RolloutRecord
from service.roles import Role


@pytest.fixture
def api(world: RolloutWorld, tmp_path: Path) -> Iterator[TestClient]:
    with world.database.write() as session:
        token, viewer = (
            operator_token(session, name, role, world.now)
            for name, role in (("ann", Role.OPERATOR), ("vic", Role.VIEWER))
        )
    settings = Settings(data_dir=tmp_path, tenant="demo")
    with TestClient(build_app(settings, world.database), raise_server_exceptions=False) as client:
        client.headers["Authorization"] = f"Bearer {token}"
        client.cookies.clear()
        client.viewer = {"Authorization": f"Bearer {viewer}"}  # type: ignore[attr-defined] # for one test
        yield client


def count(world: RolloutWorld, table: Any) -> int:
    with world.database.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


@pytest.mark.parametrize("path", ["/v1/devices", "/v1/devices/d01", "/v1/rollouts", "/v1/releases"])
def test_what_has_not_changed_is_304_and_what_has_is_sent(api: TestClient, path: str) -> None:
    etag = api.get(path).headers["ETag"]
    same = api.get(path, headers={"If-None-Match": f'"x", W/{etag}'})
    assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", etag)
    api.post("/v1/rollouts", json=PLAN)
    changed = api.get(path, headers={"If-None-Match": etag})
    assert (changed.status_code == 200) == (path == "/v1/rollouts")


def test_settings_that_somebody_else_has_changed_are_not_overwritten(api: TestClient) -> None:
    path = "/v1/devices/d01/settings"
    seen = api.get(path).headers["ETag"]
    asked = {"settings": {"health.every_s": 60}}
    first = api.put(path, json=asked, headers={"If-Match": seen})
    assert first.status_code == 200
    late = api.put(path, json={"settings": {"health.every_s": 30}}, headers={"If-Match": seen})
    assert (late.status_code, late.json()["field"]) == (412, "If-Match")
    assert api.get(path).json()["wanted"] == {"health.every_s": 60.0}
    again = {"settings": {"health.every_s": 30}}
    assert api.put(path, json=again, headers={"If-Match": first.headers["ETag"]}).status_code == 200
    assert api.put(path, json=asked, headers={"If-Match": "*"}).status_code == 200
    assert api.put(path, json=again).status_code == 200, "who does not care need not say"


def test_two_people_who_both_saw_the_canary_do_not_pass_two_groups(api: TestClient) -> None:
    made = api.post("/v1/rollouts?start=true", json=PLAN)
    rollout, seen = made.json()["id"], made.headers["ETag"]
    assert made.json()["state"] == "RUNNING"
    verb = f"/v1/rollouts/{rollout}:trigger-next-group"
    assert api.post(verb, headers={"If-Match": seen}).status_code == 200
    assert api.post(verb, headers={"If-Match": seen}).status_code == 412
    groups = api.get(f"/v1/rollouts/{rollout}").json()["groups"]
    assert [group["state"] for group in groups] == ["PASSED", "RUNNING", "SCHEDULED"]


def test_a_create_whose_start_is_refused_leaves_nothing(api: TestClient, world: RolloutWorld) -> None:
    first = api.post("/v1/rollouts?start=true", json=PLAN).json()
    refused = api.post("/v1/rollouts?start=true", json=PLAN | {"release": "pump/3"})
    assert (refused.status_code, first["id"] in refused.json()["detail"]) == (409, True)
    waits = api.post("/v1/rollouts?start=true", json=PLAN | {"require_approval": True})
    assert waits.status_code == 409
    assert count(world, RolloutRecord) == 1


def test_a_start_that_is_asked_for_twice_under_one_key_is_one_rollout(
    api: TestClient, world: RolloutWorld
) -> None:
    key = {"Idempotency-Key": "k"}
    first, again = (api.post("/v1/rollouts?start=true", json=PLAN, headers=key) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    assert count(world, RolloutRecord) == 1


def test_what_one_person_previewed_another_one_creates(api: TestClient) -> None:
    seen = api.post("/v1/rollouts:preview", json=PLAN, headers=api.viewer).json()  # type: ignore[attr-defined] # see above
    key = {"Idempotency-Key": seen["idempotency_key"]}
    made = api.post("/v1/rollouts", json=PLAN, headers=key).json()
    drawn = [
        sorted(
            one["device"]
            for one in api.get(f"/v1/rollouts/{made['id']}/groups/{n}/executions").json()["items"]
        )
        for n in range(3)
    ]
    assert drawn == [group["devices"] for group in seen["groups"]]


def test_an_acceptance_that_is_asked_for_twice_under_one_key_is_one_command(
    api: TestClient, world: RolloutWorld
) -> None:
    headers = {"Idempotency-Key": "k"}
    for path, body in (
        ("/v1/devices/d01/normal", {}),
        ("/v1/devices:accept-normal", {"query": "id==d02"}),
    ):
        answers = [api.post(path, json=body, headers=headers) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 200]
    assert count(world, CommandRecord) == 2
