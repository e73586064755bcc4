"""What every cloud service does the same way: tokens and roles, problem documents, the metrics page."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry, Counter

from service.access import require
from service.application import create_application
from service.errors import UnauthenticatedError
from service.roles import Caller, Role, allows
from service.tokens import new_secret, token_digest


class Tokens:
    """Implements `TokenHolders`: a token is its role's name."""

    def find_caller(self, token: str) -> Caller:
        if token not in list(Role):
            raise UnauthenticatedError("this token is of nobody")
        return Caller(name=f"a-{token}", role=Role(token))


class PlaceError(Exception):
    """Root of a service's errors."""


class LostError(PlaceError):
    """A named one."""


class NearLostError(LostError):
    """One that is not named."""


ERRORS = {"place": PlaceError, "lost": LostError, "near": NearLostError, "other": ZeroDivisionError}


@pytest.fixture
def http() -> TestClient:
    registry = CollectorRegistry()
    Counter("steps", "Steps", registry=registry).inc(3)
    app: FastAPI = create_application(
        title="Test",
        tokens=Tokens(),
        registry=registry,
        statuses={PlaceError: HTTPStatus.SERVICE_UNAVAILABLE, LostError: HTTPStatus.NOT_FOUND},
        largest_body=lambda _caller, _method, _path: 100,
    )

    @app.get("/who")
    def who(caller: Annotated[Caller, Depends(require(Role.PUBLISHER, Role.OPERATOR))]) -> str:
        return caller.actor

    @app.get("/fail/{kind}")
    def fail(kind: str, times: int = 1) -> None:
        raise ERRORS[kind]("it is " + "so " * times)

    return TestClient(app, raise_server_exceptions=False)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_roles_are_ordered_and_publisher_stands_beside_them() -> None:
    granted = {held: {wanted for wanted in Role if allows(held, wanted)} for held in Role}
    assert granted == {
        Role.VIEWER: {Role.VIEWER},
        Role.OPERATOR: {Role.VIEWER, Role.OPERATOR},
        Role.PUBLISHER: {Role.PUBLISHER},
        Role.ADMIN: {Role.VIEWER, Role.OPERATOR, Role.PUBLISHER, Role.ADMIN},
    }


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.PUBLISHER, Role.ADMIN])
def test_any_of_the_wanted_roles_may(http: TestClient, role: Role) -> None:
    assert http.get("/who", headers=bearer(role)).json() == f"{role}:a-{role}"


def test_another_role_is_told_which_is_needed(http: TestClient) -> None:
    answer = http.get("/who", headers=bearer(Role.VIEWER))
    assert answer.status_code == 403
    assert (
        answer.json()["detail"] == "token 'a-viewer' is of role viewer; this call needs publisher or operator"
    )


@pytest.mark.parametrize("headers", [{}, bearer(""), bearer("x"), {"Authorization": "Basic eDp5"}])
@pytest.mark.parametrize("path", ["/who", "/metrics", "/v1/openapi.json"])
def test_without_a_known_token_nothing_is_shown(http: TestClient, path: str, headers: dict[str, str]) -> None:
    answer = http.get(path, headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize("headers", [{}, bearer(""), {"Authorization": "Basic eDp5"}])
def test_a_call_without_a_token_is_told_how_to_bring_one(http: TestClient, headers: dict[str, str]) -> None:
    answer = http.get("/who", headers=headers).json()
    assert answer["detail"] == "this call needs one Authorization header: Bearer <token>"


def test_metrics_and_the_description_are_for_viewers(http: TestClient) -> None:
    assert "steps_total 3.0" in http.get("/metrics", headers=bearer(Role.VIEWER)).text
    described = http.get("/v1/openapi.json", headers=bearer(Role.VIEWER)).json()
    assert "application/problem+json" in described["paths"]["/who"]["get"]["responses"]["4XX"]["content"]


@pytest.mark.parametrize(("kind", "status"), [("place", 503), ("lost", 404), ("near", 404)])
def test_an_error_has_the_status_of_its_nearest_parent(http: TestClient, kind: str, status: int) -> None:
    answer = http.get(f"/fail/{kind}", headers=bearer(Role.VIEWER))
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": "it is so ",
        "instance": f"/fail/{kind}",
    }


def test_an_error_that_nobody_named_tells_nothing_of_our_insides(http: TestClient) -> None:
    answer = http.get("/fail/other", headers=bearer(Role.VIEWER))
    assert answer.status_code == 500
    assert "it is" not in answer.text


def test_a_request_that_is_not_valid_names_each_fault(http: TestClient) -> None:
    answer = http.get("/fail/place?times=many", headers=bearer(Role.VIEWER))
    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {
            "pointer": "/query/times",
            "detail": "Input should be a valid integer, unable to parse string as an integer",
        }
    ]
    assert http.get("/nowhere", headers=bearer(Role.VIEWER)).json()["detail"] == "Not Found"


def test_a_token_is_random_and_only_its_digest_tells_it_again() -> None:
    token = new_secret(lambda size: bytes(range(size)), prefix="fo_")
    assert token == "fo_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
    assert token_digest(token) != token_digest(token[:-1])
    assert len(token_digest(token)) == 64
