"""What people ask the HTTP API: anomalies, drift, devices by query, page by page, whatever the URL holds."""

from __future__ import annotations

import base64
import re

import numpy as np
import pytest
from fleet_api_world import Fleet, fleet, is_problem, machine
from fleet_world import NOW, TENANT, Machine, anomaly, bundle, enrol_directly, health

from fleet.device_query import device_filter
from fleet.errors import QuerySyntaxError
from fleet.ingest.judging import RefusalReason
from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.storage.device_tables import Device
from protocol.messages.kinds import AgentState, DriftState
from protocol.messages.payloads import Birth, DriftReport
from service.paging import encode_cursor
from service.roles import Role

__all__ = ["fleet", "machine"]  # the fixtures


@pytest.fixture(scope="module", autouse=True)
def others(fleet: Fleet) -> None:
    """A device, a release and an audit line no test asks for, so that each answer leaves something out."""
    enrol_directly(fleet.database, Machine(name="press-other"))
    assert fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=bundle(10)).status_code == 201


def test_pages_of_anomalies_hold_each_once_newest_first(fleet: Fleet, machine: Machine) -> None:
    enrol_directly(fleet.database, machine)
    store = EventStore(fleet.database, TENANT, FleetMetrics())
    store.store([machine.arrival(anomaly(window_index=n)) for n in range(7)])
    seen, cursor = [], None
    while True:
        page = fleet.call(
            "GET",
            "/v1/anomalies",
            params={"device": machine.name, "limit": 3} | ({"after": cursor} if cursor else {}),
        ).json()
        seen += [item["window_index"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [6, 5, 4, 3, 2, 1, 0]
    assert fleet.call("GET", f"/v1/anomalies?device={machine.name}&since={NOW + 2}").json()["items"] == []
    is_problem(fleet.call("GET", "/v1/anomalies?after=%21%21"), 422, "cursor")
    is_problem(fleet.call("GET", "/v1/anomalies?limit=0"), 422, "limit")
    boots = fleet.call("GET", f"/v1/devices/{machine.name}/boots").json()
    assert boots == [
        {
            "boot_id": "boot-1",
            "number": None,
            "hardware": None,
            "agent_version": None,
            "first_received": NOW + 1,
            "last_received": NOW + 1,
            "first": 1,
            "last": 7,
            "missing": 0,
            "given_up": 0,
        }
    ]


def test_an_anomaly_is_shown_with_the_raw_window_that_made_it(fleet: Fleet, machine: Machine) -> None:
    enrol_directly(fleet.database, machine)
    store = EventStore(fleet.database, TENANT, FleetMetrics())
    raw = np.array([[1.5], [-2.0]], "<f4")
    window = base64.b64encode(raw.tobytes()).decode()
    store.store([machine.arrival(anomaly(window=window, window_shape=(2, 1))), machine.arrival(anomaly())])
    without, with_window = fleet.call("GET", f"/v1/anomalies?device={machine.name}").json()["items"]
    shown = fleet.call("GET", f"/v1/anomalies/{with_window['id']}").json()
    assert np.array_equal(
        np.frombuffer(base64.b64decode(shown.pop("window")), "<f4").reshape(shown["window_shape"]), raw
    )
    assert shown == with_window
    assert fleet.call("GET", f"/v1/anomalies/{without['id']}").json()["window"] is None
    is_problem(fleet.call("GET", "/v1/anomalies/999999999"), 404, "no anomaly 999999999")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/anomalies?after=" + encode_cursor("9" * 30),
        "/v1/anomalies?after=" + encode_cursor("٣"),
        "/v1/drift?after=" + encode_cursor(2**63),
        "/v1/audit?after=" + encode_cursor("9" * 300),
        "/v1/releases?after=" + encode_cursor("motor/" + "9" * 200),
        "/v1/releases/motor/" + "9" * 30,
        "/v1/releases/motor/" + "9" * 30 + "/bundle",
        "/v1/anomalies/" + "9" * 30,
        "/v1/rollouts/ro-1/groups/" + "9" * 30 + "/executions",
        "/v1/rollouts?after=" + encode_cursor("\0"),
        "/v1/devices?query=" + "(" * 1500,
        "/v1/devices?query=id==%00",
        "/v1/devices?query=labels.a%22%27%3b--==x",
        "/v1/devices?query=%22a%27%29)%20OR%201=1--%22==x",
        "/v1/devices/..%2f..%2fetc%2fpasswd",
        "/v1/releases/..%2f..%2fetc/1/bundle",
    ],
)
def test_no_number_or_text_in_a_url_makes_the_fleet_fail(fleet: Fleet, path: str) -> None:
    answer = fleet.call("GET", path, Role.ADMIN)
    assert answer.status_code < 500, answer.text
    assert answer.status_code != 200 or answer.json().get("items") == []


