"""The HTTP API: who may do what, and every refusal as a problem document."""

from __future__ import annotations

import re

import pytest
from fastapi.routing import APIRoute
from fleet_api_world import Fleet, fleet, is_problem, machine
from fleet_world import NOW, Machine, enrol_directly, operator_token

from fleet.auth.operator_tokens import SessionRows
from fleet.storage.access_tables import OperatorToken
from service.roles import Role
from service.tokens import revoke_token

__all__ = ["fleet", "machine"]  # fixtures


def test_nothing_but_health_is_open(fleet: Fleet) -> None:
    assert fleet.client.get("/healthz").json()["status"] == "ok"
    open_routes, walked = set(), set()
    for route in fleet.client.app.routes:  # type: ignore[attr-defined] # a FastAPI app
        for included in getattr(getattr(route, "original_router", None), "routes", [route]):
            if not isinstance(included, APIRoute):
                continue
            path = re.sub(r"\{[^}]+\}", "1", included.path)
            path = path if path.startswith(("/v1", "/healthz", "/metrics")) else f"/v1{path}"
            walked.add(path)
            for method in included.methods:
                if fleet.client.request(method, path).status_code != 401:
                    open_routes.add(included.path)
    assert {
        "/v1/devices/1",
        "/v1/releases/1/1/bundle",
        "/v1/enrolments",
        "/v1/rollouts",
        "/metrics",
    } <= walked
    assert open_routes == {"/healthz"}


@pytest.mark.parametrize("token", ["", "nonsense", "fo_" + "A" * 43, "fc_x", "a.b.c", "é"])
def test_a_wrong_token_is_refused_whatever_it_looks_like(fleet: Fleet, token: str) -> None:
    answer = fleet.client.get("/v1/devices", headers={"Authorization": f"Bearer {token}".encode()})
    is_problem(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_revoked_token_is_refused(fleet: Fleet) -> None:
    with fleet.database.write() as session:
        token = operator_token(session, "leaver", Role.ADMIN)
    assert fleet.call("GET", "/v1/devices", token).status_code == 200
    with fleet.database.write() as session:
        revoke_token(SessionRows(session), "leaver", NOW)
    is_problem(fleet.call("GET", "/v1/devices", token), 401, "revoked")


def test_tokens_are_stored_only_as_hashes(fleet: Fleet) -> None:
    token = fleet.tokens[Role.ADMIN]
    with fleet.database.read() as session:
        row = session.get(OperatorToken, "a-admin")
        assert row is not None
        assert all(token not in str(value) for value in vars(row).values())


def test_a_viewer_may_not_revoke_and_an_operator_may_not_publish(fleet: Fleet) -> None:
    is_problem(fleet.call("POST", "/v1/devices/x:revoke", Role.OPERATOR), 403, "admin")
    is_problem(fleet.call("POST", "/v1/releases", Role.OPERATOR, content=b"x"), 403, "publisher")
    is_problem(fleet.call("GET", "/v1/audit", Role.OPERATOR), 403, "admin")


def test_how_much_may_come_depends_on_who_sends_it_and_where_to(fleet: Fleet, machine: Machine) -> None:
    enrol_directly(fleet.database, machine)
    device, claim, large = machine.token(fleet.now()), fleet.claim(), b"x" * 300_000
    is_problem(fleet.call("POST", "/v1/enrolments", "nobody", content=large), 401)
    for path in ("/v1/enrolments", "/v1/releases"):
        is_problem(fleet.call("POST", path, claim, content=large), 413, "at most 32768 bytes")
        is_problem(fleet.call("POST", path, device, content=large), 413, "at most 131072 bytes")
        is_problem(fleet.call("POST", path, Role.OPERATOR, content=large), 413, "at most 262144 bytes")
    is_problem(fleet.call("POST", "/v1/rollouts", Role.PUBLISHER, content=large), 413, "at most 262144 bytes")
    is_problem(fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=large), 413, "at most 100000 bytes")
    is_problem(fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=b"x" * 99_000), 422)
    is_problem(fleet.client.request("GET", "/healthz", content=b"x"), 413, "at most 0 bytes")


def test_a_device_and_a_claim_reach_their_own_calls_and_no_others(fleet: Fleet, machine: Machine) -> None:
    enrol_directly(fleet.database, machine)
    reached: dict[str, set[str]] = {}
    for kind, token in (("device", machine.token(fleet.now())), ("claim", fleet.claim())):
        for path, methods in fleet.call("GET", "/v1/openapi.json").json()["paths"].items():
            for method in methods:
                filled = re.sub(r"\{[^}]+\}", "1", path.replace("{family}", "motor"))  # its own
                # A body that no call takes: who is refused for what it is was not refused for what it sent.
                answer = fleet.call(method.upper(), filled, token, content=None if method == "get" else b"{}")
                if answer.status_code != 403:
                    reached.setdefault(kind, set()).add(f"{method} {path}")
    assert {"get /v1/device/desired", "post /v1/device/results"} <= reached["device"]
    assert {call for call in reached["device"] if " /v1/device/" not in call} == {
        "get /healthz",
        "get /v1/releases/{family}/{version}/bundle",
        "get /v1/trust/{name}",
    }
    assert reached["claim"] == {"get /healthz", "post /v1/enrolments"}


def test_unknown_paths_and_methods_are_problems_too(fleet: Fleet) -> None:
    is_problem(fleet.call("GET", "/v1/nowhere"), 404)
    is_problem(fleet.call("DELETE", "/v1/devices"), 405)
    is_problem(fleet.call("GET", "/v1/devices/none"), 404, "none")
    is_problem(fleet.call("GET", "/v1/releases/motor/abc"), 422, "version")


def test_metrics_and_openapi_are_for_viewers(fleet: Fleet) -> None:
    assert "fedge_fleet_broker_connected 0.0" in fleet.call("GET", "/metrics").text
    schema = fleet.call("GET", "/v1/openapi.json").json()
    assert "/v1/rollouts" in schema["paths"]
    assert schema["components"]["schemas"]["DeviceView"]["example"]["id"] == "press-7"
