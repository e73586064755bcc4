"""The operator API and the service behind it, with a driver that is told what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from aggregator_api_world import Service
from aggregator_world import FAMILY, POLICY, World
from api_fuzzing import ask, operations, wrong_examples
from family_changes import changed
from rights_table import address, routes, written_rights

from aggregator import run_scheduler
from aggregator.api.application import MAXIMUM_BODY_BYTES
from aggregator.errors import FleetUnreachableError
from aggregator.rounds.runs import RunState
from aggregator.rounds.signing_gate import REQUIRED
from aggregator.triggers import DriftSummary, TriggerSettings
from service.roles import Role


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path, changed(POLICY, trigger=TriggerSettings(drift_share=0.5, cooldown_s=60.0)))
    yield made
    made.close()


def test_who_gets_in_is_what_is_written(service: Service) -> None:
    rights = written_rights("aggregator")
    assert set(routes(service.api, verbs=[])) == set(rights)
    nobody = {"Authorization": "Bearer ao_" + "A" * 43}
    wrong = []
    for (method, path), who in rights.items():
        for caller, headers in {**service.headers, "no token": {}, "unknown": nobody}.items():
            status = service.http.request(method, address(path), headers=headers).status_code
            if (status not in {401, 403}) is not (caller in who or "everybody" in who) or status >= 500:
                wrong.append((method, path, caller, status))
    assert wrong == []
    assert len(rights) >= 7


def test_a_viewer_may_look_and_an_operator_may_start(service: Service) -> None:
    status, problem = service.post(Role.VIEWER, family=FAMILY)
    assert (status, problem["detail"]) == (403, "token 'viewer' is of role viewer; this call needs operator")
    status, run = service.post(Role.OPERATOR, family=FAMILY, reason="new bearings", rounds=2)
    assert (status, run["state"], run["planned_rounds"], run["requested_by"]) == (
        201,
        "INVITING",
        2,
        "operator",
    )
    listed = service.http.get("/v1/training-runs", headers=service.headers[Role.VIEWER]).json()["items"]
    assert [item["id"] for item in listed] == [run["id"]]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"family": "pum"}, 404, "valid are pump"),
        ({"family": FAMILY, "rounds": -1}, 422, "rounds"),
        ({"family": FAMILY, "surprise": 1}, 422, "surprise"),
        ({}, 422, "family"),
    ],
)
def test_a_bad_request_is_a_problem_that_says_what_is_valid(
    service: Service, body: dict[str, object], status: int, said: str
) -> None:
    answer = service.http.post("/v1/training-runs", json=body, headers=service.headers[Role.ADMIN])
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert said in answer.json()["detail"]


def test_a_second_run_of_a_family_is_a_conflict(service: Service) -> None:
    service.post(Role.OPERATOR, family=FAMILY)
    status, problem = service.post(Role.OPERATOR, family=FAMILY)
    assert status == 409
    assert "already training in run 'run-1'" in str(problem["detail"])


def test_a_body_without_bounds_is_refused_to_operators_and_one_without_a_token_to_everybody(
    service: Service,
) -> None:
    headers = service.headers[Role.OPERATOR]
    for content in (b"x" * (MAXIMUM_BODY_BYTES + 1), iter([b"x" * 1000] * (MAXIMUM_BODY_BYTES // 1000 + 1))):
        assert service.http.post("/v1/training-runs", content=content, headers=headers).status_code == 413
    assert service.http.post("/v1/training-runs", content=b"x").status_code == 401


@pytest.mark.slow
def test_the_whole_progress_of_a_run_can_be_read(service: Service, tmp_path: Path) -> None:
    world = World(tmp_path / "w", policy=changed(POLICY, detector="mixture"))
    done = world.run()
    service.store.add(done)
    run = service.http.get(f"/v1/training-runs/{done.id}", headers=service.headers[Role.VIEWER]).json()
    assert run["state"] == "COMPLETED"
    first = run["rounds"][0]
    assert {
        "seconds",
        "participants",
        "refused",
        "lost",
        "loss_before",
        "loss_after",
    } <= set(first)
    assert first["void"] is False
    assert set(run["evaluation"]) == {
        "candidate_loss",
        "champion_loss",
        "alarm_rate",
        "threshold",
        "int8_error",
    }
    names = [check["name"] for check in run["checks"]]
    assert len(names) == len(set(names))
    assert set(names) == {"improvement", "alarm_rate", "prior", *REQUIRED}
    assert run["refit"]["devices"] == 4
    assert [len(run[kind]) for kind in ("rounds", "refits", "assessments")] == [3, 3, 1]
    metrics = service.http.get("/metrics", headers=service.headers[Role.VIEWER]).text
    assert 'fedge_training_runs_total{family="pump",state="COMPLETED"} 1.0' in metrics


def test_the_worker_takes_up_what_a_former_process_left(service: Service) -> None:
    service.scheduler.start_run(FAMILY, trigger="person", reason="", requested_by="x")
    service.scheduler.start()
    service.driver.driven.wait()


def test_a_disk_that_refuses_is_tried_again_and_the_run_is_not_lost(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_scheduler, "DISK_RETRY_S", 0.0)
    trouble = iter([sqlite3.OperationalError("database or disk is full")])

    def fail_once() -> None:
        for error in trouble:
            raise error

    service.driver.before = fail_once
    service.scheduler.start_run(FAMILY, trigger="person", reason="", requested_by="x")
    service.scheduler.start()
    service.driver.driven.wait()


def test_drift_across_the_fleet_starts_one_run_and_then_cools_down(service: Service) -> None:
    service.drift.summary = DriftSummary(devices=4, drifted_since=(990.0, 995.0))
    service.scheduler.look()
    service.scheduler.look()
    (run,) = service.store.recent()
    assert (run.trigger, run.reason[:14]) == ("drift", "2 of 4 devices")
    service.store.save(msgspec.structs.replace(run, state=RunState.REJECTED_BY_GATE, ended_at=1000.0))
    service.now = 1059.0
    service.scheduler.look()
    assert len(service.store.recent()) == 1
    service.now = 1060.0
    service.scheduler.look()
    assert len(service.store.recent()) == 2


def test_a_fleet_that_is_away_stops_no_one(service: Service) -> None:
    service.drift.failure = FleetUnreachableError("away")
    service.scheduler.look()
    assert service.store.recent() == []


@pytest.mark.parametrize("examples", [5, pytest.param(100, marks=pytest.mark.long)])
def test_whatever_is_asked_by_whomever_is_answered_as_documented(service: Service, examples: int) -> None:
    tokens = {
        str(role): headers["Authorization"].removeprefix("Bearer ")
        for role, headers in service.headers.items()
    }
    everybody = {**tokens, "unknown": "ao_" + "A" * 43, "no token": None}
    found = operations(service.api)
    assert len(found) >= 6
    wrong = [
        line
        for operation in found.values()
        for line in ask(service.http, operation, everybody, examples=examples)
    ]
    assert not wrong, "\n".join(wrong)


def test_every_example_is_what_it_is_an_example_of(service: Service) -> None:
    assert wrong_examples(service.api) == []


def test_a_run_that_is_asked_for_twice_under_one_key_is_one_run(service: Service) -> None:
    headers = service.headers[Role.OPERATOR] | {"Idempotency-Key": "k"}
    asked = {"family": FAMILY, "reason": "new bearings"}
    first, again = (service.http.post("/v1/training-runs", json=asked, headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    other = service.http.post("/v1/training-runs", json=asked | {"rounds": 9}, headers=headers)
    assert (other.status_code, "new key" in other.json()["detail"]) == (409, True)


def test_runs_are_listed_by_the_page(service: Service) -> None:
    for number in range(3):
        run = service.scheduler.start_run(FAMILY, trigger="person", reason=str(number), requested_by="x")
        service.store.save(msgspec.structs.replace(run, state=RunState.REJECTED_BY_GATE, ended_at=1000.0))
    seen, after = [], None
    while True:
        query = {"limit": 2} | ({} if after is None else {"after": after})
        page = service.http.get(
            "/v1/training-runs", params=query, headers=service.headers[Role.VIEWER]
        ).json()
        seen += [run["reason"] for run in page["items"]]
        after = page["next_cursor"]
        if after is None:
            break
    assert seen == ["2", "1", "0"]
