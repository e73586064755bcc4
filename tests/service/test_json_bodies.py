"""A request's JSON body becomes a frozen struct, or is refused in the words of a settings file."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from service.json_bodies import json_body
from service.problems import install_problems


class Wheel(msgspec.Struct, frozen=True, kw_only=True):
    radius_m: Annotated[float, msgspec.Meta(gt=0)]


class Car(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    wheels: tuple[Wheel, ...]
    badge: bytes = b""


EXAMPLE = {"name": "a", "wheels": [{"radius_m": 0.3}]}
CarBody = Annotated[Car, Depends(json_body(Car, example=EXAMPLE))]


@pytest.fixture
def http() -> TestClient:
    app = FastAPI()
    install_problems(app, {})

    @app.post("/cars")
    def make(car: CarBody) -> str:
        return f"{car.name} on {len(car.wheels)} of {car.wheels[0].radius_m} m"

    return TestClient(app)


def test_a_body_arrives_as_its_struct(http: TestClient) -> None:
    assert http.post("/cars", json=EXAMPLE).json() == "a on 1 of 0.3 m"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"name": "a"}, "wheels is missing"),
        (
            EXAMPLE | {"wheels": [{"radius_m": 0}]},
            "wheels[0].radius_m = 0 is not valid: expected a number above 0",
        ),
        (EXAMPLE | {"nam": 1}, "unknown key 'nam'; did you mean 'name'?"),
        (EXAMPLE | {"badge": "no base64!"}, "badge = 'no base64!' is not valid: expected base64"),
        ([1], "Input should be a valid dictionary"),
    ],
)
def test_what_is_not_valid_is_named_with_what_would_be(http: TestClient, body: Any, words: str) -> None:
    answer = http.post("/cars", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert words in answer.json()["detail"]


def test_a_refusal_does_not_repeat_all_that_somebody_sent(http: TestClient) -> None:
    detail = http.post("/cars", json=EXAMPLE | {"badge": "!" * 100_000}).json()["detail"]
    assert len(detail) < 500


def test_no_number_is_infinite(http: TestClient) -> None:
    body = '{"name": "a", "wheels": [{"radius_m": Infinity}]}'
    answer = http.post("/cars", content=body, headers={"Content-Type": "application/json"})
    assert "give a finite number" in answer.json()["detail"]


def test_openapi_shows_every_field_without_a_reference_into_nowhere(http: TestClient) -> None:
    described: Any = http.get("/openapi.json").json()
    schema = described["paths"]["/cars"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["wheels"]["items"]["properties"]["radius_m"]["exclusiveMinimum"] == 0
    assert schema["examples"] == [EXAMPLE]
