"""The fleet's client: what may be asked again is, what may not is not; a stream goes on across connections; a rollout is watched to its end."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from databases import Databases, SqliteDatabases
from fastapi.testclient import TestClient
from fleet_world import operator_token
from rollout_world import PLAN, RolloutWorld
from typer.testing import CliRunner
from waiting import wait_until

from fleet.app import build_app
from fleet.changes import hub
from fleet.changes.change import ChangeKind
from fleet.client import event_stream
from fleet.client.client import FleetClient
from fleet.commands.rollouts import rollouts
from fleet.settings import Settings
from service.client import ATTEMPTS
from service.errors import ClientError
from service.roles import Role


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Databases:
    """SQLite alone: a client knows nothing of databases."""
    return SqliteDatabases(tmp_path_factory.mktemp("databases"))


def client(answer: Callable[[httpx.Request], httpx.Response]) -> tuple[FleetClient, list[float]]:
    slept: list[float] = []
    http = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://fleet")
    return FleetClient(http, service="fleet", sleep=slept.append), slept


def away(
    *, times: int, retry_after: str = "3"
) -> tuple[Callable[[httpx.Request], httpx.Response], list[httpx.Request]]:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if len(asked) <= times:
            problem = {"title": "Service Unavailable", "detail": "the database is away"}
            return httpx.Response(503, json=problem, headers={"Retry-After": retry_after})
        return httpx.Response(200, json={"items": [], "next_cursor": None})

    return answer, asked


@pytest.mark.parametrize(
    ("call", "is_repeated"),
    [
        (lambda c: c.get("/x"), True),
        (lambda c: c.put("/x", {}), True),
        (lambda c: c.post("/x", {}, key="k"), True),
        (lambda c: c.post("/x", {}), False),
    ],
)
def test_what_can_be_asked_twice_is_asked_again_after_as_long_as_it_was_told(
    call: Callable[[FleetClient], Any], *, is_repeated: bool
) -> None:
    answer, asked = away(times=2)
    asking, slept = client(answer)
    if not is_repeated:
        with pytest.raises(ClientError, match="the database is away"):
            call(asking)
        assert (len(asked), slept) == (1, [])
        return
    call(asking)
    assert (len(asked), slept) == (3, [3.0, 3.0])
    assert len({request.headers.get("Idempotency-Key") for request in asked}) == 1


@pytest.mark.parametrize(("said", "waited"), [("999999", 10.0), ("soon", 1.0), ("9" * 400, 1.0)])
def test_no_service_makes_it_wait_for_long_or_for_ever(said: str, waited: float) -> None:
    answer, asked = away(times=99, retry_after=said)
    asking, slept = client(answer)
    with pytest.raises(ClientError, match="503"):
        asking.get("/x")
    assert (len(asked), slept) == (ATTEMPTS, [waited] * (ATTEMPTS - 1))


def test_who_is_not_there_is_told_at_once_and_who_breaks_off_is_asked_again() -> None:
    errors: Iterator[Exception | None] = iter(
        [httpx.ReadError("broken off"), None, httpx.ConnectError("nobody")]
    )

    def answer(request: httpx.Request) -> httpx.Response:
        error = next(errors)
        if error is not None:
            raise error
        return httpx.Response(200, json={})

    asking, slept = client(answer)
    assert asking.get("/x") == {}
    with pytest.raises(ClientError, match="is it running"):
        asking.get("/x")
    assert len(slept) == 1


def test_a_stream_that_is_cut_off_goes_on_after_the_last_event_and_one_that_is_refused_is_not_asked_again() -> (
    None
):
    asked: list[httpx.Request] = []
    told = [
        'id: t1.a0.e0.d0.v0.u0\nevent: rollout\ndata: {"kind":"rollout","at":1.0,"name":"a"}\n\n',
        (
            'id: t2.a0.e0.d0.v0.u0\nevent: rollout\ndata: {"kind":"rollout","at":2.0,"name":"b"}\n\n'
            'event: end\ndata: {"kind":"end","at":2.0,"reason":"the service stops"}\n\n'
        ),
    ]

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if len(asked) == 2:
            return httpx.Response(503, json={"title": "x"})
        return httpx.Response(200, text=told.pop(0)) if told else httpx.Response(403, json={"title": "no"})

    asking, _ = client(answer)
    events = asking.events("rollout")
    assert next(events).kind is ChangeKind.SKIPPED
    assert [next(events).name for _ in range(2)] == ["a", "b"]
    with pytest.raises(ClientError, match="403"):
        next(events)
    places = [request.headers.get("Last-Event-ID") for request in asked]
    assert places == [None, "t1.a0.e0.d0.v0.u0", "t1.a0.e0.d0.v0.u0", "t2.a0.e0.d0.v0.u0"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (httpx.Response(429, json={"title": "x", "detail": "you listen too often"}), "you listen too often"),
        (httpx.Response(200, text=""), "is it the fleet"),
        (httpx.ReadError("broken off"), "broken off"),
    ],
)
def test_a_stream_that_never_tells_anything_is_given_up_with_what_was_wrong_last(
    answer: httpx.Response | httpx.ReadError, words: str
) -> None:
    def answered(_request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    asking, slept = client(answered)
    events = asking.events("rollout")
    next(events)
    with pytest.raises(ClientError, match=words):
        next(events)
    assert len(slept) == event_stream.ATTEMPTS


@pytest.mark.parametrize(
    "url", ["https://a:b", "https://a..b", "https://a\x01", "http://fleet:1", "ftp://a", "a"]
)
def test_an_address_that_is_none_or_would_send_the_token_in_clear_is_refused_in_one_line(url: str) -> None:
    with pytest.raises(ClientError, match="must be https"):
        FleetClient.open(url, None, Path("token"))


@pytest.fixture
def api(world: RolloutWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr(
        hub, "LONGEST_S", 0.05
    )  # this client reads an answer to its end before it hands it on
    monkeypatch.setattr(hub, "EVERY_S", 0.01)
    with world.database.write() as session:
        token = operator_token(session, "ann", Role.OPERATOR, world.now)
    settings = Settings(data_dir=tmp_path, tenant="demo")
    with TestClient(build_app(settings, world.database)) as http:
        http.headers["Authorization"] = f"Bearer {token}"

        def connect(*_: object) -> FleetClient:
            inner = httpx.Client(
                transport=http._transport, base_url="http://testserver", headers=http.headers
            )
            return FleetClient(inner, service="fleet", sleep=lambda _s: None)

        monkeypatch.setattr("fleet.commands.connection.connect", connect)
        yield http


def run(*arguments: str, status: int = 0) -> str:
    done = CliRunner().invoke(rollouts, arguments)
    assert done.exit_code == status, (done.output, done.exception)
    return done.output


def test_a_rollout_is_watched_to_its_end(api: TestClient) -> None:
    made = api.post("/v1/rollouts?start=true", json=PLAN).json()["id"]
    changes = api.app.state.changes  # type: ignore[attr-defined] # a FastAPI app

    def cancel() -> None:
        wait_until(lambda: len(changes), "somebody to watch")
        api.post(f"/v1/rollouts/{made}:cancel")

    other = threading.Thread(target=cancel)
    other.start()
    shown = run("watch", made, status=1)
    other.join()
    assert "RUNNING" in shown.splitlines()[0]
    assert any("CANCELED" in line for line in shown.splitlines())


def test_what_was_previewed_is_what_is_created(api: TestClient) -> None:
    release = ("--release", "pump/2", "--group", "10", "--group", "100")
    key = run("preview", *release).rsplit("--idempotency-key ", 1)[1].strip()
    seen = json.loads(run("preview", *release, "--idempotency-key", key, "--json"))
    made, again = (
        json.loads(run("create", *release, "--idempotency-key", key, "--start", "--json")) for _ in range(2)
    )
    assert made["id"] == again["id"]
    canary = api.get(f"/v1/rollouts/{made['id']}/groups/0/executions").json()["items"]
    assert [one["device"] for one in canary] == seen["groups"][0]["devices"]