def test_the_drift_summary_is_the_share_of_heard_devices_in_drift(fleet: Fleet) -> None:
    machines = [Machine(name=f"pump-{n}") for n in range(4)]
    enrol_directly(fleet.database, *machines, Machine(name="pump-silent"))
    with fleet.database.write() as session:
        for name in [*(m.name for m in machines), "pump-silent"]:
            row = session.get(Device, name)
            assert row is not None
            row.family = "pump"
    store = EventStore(fleet.database, TENANT, FleetMetrics())
    store.store([m.arrival(health()) for m in machines])
    for at, m in enumerate(machines[:3]):
        report = DriftReport(
            release="pump/1", state=DriftState.DRIFTED, drift_score=2.0, observed_at_s=1, windows=5
        )
        store.store([m.arrival(report, at=NOW + at)])
    summary = fleet.call("GET", "/v1/drift/summary?family=pump").json()
    assert (summary["devices"], summary["drifted"], summary["share"]) == (4, 3, 0.75)
    assert summary["drifted_devices"] == ["pump-0", "pump-1", "pump-2"]
    assert summary["since"] == NOW + 1
    report = DriftReport(
        release="pump/1", state=DriftState.ACCEPTED, drift_score=0, observed_at_s=1, windows=5
    )
    store.store([machines[0].arrival(report, at=NOW + 9)])
    store.store([machines[1].arrival(health(), at=NOW + 9)])
    after = fleet.call("GET", "/v1/drift/summary?family=pump").json()
    assert (after["drifted"], after["drifted_devices"]) == (1, ["pump-2"])
    assert after["drift_since"] == {"pump-0": NOW + 1, "pump-2": NOW + 3}, (
        "not back, and not of pump-1, which is"
    )
    assert len(fleet.call("GET", "/v1/drift?family=pump").json()["items"]) == 4
    assert fleet.call("GET", "/v1/drift/summary?family=none").json()["share"] == 0.0


QUERIES = {
    "": "abcd",
    "hardware==rpi4": "ab",
    "hardware=in=(rpi4,rpi5) and site!=lab": "ac",
    "hardware=out=(rpi4,rpi5)": "d",
    "site==hall*": "ac",
    "site==HALL*": "",
    "site!=hall*": "bd",
    "labels.site==lab": "b",
    "hardware==rpi4;site==lab,id==q-d": "bd",
    "hardware==rpi4;(site==lab,id==q-d)": "b",
    "release==motor/1": "a",
    "release!=motor/1": "bcd",
    "drifted==true": "c",
    "online==false and drifted==false": "abd",
    "note=='two words, (and) more'": "d",
    'note=="two words*"': "",
    "agent_state==blind": "b",
    "agent_state!=blind": "acd",
    "agent_state=in=(watching,blind)": "abc",
    "unjudged_windows=gt=0": "b",
    "unjudged_windows=ge=0": "ab",  # one that never told is neither above nor below
    "unjudged_windows=lt=1": "a",
    "unjudged_windows==508": "b",
    "unjudged_windows!=508": "acd",
    "sight=lt=0.5": "b",
    "sight=le=0.9 and sight=gt=.5": "a",
    "missing==*": "b",
    "missing==rms_h": "b",
    "missing==rms": "",
    "missing==rms*": "b",
    "missing!=rms_h": "acd",
    "problems=='a, \"b\" (100 %!)'": "b",
    "realised_low_per_1000=gt=1": "b",  # more alarms than promised
    "promised_per_1000=le=1": "ab",
    "realised_alarms==0": "a",  # nothing promised, nothing kept
    "is_promise_provisional==true": "b",
    "is_provisional==true": "b",
    "is_provisional==false": "a",
}


def test_no_device_can_spoil_the_queries_of_all_with_a_text_that_a_database_cannot_look_into(
    fleet: Fleet, machine: Machine
) -> None:
    """PostgreSQL takes a NUL into its JSON, and fails with each query that meets it there."""
    enrol_directly(fleet.database, machine)
    birth = Birth(agent_version="1", hardware="rpi4", family="press", labels={"site\0": "hall\0-1"})
    said = health(interval_judged=1, sight=0.3, missing=("a\0b",), problems=("\0 \\u0000",))
    result = EventStore(fleet.database, TENANT, FleetMetrics()).store(
        [machine.arrival(birth), machine.arrival(said)]
    )
    assert [one.reason for one in result.refusals] == [RefusalReason.MALFORMED], "the birth, for its label"
    for query in ("site==hall-1", "sight=lt=0.5", "missing==*", "problems==nothing", "is_provisional==true"):
        answer = fleet.call("GET", "/v1/devices", params={"query": query, "limit": 1000})
        assert answer.status_code == 200, answer.text
    shown = fleet.call("GET", f"/v1/devices/{machine.name}").json()
    assert shown["last_health"]["problems"] == ["\N{REPLACEMENT CHARACTER} \\u0000"]


