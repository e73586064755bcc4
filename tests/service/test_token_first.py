"""The token is looked at before the body; and what a known caller sends is bounded all the same."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import pytest
from fastapi import Body, Depends
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from starlette.types import Message

from service import token_first
from service.access import require
from service.application import create_application
from service.connections import ConnectionBook
from service.errors import UnauthenticatedError
from service.roles import Caller, CallerKind, Role


class Tokens:
    """Implements `TokenHolders`: a token is its role's name."""

    def find_caller(self, token: str) -> Caller:
        if token not in list(Role):
            raise UnauthenticatedError("this token is of nobody")
        return Caller(name=f"a-{token}", role=Role(token))


@pytest.fixture
def app() -> Any:
    made = create_application(
        title="Test",
        tokens=Tokens(),
        registry=CollectorRegistry(),
        statuses={},
        largest_body=lambda _caller, _method, _path: 64 * 1024,
    )

    @made.post("/things")
    def things(
        body: Annotated[dict[str, Any], Body()], _caller: Annotated[Caller, Depends(require(Role.OPERATOR))]
    ) -> int:
        return len(body)

    @made.get("/healthz")
    def healthz() -> str:
        return "ok"

    return made


def status_without_reading(app: Any, *headers: tuple[bytes, bytes], path: str = "/things") -> int:
    async def receive() -> Message:
        raise AssertionError("the body was read")

    said: list[Message] = []

    async def send(message: Message) -> None:
        said.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-length", b"100"), *headers],
        "http_version": "1.1",
        "scheme": "https",
        "server": ("x", 1),
        "client": ("127.0.0.1", 1),
    }
    asyncio.run(app(scope, receive, send))
    return int(said[0]["status"])


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ((b"authorization", b"Bearer nobody"),),
        ((b"authorization", b"Basic operator"),),
        ((b"authorization", b"Bearer operator"), (b"authorization", b"Bearer nobody")),
        ((b"authorization", b"Bearer \xff\xfe"),),
    ],
)
@pytest.mark.parametrize("path", ["/things", "/nothing"])
def test_a_body_without_a_token_is_refused_unread(
    app: Any, headers: tuple[tuple[bytes, bytes], ...], path: str
) -> None:
    assert status_without_reading(app, *headers, path=path) == 401


def test_operators_and_open_paths_are_served(app: Any) -> None:
    http = TestClient(app)
    assert http.get("/healthz").json() == "ok"
    assert http.post("/things", json={"a": 1}, headers={"authorization": "bearer operator"}).json() == 1
    assert http.post("/things", json={}, headers={"authorization": "Bearer viewer"}).status_code == 403
    assert http.get("/nothing", headers={"authorization": "Bearer viewer"}).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 30_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"a":1' + b',"a":1' * 10_000 + b"}",
        b'{"a":' + b"9" * 60_000 + b"}",
        b'{"a":"\\ud800"}',
        b"\xff" * 100,
        b"NaN",
    ],
    ids=["brackets", "tables", "one key often", "digits", "half a character", "no text", "NaN"],
)
def test_an_operators_strange_json_is_an_answer_and_never_an_error_of_ours(app: Any, body: bytes) -> None:
    headers = {"authorization": "Bearer operator", "content-type": "application/json"}
    answer = TestClient(app, raise_server_exceptions=False).post("/things", content=body, headers=headers)
    assert answer.status_code in {200, 400, 413, 422}


def test_a_token_has_so_many_connections(app: Any) -> None:
    book = ConnectionBook(of_address=100)
    places = token_first.PLACES[CallerKind.OPERATOR]
    for port in range(1, places + 2):
        assert book.admit(("127.0.0.1", port))
    for port in range(2, places + 2):
        assert book.know(("127.0.0.1", port), "operator:a-operator", places)

    async def run() -> int:
        said: list[Message] = []

        async def send(message: Message) -> None:
            said.append(message)

        async def receive() -> Message:
            return {"type": "http.request", "body": b"{}", "more_body": False}

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/things",
            "raw_path": b"/things",
            "query_string": b"",
            "headers": [(b"authorization", b"Bearer operator"), (b"content-type", b"application/json")],
            "http_version": "1.1",
            "scheme": "https",
            "server": ("x", 1),
            "client": ("127.0.0.1", 1),
            "state": {"connections": book},
        }
        await app(scope, receive, send)
        return int(said[0]["status"])

    assert asyncio.run(run()) == 429
    book.leave(("127.0.0.1", 2))
    assert asyncio.run(run()) == 200
