"""The HTTP API: who may do what, and every refusal as a problem document."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator

import pytest
from fastapi.routing import APIRoute
from fleet_api_world import Fleet, fleet, is_problem
from fleet_world import NOW

from fleet.auth.operator_tokens import create_token, revoke_token
from fleet.storage.access_tables import OperatorToken
from service.roles import Role

__all__ = ["fleet"]  # the fixture


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
        token = create_token(session, "leaver", Role.ADMIN, NOW, secrets.token_bytes)
    assert fleet.call("GET", "/v1/devices", token).status_code == 200
    with fleet.database.write() as session:
        revoke_token(session, "leaver", NOW)
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


@pytest.mark.parametrize("path", ["/v1/enrolments", "/v1/rollouts", "/v1/rollouts:preview"])
def test_a_stranger_cannot_fill_the_memory_with_a_body(fleet: Fleet, path: str) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(200):
            sent += 10_000
            yield b"x" * 10_000

    is_problem(fleet.client.request("POST", path, content=endless()), 413, "at most 262144 bytes")


def test_unknown_paths_and_methods_are_problems_too(fleet: Fleet) -> None:
    is_problem(fleet.client.get("/nowhere"), 404)
    is_problem(fleet.call("DELETE", "/v1/devices"), 405)
    is_problem(fleet.call("GET", "/v1/devices/none"), 404, "none")
    is_problem(fleet.call("GET", "/v1/releases/motor/abc"), 422, "version")


def test_metrics_and_openapi_are_for_viewers(fleet: Fleet) -> None:
    assert "fedge_fleet_broker_connected 0.0" in fleet.call("GET", "/metrics").text
    schema = fleet.call("GET", "/v1/openapi.json").json()
    assert "/v1/rollouts" in schema["paths"]
    assert schema["components"]["schemas"]["DeviceView"]["example"]["id"] == "press-7"