@pytest.fixture(scope="module")
def queried(fleet: Fleet) -> Fleet:
    rows = {
        "a": ("rpi4", {"site": "hall-1"}),
        "b": ("rpi4", {"site": "lab"}),
        "c": ("rpi5", {"site": "hall-2"}),
        "d": ("x86", {"note": "two words, (and) more"}),
    }
    enrol_directly(fleet.database, *(Machine(name=f"q-{name}") for name in rows))
    new = Machine(name="q-a"), health(interval_judged=4, sight=0.9, promised_per_1000=1.0)
    blind = (
        Machine(name="q-b"),
        health(
            state=AgentState.BLIND,
            interval_judged=0,
            unjudged_windows=508,
            sight=0.25,
            missing=("temperature", "rms_h"),
            problems=('a, "b" (100 %!)',),
            is_provisional=True,
            promised_per_1000=0.2,
            realised_alarms=9,
            realised_low_per_1000=1.5,
            is_promise_provisional=True,
        ),
    )
    old = Machine(name="q-c"), health(drifted=True)
    store = EventStore(fleet.database, TENANT, FleetMetrics())
    store.store([one.arrival(said) for one, said in (new, blind, old)])
    with fleet.database.write() as session:
        for name, (hardware, labels) in rows.items():
            row = session.get(Device, f"q-{name}")
            assert row is not None
            row.hardware, row.labels, row.drifted = hardware, dict(labels), name == "c"
            row.site = row.labels.pop("site", "")
            row.release, row.online = "motor/1" if name == "a" else None, False
    return fleet


@pytest.mark.parametrize("query", QUERIES)
def test_a_device_query_selects_what_it_says(queried: Fleet, query: str) -> None:
    ours = f"id==q-* and ({query})" if query else "id==q-*"
    answer = queried.call("GET", "/v1/devices", params={"query": ours, "limit": 1000})
    assert answer.status_code == 200, answer.text
    assert [item["id"] for item in answer.json()["items"]] == [f"q-{name}" for name in QUERIES[query]]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("hardware", "expected one of == != =in= =out= =lt= =le= =gt= =ge="),
        ("hardware=lt=5", "'hardware' is no number, so it has no =lt=; numbers are clipped_share"),
        ("sight=lt=low", "position 10: sight is 'low'; valid is a number"),
        ("sight==nan", "valid is a number"),
        ("state==blind", "valid are waiting, enrolled, revoked (another question is agent_state)"),
        ("agent_state==revoked", "watching, blind"),
        ("hardware==", "expected a value"),
        ("hardware=rpi4", "position 9"),
        ("hardwear==rpi4", "did you mean 'hardware'"),
        ("online==yes", "true and false"),
        ("(hardware==rpi4", "')'"),
        ("hardware==rpi4)", "';' (and)"),
        ("hardware=in=rpi4", "'('"),
        ("a==1 b==2", "position 6"),
        ("(" * 40 + "a==1" + ")" * 40, "nested"),
        ("a==" + "x" * 3000, "characters"),
        ("a==;drop", "expected a value"),
    ],
)
def test_a_query_that_does_not_parse_says_where_and_what_would_be_valid(query: str, words: str) -> None:
    with pytest.raises(QuerySyntaxError, match=re.escape(words)):
        device_filter(query)


def test_a_query_error_reaches_the_caller_as_a_problem(fleet: Fleet) -> None:
    answer = fleet.call("GET", "/v1/devices", params={"query": "hardwear==x"})
    is_problem(answer, 400, "hardware")
    assert answer.json()["title"] == "Bad Request"


def test_paging_through_devices_gives_each_once(queried: Fleet) -> None:
    first = queried.call("GET", "/v1/devices", params={"query": "id==q-*", "limit": 3}).json()
    second = queried.call(
        "GET", "/v1/devices", params={"query": "id==q-*", "limit": 3, "after": first["next_cursor"]}
    ).json()
    assert [d["id"] for d in first["items"] + second["items"]] == ["q-a", "q-b", "q-c", "q-d"]
    assert second["next_cursor"] is None
