"""Alerts as people and programs see and steer them: HTTP, the page, a message that asks whether it arrives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dashboard_world import Browser, text_of
from databases import Databases, SqliteDatabases
from fastapi.testclient import TestClient
from fleet_api_world import Fleet, is_problem
from fleet_world import TENANT, Machine, anomaly, enrol_directly, make_trust
from told_servers import Authority, HttpListener, http_listener, secret
from waiting import wait_until

from fleet.app import build_app, check_files
from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.migrations.upgrade import open_storage
from fleet.settings import load_fleet_settings
from service.roles import Role

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Databases:
    """SQLite alone: what is asked of the database is asked of both in the tests beside this one."""
    return SqliteDatabases(tmp_path_factory.mktemp("databases"))


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Authority, HttpListener]]:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    with http_listener(authority) as listener:
        yield authority, listener


@pytest.fixture(scope="module")
def fleet(
    databases: Databases,
    tmp_path_factory: pytest.TempPathFactory,
    listener: tuple[Authority, HttpListener],
) -> Iterator[Fleet]:
    """A running fleet that tells one receiver, with an anomaly on one device."""
    folder = tmp_path_factory.mktemp("fleet")
    make_trust(folder / "data")
    token = secret(folder, "token", "let me in")
    (folder / "fleet.toml").write_text(
        f"""
        data_dir = "data"
        tenant = "{TENANT}"
        [alerts]
        group_wait_s = 0
        resolve_after_s = 0
        [[alerts.receivers]]
        name = "programs"
        type = "webhook"
        url = "{listener[1].url}"
        ca_file = "{listener[0].ca_file}"
        token_file = "{token}"
        """
    )
    settings = load_fleet_settings(folder / "fleet.toml")
    check_files(settings)
    with databases.fresh() as url:
        database = open_storage(url)
        with TestClient(build_app(settings, database), raise_server_exceptions=False) as client:
            fleet = Fleet(client, database, folder)
            wait_until(lambda: fleet.call("GET", "/v1/alert-receivers").json()["items"], "the first look")
            machine = Machine(name="press-1")
            enrol_directly(database, machine)
            wait_until(lambda: _looked(fleet), "the notifier to look")
            EventStore(database, TENANT, FleetMetrics()).store(
                [machine.arrival(anomaly(episode="one"), at=fleet.now())]
            )
            yield fleet
        database.close()


def _looked(fleet: Fleet) -> bool:
    from sqlalchemy import select

    from fleet.storage.alert_tables import AlertPlace

    with fleet.database.read() as session:
        return session.scalar(select(AlertPlace.number).limit(1)) is not None


def test_an_alarm_is_told_listed_ended_by_hand_and_told_to_be_over(
    fleet: Fleet, listener: tuple[Authority, HttpListener]
) -> None:
    heard = listener[1].heard

    def told(kind: str) -> list[dict[str, object]]:
        return [h.body for h in heard if h.body["type"] == f"dev.fedge.alert.{kind}.v1"]

    opened = wait_until(lambda: told("opened"), "the alarm to be told")[0]
    assert opened["data"]["title"] == "Anomaly on press-1 at hall-1 (motor)"  # type: ignore[index] # JSON
    (alert,) = fleet.call("GET", "/v1/alerts?open=true&device=press-1").json()["items"]
    assert alert["group"] == opened["subject"]
    storm = fleet.call("GET", f"/v1/alert-groups/{alert['group']}").json()
    assert (storm["title"], storm["alerts"], storm["lasting"]) == (opened["data"]["title"], 1, 1)  # type: ignore[index] # JSON
    page = Browser(fleet, Role.OPERATOR).get(f"/alerts?group={alert['group']}")
    assert "It is over" in text_of(page)
    is_problem(fleet.call("POST", f"/v1/alerts/{alert['id']}:end"), 403)
    ended = fleet.call("POST", f"/v1/alerts/{alert['id']}:end", Role.OPERATOR)
    assert ended.json()["ending"] == "operator:a-operator ended it"
    is_problem(fleet.call("POST", f"/v1/alerts/{alert['id']}:end", Role.OPERATOR), 409, "over already")
    over = wait_until(lambda: told("resolved"), "the resolution")[0]
    assert over["subject"] == opened["subject"]
    storm = wait_until(
        lambda: (
            s
            if (s := fleet.call("GET", f"/v1/alert-groups/{alert['group']}").json())["resolved_at"]
            and {d["state"] for d in s["deliveries"]} == {"delivered"}
            else None
        ),
        "both deliveries to be noted",
    )
    assert [one["event"] for one in storm["deliveries"]] == ["opened", "resolved"]
    assert fleet.actions(f"alert/{alert['id']}") == ["alert_ended"]


def test_a_receiver_is_tried_and_no_answer_names_its_address_or_secret(
    fleet: Fleet, listener: tuple[Authority, HttpListener]
) -> None:
    done = fleet.call("POST", "/v1/alert-receivers/programs:test", Role.OPERATOR).json()
    assert done == {"outcome": "delivered", "reason": ""}
    assert listener[1].heard[-1].body["type"] == "dev.fedge.alert.test.v1"
    listener[1].answer = lambda _heard: (500, {}, HOSTILE.encode())
    try:
        browser = Browser(fleet, Role.OPERATOR)
        page = browser.follow(browser.post("/alerts/receivers/programs/test"))
        assert "it answered 500" in page.text
        assert HOSTILE not in page.text
    finally:
        listener[1].answer = lambda _heard: (200, {}, b"")
    is_problem(
        fleet.call("POST", "/v1/alert-receivers/nobody:test", Role.OPERATOR), 404, "there are programs"
    )
    assert fleet.call("POST", "/v1/alert-receivers/programs:retry", Role.OPERATOR).json() == {"again": 0}
    shown = fleet.call("GET", "/v1/alert-receivers").text + browser.get("/alerts").text
    assert "let me in" not in shown
    assert "localhost" not in shown
    assert fleet.actions("alert-receiver/programs")[:2] == ["alert_receiver_tested"] * 2


def test_a_silence_is_made_on_the_page_and_ended_by_a_call(fleet: Fleet) -> None:
    browser = Browser(fleet, Role.OPERATOR)
    form = {"query": "site==hall-1", "hours": "2", "comment": HOSTILE, "kind": ["drift", "blind"]}
    page = browser.follow(browser.post("/alerts/silences", **form))
    assert "has begun" in page.text
    assert HOSTILE not in page.text
    (silence,) = fleet.call("GET", "/v1/alert-silences?open=true").json()["items"]
    assert (silence["kinds"], silence["comment"]) == (["drift", "blind"], HOSTILE)
    assert "Silence for maintenance" not in Browser(fleet, Role.VIEWER).get("/alerts").text
    number = silence["id"]
    ended = fleet.call("POST", f"/v1/alert-silences/{number}:end", Role.OPERATOR)
    assert ended.json()["ended_by"] == "operator:a-operator"
    is_problem(fleet.call("POST", f"/v1/alert-silences/{number}:end", Role.OPERATOR), 409)
    is_problem(
        fleet.call("POST", "/v1/alert-silences", Role.OPERATOR, json={"query": "a=", "ends_at": 4e9}), 400
    )
    assert browser.post("/alerts/silences", hours="nan").status_code == 422
    assert fleet.actions(f"silence/{number}") == ["silence_created", "silence_ended"]
