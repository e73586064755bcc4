"""The repository over HTTP: devices read it by name, a publisher lists releases with the family's key, and only what is listed spreads."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fleet_api_world import Fleet, fleet, is_problem, machine
from fleet_world import RELEASE_KEY, Machine, bundle, enrol_directly
from sqlalchemy import select
from tuf.api.metadata import Delegations, Metadata, TargetFile, Targets

from aggregator.release_listing import ListedFile, sign_list
from fleet.storage.access_tables import AuditEntry
from fleet.storage.device_tables import Device
from fleet.trust.metadata import DAY_S, encode, expiry, sign
from fleet.trust.repository import TrustRepository
from service.roles import Role

__all__ = ["fleet", "machine"]  # the fixtures

ROLE = "family-motor"
PATH = f"/v1/trust/roles/{ROLE}"


def trust(fleet: Fleet) -> TrustRepository:
    return TrustRepository(fleet.folder / "data" / "trust")


def current(fleet: Fleet) -> Targets:
    found = trust(fleet).published().roles.get(ROLE)
    return deepcopy(found.signed) if found else Targets(version=1, expires=expiry(fleet.now(), 300 * DAY_S))


def post(fleet: Fleet, content: bytes, path: str = PATH) -> Any:
    return fleet.call("POST", path, Role.PUBLISHER, content=content)


def signed(listed: Targets, key: Ed25519PrivateKey = RELEASE_KEY) -> bytes:
    return encode(sign(Metadata(listed), key))


def upload(fleet: Fleet, version: int) -> ListedFile:
    content = bundle(version)
    assert fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=content).status_code in {200, 201}
    return ListedFile(sha256=hashlib.sha256(content).hexdigest(), length=len(content))


def target(version: int, file: ListedFile) -> TargetFile:
    return TargetFile(file.length, {"sha256": file.sha256}, f"models/motor/{version}.fedge")


def with_release(fleet: Fleet, version: int, file: ListedFile) -> Targets:
    listed = current(fleet)
    listed.version = listed.version + 1
    listed.targets[f"models/motor/{version}.fedge"] = target(version, file)
    return listed


@pytest.fixture(scope="module", autouse=True)
def _published(fleet: Fleet) -> None:
    fleet.publish(bundle(100))


def test_a_device_reads_the_repository_by_name_and_pays_nothing_for_what_it_has(
    fleet: Fleet, machine: Machine
) -> None:
    enrol_directly(fleet.database, machine)
    token = machine.token(fleet.now())
    first = fleet.call("GET", "/v1/trust/timestamp.json", token)
    assert first.status_code == 200
    assert len(first.content) < 600
    snapshot = json.loads(first.content)["signed"]["meta"]["snapshot.json"]
    whole = fleet.call("GET", f"/v1/trust/{snapshot['version']}.snapshot.json", token)
    assert hashlib.sha256(whole.content).hexdigest() == snapshot["hashes"]["sha256"]
    again = fleet.call(
        "GET", "/v1/trust/timestamp.json", token, headers={"If-None-Match": first.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")
    assert fleet.call("GET", "/v1/trust/1.root.json", token).status_code == 200
    is_problem(fleet.call("GET", "/v1/trust/2.root.json", token), 404, "2.root.json")


@pytest.mark.parametrize(
    "name",
    [
        "..%2fkeys",
        "%2e%2e%2fpending.json",
        "root.json",
        "1.root.json%00",
        "keys",
        "lock",
        "9" * 20 + ".root.json",
    ],
)
def test_no_other_file_of_the_folder_is_handed_out(fleet: Fleet, name: str) -> None:
    assert fleet.call("GET", f"/v1/trust/{name}").status_code == 404


def test_a_stranger_reads_and_lists_nothing(fleet: Fleet) -> None:
    assert fleet.client.get("/v1/trust/timestamp.json").status_code == 401
    assert fleet.client.post(PATH, content=b"{}").status_code == 401
    is_problem(fleet.call("POST", PATH, Role.OPERATOR, content=b"{}"), 403, "publisher")


def test_a_release_spreads_once_it_is_listed_and_not_before(fleet: Fleet, machine: Machine) -> None:
    enrol_directly(fleet.database, machine)
    file = upload(fleet, 101)
    plan = {
        "name": "r",
        "release": "motor/101",
        "groups": [{"percentage": 100}],
        "target_query": f"id=={machine.name}",
    }
    is_problem(
        fleet.call("POST", "/v1/rollouts", Role.OPERATOR, json=plan),
        409,
        "does not list it",
        "fedge-aggregator publish",
    )
    is_problem(fleet.call("POST", "/v1/rollouts:preview", Role.OPERATOR, json=plan), 409, "does not list it")
    assert fleet.call("GET", "/v1/releases/motor/101").json()["listed_at"] is None
    assert post(fleet, signed(with_release(fleet, 101, file))).status_code == 204
    assert fleet.call("GET", "/v1/releases/motor/101").json()["listed_at"] is not None
    assert fleet.call("POST", "/v1/rollouts", Role.OPERATOR, json=plan).status_code == 201
    with fleet.database.read() as session:
        lines = session.scalars(select(AuditEntry).where(AuditEntry.subject == "motor/101")).all()
    assert [line.action for line in lines][:2] == ["release_published", "release_listed"]


def test_the_list_that_is_published_may_come_again_and_is_read_as_it_was_signed(fleet: Fleet) -> None:
    content = signed(with_release(fleet, 102, upload(fleet, 102)))
    assert post(fleet, content).status_code == 204
    before = fleet.call("GET", "/v1/trust/timestamp.json").content
    assert post(fleet, content).status_code == 204
    assert fleet.call("GET", "/v1/trust/timestamp.json").content == before
    assert fleet.call("GET", PATH).content == content


Change = Callable[[Targets], object]


def _other_length(listed: Targets) -> None:
    listed.targets["models/motor/103.fedge"].length += 1


def _other_hash(listed: Targets) -> None:
    listed.targets["models/motor/103.fedge"].hashes = {"sha256": "0" * 64}


def _drop(listed: Targets) -> None:
    del listed.targets["models/motor/100.fedge"]


def _swap(listed: Targets) -> None:
    listed.targets["models/motor/100.fedge"] = target(100, ListedFile(sha256="1" * 64, length=9))


def _add(path: str) -> Change:
    def change(listed: Targets) -> None:
        listed.targets[path] = TargetFile(3, {"sha256": "0" * 64}, path)

    return change


def _custom(listed: Targets) -> None:
    listed.targets["models/motor/103.fedge"].unrecognized_fields["custom"] = {"x": 1}


def _delegate(listed: Targets) -> None:
    listed.delegations = Delegations(keys={}, roles={})


def _more(listed: Targets) -> None:
    listed.unrecognized_fields["x-more"] = "y" * 1000


def _version(step: int) -> Change:
    def change(listed: Targets) -> None:
        listed.version += step

    return change


def _expires(days: float) -> Change:
    def change(listed: Targets) -> None:

        listed.expires = expiry(time.time(), days * DAY_S)

    return change


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (_other_length, 422, "upload the bundle first"),
        (_other_hash, 422, "upload the bundle first"),
        (_add("models/motor/9999.fedge"), 422, "not stored here"),
        (_add("models/pump/1.fedge"), 422, "no release of family-motor"),
        (_add("models/motor/../pump/1.fedge"), 422, "no release of family-motor"),
        (_add("agent/fedge.whl"), 422, "no release of family-motor"),
        (_add("models/motor/01.fedge"), 422, "no release of family-motor"),
        (_drop, 409, "leaves it out"),
        (_swap, 422, "upload the bundle first"),
        (_custom, 422, "by length and sha256 alone"),
        (_delegate, 422, "it may hold files only"),
        (_more, 422, "which means nothing here"),
        (_version(-1), 409, "not newer"),
        (_version(2000), 422, "ahead"),
        (_version(10**9), 422, "version"),
        (_expires(-1), 422, "ends in"),
        (_expires(0.5), 422, "ends in"),
        (_expires(4000), 422, "ends in"),
    ],
)
def test_a_list_that_says_what_its_key_may_not_is_refused_and_nothing_changes(
    fleet: Fleet, change: Change, status: int, words: str
) -> None:
    listed = with_release(fleet, 103, upload(fleet, 103))
    change(listed)
    before = fleet.call("GET", "/v1/trust/timestamp.json").content
    is_problem(post(fleet, signed(listed)), status, words)
    assert fleet.call("GET", "/v1/trust/timestamp.json").content == before


def test_a_list_of_another_key_another_family_or_no_family_is_refused(fleet: Fleet) -> None:
    content = sign_list({}, 1, RELEASE_KEY, fleet.now())
    stranger = Ed25519PrivateKey.generate()
    is_problem(
        post(fleet, signed(with_release(fleet, 103, upload(fleet, 103)), stranger)), 422, "0 of the 1 keys"
    )
    is_problem(
        post(fleet, content, "/v1/trust/roles/family-unheard"), 404, "nobody has delegated", "trust delegate"
    )
    for role in ("targets", "root", "snapshot", "timestamp", "fleet", "family-", "family-..", "x"):
        assert post(fleet, content, f"/v1/trust/roles/{role}").status_code in {404, 422}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"signed":' * 20_000,
        b'{"signatures":[],"signed":{"_type":"targets","version":NaN}}',
        b'{"signatures":[],"signed":{"_type":"targets","version":1e999,"spec_version":"1.0.31","expires":"2030-01-01T00:00:00Z","targets":{}}}',
        b'{"signatures":[],"signed":{"_type":"targets","version":true,"spec_version":"1.0.31","expires":"2030-01-01T00:00:00Z","targets":{}}}',
        b'{"signatures":[],"signed":{"_type":"root"}}',
        b"\x1f\x8b\x08\x00" + b"\x00" * 100,
    ],
    ids=[
        "nothing",
        "no metadata",
        "no text",
        "deep list",
        "deep object",
        "NaN",
        "infinite",
        "true",
        "a root",
        "gzip",
    ],
)
def test_what_is_no_list_at_all_is_refused_in_words(fleet: Fleet, content: bytes) -> None:
    is_problem(post(fleet, content), 422)


def test_an_endless_list_is_cut_off(fleet: Fleet) -> None:
    is_problem(post(fleet, b"x" * (256 * 1024 + 1)), 413)


def test_keys_said_twice_mean_one_thing_to_everybody(fleet: Fleet) -> None:
    content = signed(with_release(fleet, 104, upload(fleet, 104)))
    doubled = content.replace(b'"signed":{', b'"signed":{"version":1,', 1)
    assert json.loads(doubled)["signed"]["version"] != 1
    assert post(fleet, doubled).status_code == 204
    assert fleet.call("GET", PATH).content == content, "what is served is written anew"


def test_a_withdrawn_release_may_leave_the_list(fleet: Fleet) -> None:
    fleet.publish(bundle(105))
    listed = current(fleet)
    listed.version += 1
    del listed.targets["models/motor/105.fedge"]
    is_problem(post(fleet, signed(listed)), 409, "until it is withdrawn")
    fleet.call(
        "POST",
        "/v1/releases/motor/105:withdraw",
        Role.OPERATOR,
        json={"confirm": "motor/105", "reason": "alarms"},
    )
    assert post(fleet, signed(listed)).status_code == 204
    assert fleet.call("GET", "/v1/releases/motor/105").json()["listed_at"] is None
    device = Machine(name=f"late-{secrets.token_hex(4)}")
    enrol_directly(fleet.database, device)
    plan = {
        "name": "r",
        "release": "motor/105",
        "force": True,
        "groups": [{"percentage": 100}],
        "target_query": f"id=={device.name}",
    }  # fmt: skip - one plan
    is_problem(fleet.call("POST", "/v1/rollouts", Role.OPERATOR, json=plan), 409, "does not list it")
    with fleet.database.read() as session:
        assert session.get(Device, device.name) is not None
