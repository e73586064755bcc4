"""The HTTP API: who may do what, enrolment, releases, queries, paging, and every refusal as a problem document."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from fleet_world import NOW, TENANT, Machine, anomaly, bundle, enrol_directly, health, write_release_key

from fleet.api.paging import encode_cursor
from fleet.app import build_app
from fleet.auth.broker_passwords import verify_password
from fleet.auth.claim_tokens import create_claim
from fleet.auth.operator_tokens import create_token, revoke_token
from fleet.auth.roles import allows
from fleet.device_query import device_filter
from fleet.errors import QuerySyntaxError
from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.migrations.upgrade import open_storage
from fleet.settings import load_settings
from fleet.storage.access_tables import OperatorToken, Role
from fleet.storage.base import Database
from fleet.storage.device_tables import Desired, Device, DeviceState
from protocol.messages.kinds import DriftState
from protocol.messages.payloads import DriftReport


class Fleet:
    """A running app with one token per role."""

    def __init__(self, client: TestClient, database: Database, folder: Path) -> None:
        self.client, self.database, self.folder = client, database, folder
        self.tokens: dict[str, str] = {}
        with database.write() as session:
            for role in Role:
                self.tokens[role] = create_token(session, f"a-{role}", role, NOW, secrets.token_bytes)

    def call(self, method: str, path: str, role: str = Role.VIEWER, **arguments: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.tokens.get(role, role)}"} | arguments.pop("headers", {})
        return self.client.request(method, path, headers=headers, **arguments)

    def claim(self, uses: int = 1, lifetime_s: float | None = None) -> str:
        with self.database.write() as session:
            return create_claim(
                session,
                name="t",
                uses=uses,
                now=self.now(),
                lifetime_s=lifetime_s,
                random_bytes=secrets.token_bytes,
            )

    def now(self) -> float:
        return float(self.client.app.state.services.now())  # type: ignore[attr-defined] # a FastAPI app

    def enrol(self, machine: Machine, claim: str, **changes: Any) -> Any:
        return self.call("POST", "/v1/enrolments", claim, json=machine.enrolment(**changes))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    write_release_key(folder / "release.pub.pem")
    (folder / "agg.password").write_text("made-up\n")
    (folder / "fleet.toml").write_text(
        f"""
        data_dir = "data"
        tenant = "{TENANT}"
        release_keys = ["release.pub.pem"]
        maximum_bundle_bytes = 100000
        [mqtt]
        url = "mqtt://127.0.0.1:1"
        password_file = "broker/passwords"
        services = {{ aggregator = "agg.password", dashboard = "agg.password" }}
        """
    )
    settings = load_settings(folder / "fleet.toml")
    database = open_storage(settings.effective_database_url)
    with TestClient(build_app(settings, database), raise_server_exceptions=False) as client:
        yield Fleet(client, database, folder)
    database.close()


@pytest.fixture
def machine() -> Machine:
    return Machine(name=f"press-{secrets.token_hex(4)}")


def is_problem(answer: Any, status: int, *words: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert {"type", "title", "status", "detail", "instance"} <= body.keys()
    for word in words:
        assert word in body["detail"]


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


def test_roles_are_ordered_and_publisher_stands_beside_them() -> None:
    assert allows(Role.ADMIN, Role.PUBLISHER)
    assert allows(Role.OPERATOR, Role.VIEWER)
    assert not allows(Role.VIEWER, Role.OPERATOR)
    assert not allows(Role.PUBLISHER, Role.ADMIN, Role.OPERATOR)
    assert not allows(Role.OPERATOR, Role.PUBLISHER)


def test_a_viewer_may_not_revoke_and_an_operator_may_not_publish(fleet: Fleet) -> None:
    is_problem(fleet.call("POST", "/v1/devices/x:revoke", Role.OPERATOR), 403, "admin")
    is_problem(fleet.call("POST", "/v1/releases", Role.OPERATOR, content=b"x"), 403, "publisher")
    is_problem(fleet.call("GET", "/v1/audit", Role.OPERATOR), 403, "admin")


def test_an_enrolled_device_gets_a_broker_password_that_the_brokers_file_accepts(
    fleet: Fleet, machine: Machine
) -> None:
    answer = fleet.enrol(machine, fleet.claim())
    assert answer.status_code == 201
    assert (answer.json()["device"], answer.json()["tenant"]) == (machine.name, TENANT)
    login = answer.json()["mqtt"]
    entries = dict(
        line.split(":", 1) for line in (fleet.folder / "broker/passwords").read_text().splitlines()
    )
    assert verify_password(login["password"], entries[login["username"]])
    assert not verify_password("other", entries[login["username"]])
    assert verify_password("made-up", entries["aggregator"])
    assert login["password"] not in fleet.call("GET", "/v1/audit", Role.ADMIN).text


def test_enrolling_again_with_the_same_key_spends_no_further_use(fleet: Fleet, machine: Machine) -> None:
    claim = fleet.claim(uses=1)
    first, second = fleet.enrol(machine, claim), fleet.enrol(machine, claim)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["mqtt"]["password"] != second.json()["mqtt"]["password"]
    is_problem(fleet.enrol(Machine(name="one-too-many"), claim), 401, "1 devices")


def test_a_known_device_with_another_key_is_refused(fleet: Fleet, machine: Machine) -> None:
    claim = fleet.claim(uses=5)
    fleet.enrol(machine, claim)
    is_problem(fleet.enrol(Machine(name=machine.name), claim), 409, machine.name)
    twin = Machine(name=f"{machine.name}-twin", key=machine.key)
    is_problem(fleet.enrol(twin, claim), 409, machine.name)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"signature": "AAAA"}, 400),
        ({"signature": "no base64!"}, 400),
        ({"public_key": "nonsense"}, 400),
        ({"device": "a/b"}, 400),
        ({"device": "training"}, 400),
        ({"device": "x" * 65}, 422),
        ({"labels": {"a": 1}}, 422),
        ({"hardware": ""}, 422),
    ],
)
def test_a_wrong_application_is_refused_and_spends_nothing(
    fleet: Fleet, machine: Machine, changes: dict[str, Any], status: int
) -> None:
    claim = fleet.claim(uses=1)
    is_problem(fleet.enrol(machine, claim, **changes), status)
    assert fleet.enrol(machine, claim).status_code == 201


@pytest.mark.parametrize("name", ["fleet", "aggregator", "dashboard"])
def test_no_device_may_take_the_broker_account_of_a_service(fleet: Fleet, name: str) -> None:
    is_problem(fleet.enrol(Machine(name=name), fleet.claim()), 409, name)


def test_an_expired_claim_is_refused(fleet: Fleet, machine: Machine) -> None:
    is_problem(fleet.enrol(machine, fleet.claim(lifetime_s=-1.0)), 401, "expired")


def test_a_device_token_opens_the_devices_own_calls_until_it_expires(fleet: Fleet, machine: Machine) -> None:
    enrol_directly(fleet.database, machine)
    now = fleet.now()
    assert fleet.call("GET", "/v1/device/desired", machine.token(now)).status_code == 204
    is_problem(fleet.call("GET", "/v1/device/desired", machine.token(now - 3600)), 401, "s old")
    is_problem(fleet.call("GET", "/v1/device/desired", machine.token(now, "other")), 401, "audience")
    impostor = Machine(name=machine.name)
    is_problem(fleet.call("GET", "/v1/device/desired", impostor.token(now)), 401, "not signed")
    is_problem(
        fleet.call("GET", "/v1/device/desired", Machine(name="nobody").token(now)), 401, "not enrolled"
    )
    is_problem(fleet.call("GET", "/v1/device/desired", Role.ADMIN), 403, "for devices")
    is_problem(fleet.call("GET", "/v1/devices", machine.token(now)), 401)


def test_a_revoked_device_is_shut_out_of_https_and_of_the_broker(fleet: Fleet, machine: Machine) -> None:
    fleet.enrol(machine, fleet.claim())
    assert fleet.call("POST", f"/v1/devices/{machine.name}:revoke", Role.ADMIN).json()["state"] == "revoked"
    is_problem(fleet.call("GET", "/v1/device/desired", machine.token(fleet.now())), 403, "revoked")
    assert machine.name not in (fleet.folder / "broker/passwords").read_text()
    is_problem(fleet.enrol(machine, fleet.claim()), 403, "revoked")
    lines = fleet.call("GET", f"/v1/audit?subject={machine.name}", Role.ADMIN).json()["items"]
    assert [line["action"] for line in lines] == ["device_revoked", "device_enrolled"]


def test_desired_state_carries_an_etag_that_saves_the_second_answer(fleet: Fleet, machine: Machine) -> None:
    enrol_directly(fleet.database, machine)
    with fleet.database.write() as session:
        session.add(
            Desired(
                device=machine.name,
                execution="e1",
                release="motor/1",
                counter=4,
                set_at=NOW,
                bundle_path="/v1/releases/motor/1/bundle",
                bundle_sha256="0" * 64,
                bundle_bytes=10,
            )  # fmt: skip - one line of fields
        )
    token = machine.token(fleet.now())
    first = fleet.call("GET", "/v1/device/desired", token)
    assert first.json()["counter"] == 4
    again = fleet.call("GET", "/v1/device/desired", token, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert fleet.call("GET", f"/v1/devices/{machine.name}").json()["desired_release"] == "motor/1"


def test_a_release_is_published_once_and_never_changes(fleet: Fleet) -> None:
    content = bundle(10)
    created = fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=content)
    assert created.status_code == 201, created.text
    assert created.json()["id"] == "motor/10"
    assert created.json()["provenance"]["trigger"] == "initial"
    again = fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=content)
    assert (again.status_code, again.json()) == (200, created.json())
    is_problem(
        fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=bundle(10, content=b"other")),
        409,
        "motor/10",
        "new version",
    )  # fmt: skip - one line of words
    assert fleet.call("GET", "/v1/releases/motor/10").json() == created.json()


def test_a_bundle_with_any_flipped_byte_is_refused(fleet: Fleet) -> None:
    content = bundle(11)
    for position in [0, 9, 20, len(content) // 2, len(content) - 80, len(content) - 1]:
        damaged = bytearray(content)
        damaged[position] ^= 1
        is_problem(fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=bytes(damaged)), 422)
    is_problem(fleet.call("GET", "/v1/releases/motor/11"), 404, "motor/11")


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (bundle(12, key=Ed25519PrivateKey.generate()), 422, "not trusted"),
        (bundle(12)[:-1], 422, "fetch it again"),
        (bundle(12) + b"x", 422, "follow the last file"),
        (b"", 422, "not a Fedge model bundle"),
        (bundle(12, family="a/b"), 422, "not a valid name"),
        (bundle(10**9), 422, "between 1 and 999999999"),
        (bundle(12, changed={"parameters.f32": b"\0" * 8}), 422, "wrong layout"),
        (bundle(12, changed={"parameters.f32": b"\xff" * 88}), 422, "not finite"),
        (bundle(12, changed={"training.tflite": b"another graph"}), 422, "another layout"),
        (bundle(12, changed={"notes.txt": b"hello"}), 422, "notes.txt"),
        (b"x" * 100_001, 413, "100000"),
    ],
)
def test_a_wrong_bundle_is_refused(fleet: Fleet, content: bytes, status: int, words: str) -> None:
    is_problem(fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=content), status, words)
    assert not list((fleet.folder / "data/releases").glob(".*"))


def test_an_oversized_upload_without_a_length_is_cut_off(fleet: Fleet) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 10_000

    is_problem(fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=endless()), 413, "100000")


def test_a_download_resumes_where_it_broke_off(fleet: Fleet, machine: Machine) -> None:
    enrol_directly(fleet.database, machine)
    content = bundle(13, content=bytes(range(256)) * 100)
    fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=content)
    path, token = "/v1/releases/motor/13/bundle", machine.token(fleet.now())
    whole = fleet.call("GET", path, token)
    assert (whole.status_code, whole.content) == (200, content)
    size, etag = len(content), whole.headers["etag"]

    def part(value: str, **headers: str) -> Any:
        return fleet.call("GET", path, token, headers={"Range": value} | headers)

    rest = part("bytes=1000-", **{"If-Range": etag})
    assert (rest.status_code, rest.content) == (206, content[1000:])
    assert rest.headers["content-range"] == f"bytes 1000-{size - 1}/{size}"
    assert part("bytes=5-9").content == content[5:10]
    assert part("bytes=-7").content == content[-7:]
    assert part(f"bytes=5-{size * 2}").content == content[5:]
    assert part("bytes=1000-", **{"If-Range": '"old"'}).content == content
    assert part("bytes=0-1,5-6").content == content
    beyond = part(f"bytes={size}-")
    is_problem(beyond, 416, str(size))
    assert beyond.headers["content-range"] == f"bytes */{size}"
    assert fleet.call("GET", path, token, headers={"If-None-Match": etag}).status_code == 304


def test_a_bundle_missing_on_disk_is_told_and_not_served_half(fleet: Fleet) -> None:
    record = fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=bundle(14)).json()
    path = fleet.folder / "data/releases" / f"{record['sha256']}.fedge"
    path.unlink()
    answer = fleet.call("GET", "/v1/releases/motor/14/bundle")
    is_problem(answer, 500, "missing", "publish its bytes again")
    assert fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=bundle(14)).status_code == 200
    assert fleet.call("GET", "/v1/releases/motor/14/bundle").content == bundle(14)


def test_pages_of_anomalies_hold_each_once_newest_first(fleet: Fleet, machine: Machine) -> None:
    enrol_directly(fleet.database, machine)
    store = EventStore(fleet.database, TENANT, FleetMetrics())
    store.store([machine.arrival(anomaly(window_index=n)) for n in range(7)])
    seen, cursor = [], None
    while True:
        page = fleet.call(
            "GET",
            "/v1/anomalies",
            params={"device": machine.name, "limit": 3} | ({"cursor": cursor} if cursor else {}),
        ).json()
        seen += [item["window_index"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [6, 5, 4, 3, 2, 1, 0]
    assert fleet.call("GET", f"/v1/anomalies?device={machine.name}&since={NOW + 2}").json()["items"] == []
    is_problem(fleet.call("GET", "/v1/anomalies?cursor=%21%21"), 400, "cursor")
    is_problem(fleet.call("GET", "/v1/anomalies?limit=0"), 422, "limit")
    boots = fleet.call("GET", f"/v1/devices/{machine.name}/boots").json()
    assert boots == [{"boot_id": "boot-1", "first": 1, "last": 7, "missing": 0}]


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
        "/v1/anomalies?cursor=" + encode_cursor("9" * 30),
        "/v1/anomalies?cursor=" + encode_cursor("٣"),
        "/v1/drift?cursor=" + encode_cursor(2**63),
        "/v1/audit?cursor=" + encode_cursor("9" * 300),
        "/v1/releases?cursor=" + encode_cursor("motor/" + "9" * 200),
        "/v1/releases/motor/" + "9" * 30,
        "/v1/releases/motor/" + "9" * 30 + "/bundle",
        "/v1/anomalies/" + "9" * 30,
        "/v1/rollouts/ro-1/groups/" + "9" * 30 + "/executions",
        "/v1/rollouts?cursor=" + encode_cursor("\0"),
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


def test_a_range_of_more_digits_than_a_number_has_means_the_whole_bundle(fleet: Fleet) -> None:
    fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=bundle(15))
    headers = {"Range": f"bytes={'9' * 5000}-"}
    answer = fleet.call("GET", "/v1/releases/motor/15/bundle", headers=headers)
    assert (answer.status_code, answer.content) == (200, bundle(15))


@pytest.mark.parametrize("path", ["/v1/enrolments", "/v1/rollouts", "/v1/rollouts:preview"])
def test_a_stranger_cannot_fill_the_memory_with_a_body(fleet: Fleet, path: str) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(200):
            sent += 10_000
            yield b"x" * 10_000

    is_problem(fleet.client.request("POST", path, content=endless()), 413, "at most 262144 bytes")


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
    assert len(fleet.call("GET", "/v1/drift?family=pump").json()["items"]) == 3
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
}


@pytest.fixture(scope="module")
def queried(fleet: Fleet) -> Fleet:
    rows = {
        "a": ("rpi4", {"site": "hall-1"}),
        "b": ("rpi4", {"site": "lab"}),
        "c": ("rpi5", {"site": "hall-2"}),
        "d": ("x86", {"note": "two words, (and) more"}),
    }
    enrol_directly(fleet.database, *(Machine(name=f"q-{name}") for name in rows))
    with fleet.database.write() as session:
        for name, (hardware, labels) in rows.items():
            row = session.get(Device, f"q-{name}")
            assert row is not None
            row.hardware, row.labels, row.drifted = hardware, labels, name == "c"
            row.release = "motor/1" if name == "a" else None
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
        ("hardware", "expected one of == != =in= =out="),
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
    assert answer.json()["title"] == "Device query not understood"


def test_paging_through_devices_gives_each_once(queried: Fleet) -> None:
    first = queried.call("GET", "/v1/devices", params={"query": "id==q-*", "limit": 3}).json()
    second = queried.call(
        "GET", "/v1/devices", params={"query": "id==q-*", "limit": 3, "cursor": first["next_cursor"]}
    ).json()
    assert [d["id"] for d in first["items"] + second["items"]] == ["q-a", "q-b", "q-c", "q-d"]
    assert second["next_cursor"] is None


def test_paging_through_releases_gives_each_once_in_order(fleet: Fleet) -> None:
    for version in (1, 2, 3):
        fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=bundle(version, family="fan"))
    first = fleet.call("GET", "/v1/releases?family=fan&limit=2").json()
    second = fleet.call("GET", f"/v1/releases?family=fan&limit=2&cursor={first['next_cursor']}").json()
    assert [r["version"] for r in first["items"] + second["items"]] == [1, 2, 3]


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


def test_a_device_state_reads_back_as_its_word(fleet: Fleet, machine: Machine) -> None:
    enrol_directly(fleet.database, machine)
    assert fleet.call("GET", f"/v1/devices/{machine.name}").json()["state"] == DeviceState.ENROLLED
