"""``GET /v1/events``: who may see what, where it goes on, and that it ends with the token and with the service."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from fleet_api_world import Fleet, fleet, is_problem
from fleet_world import NOW, Machine, enrol_directly, fleet_process
from test_outages import settle
from waiting import AMPLE_S, wait_until

from fleet import audit
from fleet.auth.operator_tokens import SessionRows
from fleet.changes.query import present_marks
from fleet.migrations.upgrade import open_storage
from service.roles import Role
from service.tokens import revoke_token

__all__ = ["fleet"]  # the fixture


def events(text: str) -> list[dict[str, Any]]:
    return [
        json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")
    ]


def last_id(text: str) -> str:
    return [line.removeprefix("id: ") for line in text.splitlines() if line.startswith("id: ")][-1]


def until_read(fleet: Fleet) -> None:
    with fleet.database.read() as session:
        here = present_marks(session)
    changes = fleet.client.app.state.changes  # type: ignore[attr-defined] # a FastAPI app
    wait_until(lambda: changes.place == here, "the fleet to have read it")


def test_each_role_sees_what_it_may_and_goes_on_where_it_was(fleet: Fleet) -> None:
    until_read(fleet)
    begun = {
        role: last_id(fleet.call("GET", "/v1/events", role).text)
        for role in (Role.VIEWER, Role.OPERATOR, Role.ADMIN, Role.PUBLISHER)
    }
    enrol_directly(fleet.database, Machine(name="press-e"))
    with fleet.database.write() as session:
        for action in ("settings_set", "identity_conflict"):
            audit.record(session, at=NOW, actor="fleet", action=action, subject="press-e")
    until_read(fleet)
    seen = {}
    for role, place in begun.items():
        answer = fleet.call("GET", "/v1/events", role, headers={"Last-Event-ID": place})
        assert answer.headers["content-type"].startswith("text/event-stream")
        seen[role] = [one["kind"] for one in events(answer.text)]
    assert seen[Role.VIEWER] == seen[Role.OPERATOR] == ["device", "alarm", "end"]
    assert seen[Role.ADMIN] == ["device", "audit", "alarm", "end"]
    assert seen[Role.PUBLISHER] == ["end"]


@pytest.mark.parametrize(
    ("query", "headers", "role", "status", "words"),
    [
        ("?kinds=rolout", {}, Role.VIEWER, 422, "did you mean 'rollout'?"),
        ("?kinds=audit", {}, Role.OPERATOR, 403, "sees rollout, device, anomaly, drift, alarm"),
        ("?kinds=device", {}, Role.PUBLISHER, 403, "sees rollout"),
        ("", {"Last-Event-ID": "17"}, Role.VIEWER, 422, "no id of an event"),
        ("", {"Last-Event-ID": "t1.a1.e1.d1.v1.u" + "9" * 30}, Role.VIEWER, 422, "no id of an event"),
    ],
)
def test_what_nobody_may_ask_is_refused(
    fleet: Fleet, query: str, headers: dict[str, str], role: Role, status: int, words: str
) -> None:
    is_problem(fleet.call("GET", f"/v1/events{query}", role, headers=headers), status, words)


class Listening:
    """A stream of a real fleet, read by a thread of its own."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self.text, self.is_over, self.error = "", False, ""
        self._url, self._headers = url, headers
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        try:
            with httpx.stream(
                "GET", f"{self._url}/v1/events", headers=self._headers, timeout=AMPLE_S
            ) as answer:
                for line in answer.iter_lines():
                    self.text += line + "\n"
        except httpx.HTTPError as error:
            self.error = repr(error)
        self.is_over = True

    def join(self) -> None:
        self._thread.join()


@pytest.mark.slow
def test_a_stream_ends_with_its_token_and_with_the_service_and_each_time_says_so(tmp_path: Path) -> None:
    config, headers = settle(tmp_path, f"sqlite:///{tmp_path}/data/fleet.sqlite")
    database = open_storage(f"sqlite:///{tmp_path}/data/fleet.sqlite")
    with fleet_process(config, tmp_path / "fleet.log") as (child, url):
        first = Listening(url, headers)
        wait_until(lambda: "id: " in first.text, "the stream to begin")
        enrol_directly(database, Machine(name="press-2"))
        wait_until(lambda: '"press-2"' in first.text, "the device to be told")
        second = Listening(url, headers | {"Last-Event-ID": last_id(first.text)})
        wait_until(lambda: "id: " in second.text, "the second stream to begin")
        child.terminate()
        for stream in (first, second):
            stream.join()
            assert stream.error == "", "it ends as an answer does, and is not cut off"
            assert events(stream.text)[-1]["reason"] == "the service stops; come back"
        assert child.wait() == 0
    with fleet_process(config, tmp_path / "fleet.log") as (child, url):
        third = Listening(url, headers | {"Last-Event-ID": last_id(first.text)})
        wait_until(lambda: "id: " in third.text, "the stream to go on")
        with database.write() as session:
            revoke_token(SessionRows(session), "ann", time.time())
        third.join()
        assert "unknown or revoked" in events(third.text)[-1]["reason"]
    database.close()
    assert "Traceback" not in (tmp_path / "fleet.log").read_text()
