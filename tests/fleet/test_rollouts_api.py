"""``/v1/rollouts`` in the real application, and the command line against it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import tomli_w
from fastapi.testclient import TestClient
from fleet_world import operator_token
from rollout_world import PLAN, RolloutWorld
from typer.testing import CliRunner
from waiting import wait_until

from fleet.app import build_app
from fleet.client.client import FleetClient
from fleet.commands import rollouts as commands
from fleet.settings import Settings
from fleet.storage.device_tables import Device
from protocol.messages.kinds import InstallStatus, ShadowOutcome
from protocol.messages.payloads import ShadowReport
from runtime.errors import SettingsError
from service.errors import ClientError
from service.roles import Role

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"


@pytest.fixture
def tokens(world: RolloutWorld) -> dict[str, str]:
    with world.database.write() as session:
        return {
            name: operator_token(session, name, role, world.now)
            for name, role in [("vic", Role.VIEWER), ("ann", Role.OPERATOR), ("agg", Role.PUBLISHER)]
        }


@pytest.fixture
def api(world: RolloutWorld, tokens: dict[str, str], tmp_path: Path) -> Iterator[TestClient]:
    settings = Settings(data_dir=tmp_path, tenant="demo")
    with TestClient(build_app(settings, world.database), raise_server_exceptions=False) as client:
        client.headers["Authorization"] = f"Bearer {tokens['ann']}"
        yield client


def test_create_start_and_watch_a_rollout(api: TestClient, world: RolloutWorld) -> None:
    created = api.post("/v1/rollouts", json=PLAN)
    assert created.status_code == 201
    rollout = created.json()
    assert rollout["state"] == "READY"
    assert rollout["created_by"] == "operator:ann"
    assert [group["devices"] for group in rollout["groups"]] == [2, 4, 6]
    started = api.post(f"/v1/rollouts/{rollout['id']}:start").json()
    assert started["state"] == "RUNNING"
    assert started["verbs"] == ["pause", "cancel", "rollback", "trigger-next-group", "retry-failed"]
    canary = world.members(rollout["id"], 0)
    device = canary[0]
    world.report(device, InstallStatus.IN_PROGRESS)
    page = api.get(f"/v1/rollouts/{rollout['id']}/groups/0/executions", params={"limit": 1}).json()
    assert page["items"][0]["device"] == device
    rest = api.get(
        f"/v1/rollouts/{rollout['id']}/groups/0/executions", params={"after": page["next_cursor"]}
    ).json()
    executions = [*page["items"], *rest["items"]]
    assert {e["device"] for e in executions} == set(canary)
    assert [e["step"] for e in executions if e["device"] == device] == ["COMMITTED"]
    assert {e["shadow"] for e in executions} == {None}
    assert rest["next_cursor"] is None


def test_what_came_of_a_release_beside_the_one_before_it_is_shown_for_each_device(
    api: TestClient, world: RolloutWorld
) -> None:
    rollout = api.post("/v1/rollouts", json=PLAN).json()["id"]
    api.post(f"/v1/rollouts/{rollout}:start")
    members = world.members(rollout, 0)
    refused = ShadowReport(
        outcome=ShadowOutcome.REFUSED, note="deafening: …", champion="pump/1", windows=30, candidate_over=22
    )
    for device, report in zip(members, (refused, ShadowReport(outcome=ShadowOutcome.SKIPPED)), strict=True):
        world.report(device, InstallStatus.REJECTED, shadow=msgspec.to_builtins(report))
    shown = api.get(f"/v1/rollouts/{rollout}/groups/0/executions").json()["items"]
    shadows = {one["device"]: one["shadow"] for one in shown}
    assert shadows[members[0]] == msgspec.to_builtins(refused)
    assert (shadows[members[1]]["outcome"], shadows[members[1]]["rank_correlation"]) == ("skipped", None)


def test_what_a_run_learnt_waits_for_a_person_with_the_rollout_of_the_example(
    api: TestClient, tokens: dict[str, str]
) -> None:
    settings = tomllib.loads((EXAMPLES / "aggregator.toml").read_text())
    body = {**settings["family"][0]["rollout"], "name": "pump/2 by run-1", "release": "pump/2"}
    aggregator = {"Authorization": f"Bearer {tokens['agg']}"}
    made = api.post("/v1/rollouts", json=body, headers=aggregator).json()
    assert made["state"] == "WAITING_FOR_APPROVAL"
    # and then what so few devices cannot show
    assert made["waiting_for"].startswith("somebody other than its creator to approve it. group 0: 1 device")
    path = f"/v1/rollouts/{made['id']}"
    assert api.post(f"{path}:start", headers=aggregator).status_code == 403
    assert api.post(f"{path}:approve", headers=aggregator).status_code == 403
    assert api.post(f"{path}:approve").json()["waiting_for"].startswith("a person to start it")
    assert api.post(f"{path}:start").json()["state"] == "RUNNING"


def test_the_engine_of_the_service_moves_a_rollout_on(api: TestClient, world: RolloutWorld) -> None:
    plan = PLAN | {"groups": [{"percentage": 100}], "success": {}, "limits": []}
    rollout = api.post("/v1/rollouts", json=plan).json()["id"]
    api.post(f"/v1/rollouts/{rollout}:start")
    world.install(world.devices)
    wait_until(lambda: api.get(f"/v1/rollouts/{rollout}").json()["state"] == "COMPLETED", "its end")


def test_preview_changes_nothing_and_its_key_creates_the_same_groups(
    api: TestClient, world: RolloutWorld
) -> None:
    seen = api.post("/v1/rollouts:preview", json=PLAN).json()
    assert seen["devices"] == 12
    assert api.get("/v1/rollouts").json()["items"] == []
    key = {"Idempotency-Key": seen["idempotency_key"]}
    created = api.post("/v1/rollouts", json=PLAN, headers=key)
    made = [world.members(created.json()["id"], number) for number in range(3)]
    assert made == [group["devices"] for group in seen["groups"]]
    again = api.post("/v1/rollouts", json=PLAN, headers=key)
    assert (again.status_code, again.json()["id"]) == (200, created.json()["id"])
    other = api.post("/v1/rollouts", json=PLAN | {"release": "pump/3"}, headers=key)
    assert other.status_code == 409
    assert "exists with another plan" in other.json()["detail"]


def test_rollouts_are_listed_newest_first_in_pages(api: TestClient) -> None:
    made = [api.post("/v1/rollouts", json=PLAN).json()["id"] for _ in range(3)]
    first = api.get("/v1/rollouts", params={"limit": 2, "state": "READY"}).json()
    second = api.get("/v1/rollouts", params={"limit": 2, "after": first["next_cursor"]}).json()
    assert [item["id"] for item in [*first["items"], *second["items"]]] == made[::-1]
    assert second["next_cursor"] is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"groups": [{"percentage": 50}, {"percentage": 20}]}, "cumulative and must grow"),
        ({"groups": [{"percentage": 50}]}, "the last group reaches 50 % of the devices; it must reach 100"),
        ({"groups": []}, "groups"),
        ({"release": "pump-2"}, "release 'pump-2' is not of the form family/version"),
        ({"rollback_to": "pump/2"}, "rollback_to is the release itself"),
        ({"rollback_to": "fan/1"}, "rollback_to 'fan/1' is not of family 'pump'"),
        ({"target_quary": "x"}, "unknown key 'target_quary'; did you mean 'target_query'?"),
        ({"dynamic": "yes"}, "dynamic"),
        (
            {"groups": [{"percentage": 5, "count": 5}]},
            'either "percentage" of the devices or a "count" of them',
        ),
        ({"groups": [{"soak_s": 5}]}, 'either "percentage" of the devices or a "count" of them'),
        ({"groups": [{"count": 5}]}, "the last group reaches 5 devices; it must reach all: percentage 100"),
        (
            {"groups": [{"count": 5}, {"percentage": 10}, {"count": 5}, {"percentage": 100}]},
            "group counts [5, 5] are cumulative and must grow",
        ),
        (
            {"schedule": {"time_zone": "Europe/Berlim"}},
            "there is no time zone 'Europe/Berlim'; did you mean Europe/Berlin",
        ),
        (
            {"schedule": {"windows": [{"cron": "0 25 * * *", "duration_s": 60}]}},
            "cron '0 25 * * *': hour '25' is not understood; valid are 0 to 23",
        ),
        (
            {"schedule": {"windows": [{"cron": "0 2 30 2 *", "duration_s": 60}]}},
            "names a day that never comes",
        ),
        ({"limits": [{"metric": "temperature", "value": 1}]}, "anomaly_rate"),
        ({"limits": [{"metric": "drift_score"}]}, "value"),
        ({"success": {"metrics": []}}, "a comparison with devices without the release is what gates does"),
        ({"limits": [{"name": "drift_score", "value": 1}]}, "metric names what is limited"),
        (
            {"limits": [{"metric": "drift_score", "op": ">", "value": 1}]},
            "limits[0].op = '>' is not valid: expected one of '<', '<='",
        ),
        (
            {"success": {"threshold_pct": 101}},
            "threshold_pct = 101 is not valid: expected a number above 0 and at most 100 (percent)",
        ),
        ({"abort": [{"threshold_pct": 10, "action": "explode"}]}, "rollback"),
        ({"retry": {"REJECTED": 1}}, "unknown key 'retry.REJECTED'; valid here: FAILED, TIMED_OUT"),
        ({"target_query": "hardware=="}, "device query"),
        ({"release": "pump/9"}, "there is no release pump/9"),
        ({"target_query": "hardware==cray"}, "selects no enrolled device"),
    ],
)
def test_a_wrong_plan_is_refused_with_what_would_be_valid(
    api: TestClient, change: dict[str, Any], words: str
) -> None:
    answer = api.post("/v1/rollouts", json=PLAN | change)
    assert 400 <= answer.status_code < 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert words in answer.json()["detail"]


def test_a_verb_at_the_wrong_time_and_an_unknown_verb_are_refused(api: TestClient) -> None:
    rollout = api.post("/v1/rollouts", json=PLAN).json()["id"]
    early = api.post(f"/v1/rollouts/{rollout}:pause")
    assert early.status_code == 409
    assert early.json()["detail"] == f"rollout {rollout} is READY and cannot pause; it obeys: start, cancel"
    assert "trigger-next-group" in api.post(f"/v1/rollouts/{rollout}:explode").json()["detail"]
    assert api.post("/v1/rollouts/ro-none:start").status_code == 404
    assert api.get(f"/v1/rollouts/{rollout}/groups/7/executions").status_code == 404


def test_viewers_watch_and_publishers_create_and_nobody_is_let_in_without_a_token(
    api: TestClient, tokens: dict[str, str]
) -> None:
    viewer = {"Authorization": f"Bearer {tokens['vic']}"}
    publisher = {"Authorization": f"Bearer {tokens['agg']}"}
    assert api.post("/v1/rollouts", json=PLAN, headers=viewer).status_code == 403
    rollout = api.post("/v1/rollouts", json=PLAN, headers=publisher).json()["id"]
    assert api.post(f"/v1/rollouts/{rollout}:start", headers=viewer).status_code == 403
    assert api.get(f"/v1/rollouts/{rollout}", headers=viewer).status_code == 200
    assert api.get("/v1/rollouts", headers={"Authorization": "Bearer fo_x"}).status_code == 401


@pytest.fixture
def run(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs ``fedge-fleet rollouts …`` with its HTTP carried by the application itself."""
    transport = api._transport
    headers = {"Authorization": api.headers["Authorization"]}

    def connect(*_: object) -> FleetClient:
        http = httpx.Client(transport=transport, base_url="http://testserver", headers=headers)
        return FleetClient(http, service="fleet")

    monkeypatch.setattr("fleet.commands.connection.connect", connect)

    def run(*arguments: str) -> str:
        result = CliRunner(mix_stderr=False).invoke(commands.rollouts, arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.stdout + result.stderr
        return result.stdout

    return run


def test_the_command_line_creates_shows_and_steers(run: Any, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(tomli_w.dumps(PLAN))
    previewed = run("preview", str(plan))
    assert "pump/2 would reach 12 devices" in previewed
    assert "the plan has no gates" in previewed
    rollout = json.loads(run("create", str(plan), "--start", "--json"))["id"]
    shown = run("show", rollout)
    assert "canary" in shown
    assert "obeys: pause, cancel, rollback, trigger-next-group" in shown
    for verb, *yes, state in [
        ("pause", "PAUSED"),
        ("resume", "RUNNING"),
        ("rollback", "--yes", "ROLLING_BACK"),
    ]:
        assert json.loads(run(verb, rollout, "--json", *yes))["state"] == state
    assert rollout in run("list", "--state", "ROLLING_BACK")


def test_the_command_line_makes_a_plan_of_options_and_refuses_half_ones(run: Any, tmp_path: Path) -> None:
    made = json.loads(run("create", "--release", "pump/2", "--group", "50:60", "--group", "100", "--json"))
    assert [(g["percentage"], g["soak_s"]) for g in made["groups"]] == [(50, 60), (100, 0)]
    broken, wrong = tmp_path / "broken.toml", tmp_path / "wrong.toml"
    broken.write_text("{")
    wrong.write_text(tomli_w.dumps(PLAN | {"groups": [{"percentage": 5}, {"percentage": 500}]}))
    for arguments, words in [
        ((), "Give a plan file, or --release"),
        (("--release", "pump/2", "--group", "half"), "--group 'half' is not percentage"),
        ((str(broken),), "is not valid TOML"),
        (
            (str(wrong),),
            r"wrong\.toml:\d+: groups\[1\]\.percentage = 500 is not valid: expected .* at most 100",
        ),
        ((str(tmp_path / "none.toml"),), r"cannot read .*none\.toml"),
        (("--release", "pump/7"), r"no release pump/7"),
    ]:
        with pytest.raises((ClientError, SettingsError), match=words):
            run("create", *arguments)


def test_a_rollout_never_reaches_a_device_that_was_revoked_before(
    api: TestClient, world: RolloutWorld
) -> None:
    with world.database.write() as session:
        row = session.get(Device, "d00")
        assert row is not None
        row.state = "revoked"  # type: ignore[assignment]  # as an older database would hold it: a plain word
    rollout = api.post("/v1/rollouts", json=PLAN).json()["id"]
    devices = [device for number in range(3) for device in world.members(rollout, number)]
    assert "d00" not in devices
    assert len(devices) == 11
