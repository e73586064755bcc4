"""A refusal says to a program what it says to a person: which field, what stood there, what is allowed, what was probably meant."""

from __future__ import annotations

from typing import Any

import pytest
from databases import Databases, SqliteDatabases
from fleet_api_world import Fleet, fleet, is_problem

from fleet.rollouts.plans import EXAMPLE_PLAN
from service.roles import Role

__all__ = ["fleet"]  # the fixture


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Databases:
    """SQLite alone: nothing here reaches a database."""
    return SqliteDatabases(tmp_path_factory.mktemp("databases"))


def members(answer: Any) -> dict[str, Any]:
    is_problem(answer, 422)
    return {name: answer.json().get(name) for name in ("in", "field", "value", "allowed", "nearest")}


@pytest.mark.parametrize(
    ("change", "field", "value", "allowed", "nearest"),
    [
        ({"releese": "motor/2"}, "releese", None, None, "release"),
        (
            {"groups": [{"percentag": 100}]},
            "groups[0].percentag",
            None,
            ["count", "name", "percentage", "soak_s"],
            "groups[0].percentage",
        ),
        (
            {"groups": [{"percentage": 0}]},
            "groups[0].percentage",
            0,
            "a number above 0 and at most 100",
            None,
        ),
        (
            {"abort": [{"threshold_pct": 5, "action": "rolback"}]},
            "abort[0].action",
            "rolback",
            ["rollback", "pause", "cancel"],
            "rollback",
        ),
        ({"name": None}, "name", None, "text of at least 1 and at most 200 characters", None),
        ({"name": "x" * 5000}, "name", None, "text of at least 1 and at most 200 characters", None),
        ({"groups": [{"percentage": 50}]}, "$", None, None, None),
    ],
)
def test_of_a_body_at_any_depth(
    fleet: Fleet, change: dict[str, Any], field: str, value: object, allowed: object, nearest: str | None
) -> None:
    found = members(fleet.call("POST", "/v1/rollouts", Role.OPERATOR, json=EXAMPLE_PLAN | change))
    assert (found["in"], found["field"], found["nearest"]) == ("body", field, nearest)
    assert value is None or found["value"] == value
    assert allowed is None or found["allowed"] == allowed or sorted(found["allowed"]) == sorted(allowed)
    assert len(str(found["value"])) < 300, "what somebody sent is not repeated at length"


@pytest.mark.parametrize(
    ("path", "field", "nearest"),
    [
        ("/v1/rollouts?stat=RUNNING", "stat", "state"),
        ("/v1/rollouts?state=RUNING", "state", "RUNNING"),
        ("/v1/anomalies?devise=press-1", "devise", "device"),
        ("/v1/devices?limit=5&limit=6", "limit", "limit"),
        ("/v1/devices/press-1?verbose=1", "verbose", None),
        ("/v1/dead-letters?reason=malformd", "reason", "malformed"),
    ],
)
def test_of_a_query_also_of_a_name_that_no_call_knows(
    fleet: Fleet, path: str, field: str, nearest: str | None
) -> None:
    found = members(fleet.call("GET", path))
    assert (found["in"], found["field"], found["nearest"]) == ("query", field, nearest)


def test_of_a_header(fleet: Fleet) -> None:
    headers = {"Idempotency-Key": "k" * 201}
    found = members(fleet.call("POST", "/v1/rollouts", Role.OPERATOR, json=EXAMPLE_PLAN, headers=headers))
    assert (found["in"], found["field"].lower()) == ("header", "idempotency-key")
    assert found["allowed"] == "String should have at most 200 characters"


def test_of_a_body_that_pydantic_reads(fleet: Fleet) -> None:
    asked = {"action": "diagnose", "expires_in": 100}
    found = members(fleet.call("POST", "/v1/devices/x/commands", Role.OPERATOR, json=asked))
    assert found == {
        "in": "body",
        "field": "expires_in",
        "value": None,
        "allowed": ["action", "afresh", "expires_in_s"],
        "nearest": "expires_in_s",
    }
    found = members(fleet.call("POST", "/v1/devices/x/commands", Role.OPERATOR, json={"action": "diagnos"}))
    assert (found["value"], found["nearest"]) == ("diagnos", "diagnose")


def test_a_secret_that_stands_where_it_does_not_belong_is_not_repeated(fleet: Fleet) -> None:
    secret = "hunter2-hunter2"
    for body in ({"token": secret}, {"passwrd": secret}, {"groups": [{"secret": secret}]}):
        answer = fleet.call("POST", "/v1/rollouts", Role.OPERATOR, json=EXAMPLE_PLAN | body)
        assert secret not in answer.text
    answer = fleet.call(
        "POST", "/v1/devices/x/commands", Role.OPERATOR, json={"action": "diagnose", "tokn": secret}
    )
    assert secret not in answer.text


def test_what_cannot_be_undone_says_which_word_is_missing(fleet: Fleet) -> None:
    found = members(fleet.call("POST", "/v1/devices/press-1:revoke", Role.ADMIN, json={"confirm": "press-2"}))
    assert (found["field"], found["value"], found["allowed"]) == ("confirm", "press-2", ["press-1"])


@pytest.mark.parametrize(
    ("query", "value", "nearest"),
    [
        ("hardwre==rpi4", "hardwre", "hardware"),
        ("state==enroled", "enroled", "enrolled"),
        ("online==yes", "yes", None),
        ("sight=lt=low;", "sight=lt=low;", None),
        ("sigt=lt=1", "sigt", "sight"),
    ],
)
def test_of_a_device_query_wherever_it_stands(
    fleet: Fleet, query: str, value: str, nearest: str | None
) -> None:
    asked = {"action": "diagnose", "query": query}
    for answer, part in (
        (fleet.call("GET", "/v1/devices", params={"query": query}), "query"),
        (fleet.call("POST", "/v1/devices:command", Role.OPERATOR, json=asked), "body"),
    ):
        is_problem(answer, 400)
        found = answer.json()
        assert (found["in"], found["field"], found["value"]) == (part, "query", value)
        assert found.get("nearest") == nearest
