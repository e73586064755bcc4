"""Other programs start training runs: once for each wish, however often they ask, and never one run after another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aggregator_api_world import Service
from aggregator_world import FAMILY, POLICY
from family_changes import changed

from aggregator.api.programs import ALERT
from aggregator.rounds.runs import RunState
from aggregator.triggers import TriggerSettings
from service.roles import Role

HOOK = f"/v1/families/{FAMILY}:train"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path, changed(POLICY, trigger=TriggerSettings(cooldown_s=60.0)))
    yield made
    made.close()


def ask(service: Service, body: Any, key: str | None = None, path: str = HOOK) -> tuple[int, dict[str, Any]]:
    headers = service.headers[Role.OPERATOR] | ({"Idempotency-Key": key} if key else {})
    answer = service.http.post(path, json=body, headers=headers)
    return answer.status_code, answer.json()


def end_run(service: Service) -> None:
    (run,) = service.store.unfinished()
    service.store.save(msgspec.structs.replace(run, state=RunState.COMPLETED, ended_at=service.now))


def alert(*since: str, status: str = "firing") -> dict[str, Any]:
    return ALERT | {
        "status": status,
        "truncatedAlerts": 0,
        "receiver": "training",
        "alerts": [{"status": status, "startsAt": at, "fingerprint": "c1"} for at in since],
    }


def test_a_workflow_that_tries_again_has_one_run(service: Service) -> None:
    first = ask(service, {"reason": "the weekly pipeline"}, "dag-1")
    again = ask(service, {"reason": "the weekly pipeline"}, "dag-1")
    assert (first[0], first[1]["started"], again[0], again[1]["started"]) == (201, True, 200, False)
    assert again[1]["run"] == first[1]["run"]
    (run,) = service.store.recent()
    assert (run.trigger, run.reason, run.requested_by) == ("program", "the weekly pipeline", "operator")
    end_run(service)
    service.now += 1000
    assert ask(service, {}, "dag-1")[1]["run"] == first[1]["run"], "also long after it has ended"


def test_a_second_wish_while_a_run_is_under_way_is_served_by_it(service: Service) -> None:
    _, first = ask(service, {}, "dag-1")
    status, second = ask(service, {}, "dag-2")
    assert (status, second["started"], second["run"]) == (200, False, first["run"])
    assert "already training" in second["reason"]


def test_a_program_that_loops_trains_no_more_often_than_the_family_rests(service: Service) -> None:
    for wish in range(20):
        ask(service, {}, f"loop-{wish}")
        if service.store.unfinished():
            end_run(service)
        service.now += 10.0
    # each run ends as it began: at 0, 60, 120 and 180 s
    assert len(service.store.recent()) == 4
    assert "trigger.cooldown_s" in ask(service, {}, "loop-20")[1]["reason"]


def test_what_alertmanager_repeats_is_one_wish_until_it_fires_anew(service: Service) -> None:
    status, first = ask(service, alert("2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z"))
    assert (status, first["started"]) == (201, True)
    assert service.store.get(first["run"]).reason == "FleetDrifts fires: 30 % of the pumps have drifted"
    end_run(service)
    service.now += 1000.0
    assert ask(service, alert("2026-01-01T00:05:00Z", "2026-01-01T00:00:00Z"))[1]["run"] == first["run"]
    status, resolved = ask(service, alert("2026-01-01T00:00:00Z", status="resolved"))
    assert (status, resolved["started"], resolved["run"]) == (200, False, None)
    assert ask(service, alert("2026-01-02T00:00:00Z"))[1]["started"], "it fires anew"


@pytest.mark.parametrize(
    ("body", "key", "status", "said"),
    [
        ({"reason": "x"}, None, 422, "Idempotency-Key"),
        ({"raeson": "x"}, "k", 422, "did you mean 'reason'"),
        ({"reason": "x" * 501}, "k", 422, "reason"),
        ({"rounds": -1}, "k", 422, "rounds"),
        ([], "k", 422, "dictionary"),
        (alert("x") | {"status": "on fire"}, None, 422, "no message of Alertmanager"),
        (alert("x") | {"alerts": [7]}, None, 422, "no message of Alertmanager"),
        (alert("x") | {"groupKey": ""}, None, 422, "no message of Alertmanager"),
    ],
)
def test_what_cannot_be_understood_starts_nothing_and_says_what_is_valid(
    service: Service, body: Any, key: str | None, status: int, said: str
) -> None:
    answered, problem = ask(service, body, key)
    assert (answered, said in problem["detail"]) == (status, True), problem
    assert service.store.recent() == []


def test_an_unknown_family_is_told_those_there_are_also_by_an_alert_that_is_over(service: Service) -> None:
    for body in ({}, alert("x"), alert("x", status="resolved")):
        status, problem = ask(service, body, "k", path="/v1/families/pum:train")
        assert (status, "valid are pump" in problem["detail"]) == (404, True)


def test_what_an_alert_says_stays_one_line(service: Service) -> None:
    hostile = alert("x") | {"commonAnnotations": {"summary": "a\nb\u202e\x1b[31m" + "c" * 5000}}
    reason = service.store.get(ask(service, hostile)[1]["run"]).reason
    assert reason.isprintable()
    assert len(reason) == 500
