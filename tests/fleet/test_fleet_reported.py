"""What a device says of itself is shown and decides nothing: its family, labels and hardware; people change what it is."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from fleet_api_world import Fleet, fleet, is_problem, machine
from fleet_world import NOW, TENANT, Machine, bundle, enrol_directly, health
from rollout_world import FAMILY, RolloutWorld
from sqlalchemy import select

from fleet.admission import Assignment, assign
from fleet.errors import ConflictError, UnacceptableError
from fleet.ingest.judging import Arrival, RefusalReason
from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.rollouts.states import Verb
from fleet.storage.access_tables import AuditEntry
from fleet.storage.dead_letter_tables import DeadLetter
from fleet.storage.device_tables import Device
from fleet.storage.release_tables import Release
from protocol.errors import TopicError
from protocol.messages.payloads import Birth
from service.roles import Role

__all__ = ["fleet", "machine"]  # the fixtures


def birth(**changes: Any) -> Birth:
    return Birth(**{"agent_version": "0.1.0", "hardware": "rpi4", "family": "motor"} | changes)


def view(fleet: Fleet, machine: Machine) -> dict[str, Any]:
    shown: dict[str, Any] = fleet.call("GET", f"/v1/devices/{machine.name}").json()
    return shown


def test_a_birth_that_names_another_family_opens_nothing_of_that_family(
    fleet: Fleet, machine: Machine
) -> None:
    patient, spy = Machine(name=f"{machine.name}-patient"), machine
    assert fleet.enrol(patient, fleet.claim(family="hospital"), family="hospital").status_code == 201
    fleet.enrol(spy)
    said = [spy.arrival(birth(family="hospital", labels={"site": "ward"})), spy.arrival(health(drifted=True))]
    assert not EventStore(fleet.database, TENANT, FleetMetrics()).store(said).refusals
    shown = view(fleet, spy)
    assert (shown["family"], shown["reported_family"]) == ("motor", "hospital")
    assert (shown["site"], shown["labels"], shown["reported_labels"]) == ("hall-1", {}, {"site": "ward"})
    of_patient = fleet.call("GET", "/v1/device/roster", patient.token(fleet.now())).json()
    assert (of_patient["family"], set(of_patient["devices"])) == ("hospital", {patient.name})
    of_spy = fleet.call("GET", "/v1/device/roster", spy.token(fleet.now())).json()
    assert of_spy["family"] == "motor"
    assert patient.name not in of_spy["devices"]
    drift = fleet.call("GET", "/v1/drift/summary?family=hospital", Role.VIEWER).json()
    assert (drift["devices"], drift["drifted"]) == (0, 0)
    for query, found in (
        ("family==hospital", {patient.name}),  # what the aggregator makes its roster of
        (f"site==ward and id=={spy.name}", set()),
        ("reported_family==hospital and family!=hospital", {spy.name}),
    ):
        items = fleet.call("GET", "/v1/devices", params={"query": query, "limit": 1000}).json()["items"]
        assert {item["id"] for item in items} & {spy.name, patient.name} == found, query


UNFIT: dict[str, dict[str, Any]] = {
    "a control character": {"labels": {"a": "../\n<script>"}},
    "a line end at the end": {"labels": {"a": "b\n"}},
    "NUL": {"labels": {"a\0": "b"}},
    "50,000 characters": {"labels": {"a": "x" * 50_000}},
    "33 labels": {"labels": {str(n): "" for n in range(33)}},
    "a direction of writing": {"hardware": "rpi4\u202e"},
    "an escape sequence": {"hardware": "\x1b[2J"},
    "markup": {"labels": {"<b>": "x"}},
    "an endless family": {"family": "x" * 65},
    "an endless release": {"release": "x/" * 5000},
    "a release with a line end": {"release": "motor/1\n"},
    "capabilities without end": {"capabilities": tuple("abc" * 20)},
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_birth_that_no_label_could_come_from_is_a_dead_letter_and_changes_nothing(
    fleet: Fleet, machine: Machine, name: str
) -> None:
    enrol_directly(fleet.database, machine)
    said = machine.arrival(birth())
    document = msgspec.json.decode(said.payload)
    document["data"] |= msgspec.to_builtins(UNFIT[name])
    odd = Arrival(topic=said.topic, payload=msgspec.json.encode(document), retained=False, received_at=NOW)
    result = EventStore(fleet.database, TENANT, FleetMetrics()).store([odd])
    assert [one.reason for one in result.refusals] == [RefusalReason.MALFORMED]
    shown = view(fleet, machine)
    assert (shown["reported_labels"], shown["reported_family"], shown["release"]) == ({}, None, None)
    with fleet.database.read() as session:
        assert session.scalar(select(DeadLetter.device).where(DeadLetter.device == machine.name))
    for query in ("site==hall-1", "reported.a==b", "labels.a==b"):
        assert fleet.call("GET", "/v1/devices", params={"query": query}).status_code == 200


def test_a_person_changes_what_a_device_is_and_the_audit_log_says_from_what_to_what(
    fleet: Fleet, machine: Machine
) -> None:
    fleet.enrol(machine, fleet.claim(labels={"line": "3", "old": "x"}))
    path = f"/v1/devices/{machine.name}:assign"
    wanted = {"site": "hall-2", "labels": {"line": "4"}, "remove_labels": ["old"]}
    for role in (Role.VIEWER, Role.OPERATOR, Role.PUBLISHER):
        is_problem(fleet.call("POST", path, role, json=wanted), 403)
    for _ in range(2):  # the second time changes nothing
        answer = fleet.call("POST", path, Role.ADMIN, json=wanted)
        assert answer.status_code == 200, answer.text
        assert (answer.json()["site"], answer.json()["labels"]) == ("hall-2", {"line": "4"})
    lines = fleet.call("GET", f"/v1/audit?subject={machine.name}", Role.ADMIN).json()["items"]
    (line,) = [line for line in lines if line["action"] == "device_assigned"]
    assert line["detail"] == {
        "before": {"family": "motor", "site": "hall-1", "labels": {"line": "3", "old": "x"}},
        "after": {"family": "motor", "site": "hall-2", "labels": {"line": "4"}},
    }


@pytest.mark.parametrize(
    ("wanted", "status", "words"),
    [
        ({"family": "moter"}, 422, "no release is of family 'moter'"),
        ({"family": "a/b", "is_unreleased": True}, 422, "family"),
        ({"labels": {"site": "x"}}, 422, "site"),
        ({"labels": {str(n): "" for n in range(33)}}, 422, "labels"),
        ({"site": "a\nb"}, 422, "site"),
        ({"state": "enrolled"}, 422, "state"),
        ({"family": None}, 422, "family"),
    ],
)
def test_what_a_device_cannot_be_is_refused_with_words(
    fleet: Fleet, machine: Machine, wanted: dict[str, Any], status: int, words: str
) -> None:
    enrol_directly(fleet.database, machine)
    is_problem(
        fleet.call("POST", f"/v1/devices/{machine.name}:assign", Role.ADMIN, json=wanted), status, words
    )
    assert (view(fleet, machine)["family"], view(fleet, machine)["site"]) == ("motor", "hall-1")


def test_a_device_that_does_not_exist_or_is_revoked_is_assigned_nothing(
    fleet: Fleet, machine: Machine
) -> None:
    path = f"/v1/devices/{machine.name}:assign"
    is_problem(fleet.call("POST", path, Role.ADMIN, json={"site": "x"}), 404)
    enrol_directly(fleet.database, machine)
    fleet.call("POST", f"/v1/devices/{machine.name}:revoke", Role.ADMIN, json={"confirm": machine.name})
    is_problem(fleet.call("POST", path, Role.ADMIN, json={"site": "x"}), 409, "revoked")


def test_a_family_changes_between_rollouts_and_takes_the_wish_for_the_former_one_away(
    world: RolloutWorld,
) -> None:
    rollout = world.started()
    wanted = Assignment(family="other", is_unreleased=True)
    with world.database.write() as session, pytest.raises(ConflictError, match="under way"):
        assign(session, "d00", wanted, actor="admin:a", now=world.now)
    world.say(rollout, Verb.CANCEL)
    for _ in range(20):
        world.tick(10_000)
    before = world.desired("d00")
    with world.database.write() as session:
        with pytest.raises(UnacceptableError, match="--unreleased"):
            assign(session, "d00", Assignment(family="other"), actor="admin:a", now=world.now)
        with pytest.raises(TopicError, match="family"):
            assign(session, "d00", Assignment(family=""), actor="admin:a", now=world.now)
        session.add(
            Release(
                family="other",
                version=1,
                sha256="0" * 64,
                size_bytes=1,
                signed_by="k",
                manifest={},
                published_by="p",
                published_at=NOW,
            )  # fmt: skip - one line of fields
        )
        session.flush()
        assign(session, "d00", Assignment(family="other"), actor="admin:a", now=world.now)
    assert before is None or world.desired("d00") is None
    assert world.desired("d00") is None
    with world.database.read() as session:
        assert session.get_one(Device, "d00").family == "other"
        (line,) = session.scalars(select(AuditEntry).where(AuditEntry.action == "device_assigned"))
        assert line.detail["before"]["family"] == FAMILY


def test_a_device_that_says_it_runs_another_familys_release_is_never_sent_back_to_it(
    world: RolloutWorld,
) -> None:
    with world.database.write() as session:
        session.add(
            Release(
                family="hospital",
                version=1,
                sha256="0" * 64,
                size_bytes=1,
                signed_by="k",
                manifest={},
                published_by="p",
                published_at=NOW,
                listed_at=NOW,
            )  # fmt: skip - one line of fields
        )
        session.get_one(Device, "d00").release = "hospital/1"
    rollout = world.started(groups=[{"percentage": 100}])
    world.tick()
    given = world.desired("d00")
    assert given is not None
    assert given.release == "pump/2"
    world.say(rollout, Verb.ROLLBACK)
    world.tick()
    assert world.desired("d00") is None
    back = world.desired("d01")
    assert back is not None
    assert back.release == "pump/1"


def test_a_device_fetches_the_bundles_of_its_own_family_alone(fleet: Fleet, machine: Machine) -> None:
    enrol_directly(fleet.database, machine)
    for family, version in (("motor", 1), ("pump", 1)):
        content = bundle(version, family=family)
        fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=content)
    token = machine.token(fleet.now())
    assert fleet.call("GET", "/v1/releases/motor/1/bundle", token).status_code == 200
    is_problem(fleet.call("GET", "/v1/releases/pump/1/bundle", token), 403, "pump")
