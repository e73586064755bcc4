"""A plan that looks back further than the fleet keeps is refused before it begins, with what would be valid."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from fleet_world import operator_token
from rollout_world import PLAN, RolloutWorld

from fleet.app import build_app
from fleet.settings import RetentionSettings, Settings
from service.roles import Role

DAY_S = 86400.0
KEPT = RetentionSettings(health_s=DAY_S, fine_blocks_s=2 * DAY_S, blocks_s=3 * DAY_S)


@pytest.fixture
def api(world: RolloutWorld, tmp_path: Path) -> Iterator[TestClient]:
    with world.database.write() as session:
        token = operator_token(session, "ann", Role.OPERATOR, world.now)
    settings = Settings(data_dir=tmp_path, tenant="demo", retention=KEPT)
    with TestClient(build_app(settings, world.database), raise_server_exceptions=False) as client:
        client.headers["Authorization"] = f"Bearer {token}"
        yield client


def groups(soak_s: float) -> list[dict[str, Any]]:
    return [{"percentage": 10, "soak_s": soak_s}, {"percentage": 100, "soak_s": soak_s}]


@pytest.mark.parametrize(
    ("gates", "soak_s", "field", "words"),
    [
        ({"baseline_s": 2.5 * DAY_S}, 3600.0, "gates.baseline_s", "at most 172800 s, which is fine_blocks_s"),
        ({"baseline_s": DAY_S}, DAY_S, "groups", "soaks of 171000 s in all, or a greater blocks_s"),
        # a short baseline is read from messages, which go sooner
        ({"baseline_s": 1800.0}, DAY_S / 2, "groups", "soaks of 82800 s in all, or a greater health_s"),
    ],
    ids=["baseline", "blocks", "messages"],
)
def test_a_plan_that_looks_back_further_than_the_fleet_keeps_is_refused(
    api: TestClient, gates: dict[str, float], soak_s: float, field: str, words: str
) -> None:
    plan = PLAN | {"gates": gates, "groups": groups(soak_s)}
    for path in ("/v1/rollouts:preview", "/v1/rollouts"):
        refused = api.post(path, json=plan)
        assert refused.status_code == 422, refused.text
        assert words in refused.json()["detail"]
        assert refused.json()["field"] == field
    assert api.post("/v1/rollouts", json=plan | {"gates": None}).status_code == 201, "nothing looks back"


def test_a_plan_that_looks_back_as_far_as_the_fleet_keeps_is_taken(api: TestClient) -> None:
    plan = PLAN | {"gates": {"baseline_s": DAY_S}, "groups": groups(DAY_S - 900.0)}
    assert api.post("/v1/rollouts", json=plan).status_code == 201
