"""Enrolment over the HTTP API: what a claim opens and to whom, what is refused and spends nothing, and who waits for a person."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fleet_api_world import Fleet, fleet, is_problem, leaf, machine
from fleet_world import TENANT, Machine
from sqlalchemy import select

from fleet.storage.access_tables import ClaimToken
from fleet.storage.device_tables import Device
from protocol.identity import fingerprint
from service.roles import Role

__all__ = ["fleet", "machine"]  # the fixtures


def row_of(fleet: Fleet, name: str) -> Device | None:
    with fleet.database.read() as session:
        return session.get(Device, name)


def test_a_device_is_what_its_claim_says_and_what_it_says_itself_is_reported(
    fleet: Fleet, machine: Machine
) -> None:
    claim = fleet.claim(site="hall-9", labels={"line": "3"})
    answer = fleet.enrol(machine, claim, labels={"line": "4", "site": "bank"}, hardware="a quantum computer")
    assert answer.status_code == 201
    said = answer.json()
    assert said | {"certificate": ""} == {
        "status": "enrolled",
        "device": machine.name,
        "tenant": TENANT,
        "family": "motor",
        "site": "hall-9",
        "labels": {"line": "3"},
        "certificate": "",
    }  # fmt: skip - one line of fields
    view = fleet.call("GET", f"/v1/devices/{machine.name}").json()
    assert (view["site"], view["labels"]) == ("hall-9", {"line": "3"})
    assert view["reported_labels"] == {"line": "4", "site": "bank"}
    for query, finds in (
        ("labels.line==3", True),
        ("labels.line==4", False),
        ("site==hall-9", True),
        ("labels.site==hall-9", True),
        ("labels.site==bank", False),
        ("reported.line==4", True),
        ("reported.site==bank", True),
    ):  # fmt: skip - a table
        found = fleet.call("GET", "/v1/devices", params={"query": f"id=={machine.name};{query}"}).json()
        assert (len(found["items"]) == 1) is finds, query


def test_enrolling_again_with_the_same_key_gives_the_same_answer_spends_nothing_and_changes_nothing(
    fleet: Fleet, machine: Machine
) -> None:
    claim, other = fleet.claim(labels={"line": "3"}), fleet.claim(site="bank", labels={"line": "9"})
    first = fleet.enrol(machine, claim).json()
    for again in (claim, other):
        answer = fleet.enrol(machine, again, labels={"line": "7"})
        assert answer.status_code == 201
        same = ("status", "device", "tenant", "family", "site", "labels")
        assert {key: answer.json()[key] for key in same} == {key: first[key] for key in same}
    assert fleet.enrol(Machine(name=f"{machine.name}-b"), other).status_code == 201, "it was not spent"
    is_problem(fleet.enrol(Machine(name="one-too-many"), claim), 401, "was used by another device")


@pytest.mark.parametrize("fate", ["expired", "revoked"])
def test_a_device_whose_answer_was_lost_gets_it_though_its_claim_has_ended_since(
    fleet: Fleet, machine: Machine, fate: str
) -> None:
    claim = fleet.claim()
    fleet.enrol(machine, claim)
    with fleet.database.write() as session:
        row = session.scalars(select(ClaimToken).where(ClaimToken.used_by == machine.name)).one()
        row.expires_at, row.revoked_at = fleet.now() - 1, fleet.now() if fate == "revoked" else None
    assert fleet.enrol(machine, claim).json()["status"] == "enrolled"


def test_a_known_device_with_another_key_is_refused_and_so_is_a_known_key_with_another_name(
    fleet: Fleet, machine: Machine
) -> None:
    fleet.enrol(machine)
    claim = fleet.claim()
    is_problem(fleet.enrol(Machine(name=machine.name), claim), 409, machine.name)
    twin = Machine(name=f"{machine.name}-twin", key=machine.key)
    is_problem(fleet.enrol(twin, claim), 409, machine.name)
    assert fleet.enrol(Machine(name=f"{machine.name}-2"), claim).status_code == 201, "the claim was not spent"
    assert fleet.actions(f"{machine.name}-twin") == ["enrolment_refused"]


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"signature": "AAAA"}, 400, "does not verify"),
        ({"signature": "no base64!"}, 400, "base64"),
        ({"signature": "A" * 201}, 422, "signature"),
        ({"public_key": "nonsense"}, 400, "PEM"),
        ({"device": "a/b"}, 400, "a/b"),
        ({"device": "training"}, 400, "training"),
        ({"device": "x" * 65}, 422, "device"),
        ({"device": ""}, 422, "device"),
        ({"tenant": "other"}, 422, 'tenant = "demo"'),
        ({"family": "hospital"}, 422, 'family = "motor"'),
        ({"family": "../x"}, 400, "family"),
        ({"certificate_request": "nonsense"}, 400, "certificate request"),
        ({"certificate_request": "x" * 4097}, 422, "certificate_request"),
        ({"labels": {"a": 1}}, 422, "labels"),
        ({"labels": {"a\0": "b"}}, 422, "labels"),
        ({"labels": {"a": "b\0"}}, 422, "labels"),
        ({"labels": {"a": "../\n<script>"}}, 422, "labels"),
        ({"labels": {"a": "b\n"}}, 422, "labels"),
        ({"labels": {"a": "b\u202e"}}, 422, "labels"),
        ({"labels": {"a": "x" * 5_000}}, 422, "labels"),
        ({"labels": {str(n): "" for n in range(33)}}, 422, "labels"),
        ({"hardware": ""}, 422, "hardware"),
        ({"hardware": "\x1b[2J"}, 422, "hardware"),
        ({"hardware": 7}, 422, "hardware"),
        ({"site": "hall-2"}, 422, "site"),
    ],
)
def test_a_wrong_application_is_refused_with_words_and_spends_nothing(
    fleet: Fleet, machine: Machine, changes: dict[str, Any], status: int, words: str
) -> None:
    claim = fleet.claim()
    is_problem(fleet.enrol(machine, claim, **changes), status, words)
    assert fleet.enrol(machine, claim).status_code == 201


@pytest.mark.parametrize(
    "name", ["tenant", "public_key", "device", "family", "hardware", "certificate_request"]
)
def test_half_a_character_is_refused_and_spends_nothing(fleet: Fleet, machine: Machine, name: str) -> None:
    claim, body = fleet.claim(), machine.enrolment()
    content = json.dumps(body | {name: f"{body[name]}\ud800"}).encode()
    headers = {"Content-Type": "application/json"}
    answer = fleet.call("POST", "/v1/enrolments", claim, content=content, headers=headers)
    assert answer.status_code in {400, 422}, answer.text
    assert fleet.enrol(machine, claim).status_code == 201


def test_a_request_that_another_device_signed_cannot_be_carried_into_ones_own_enrolment(
    fleet: Fleet, machine: Machine
) -> None:
    claim, thief = fleet.claim(), Machine(name=machine.name)
    mixed = machine.enrolment() | {"certificate_request": thief.request()}
    is_problem(fleet.call("POST", "/v1/enrolments", claim, json=mixed), 400, "does not verify")
    own_key = machine.enrolment(certificate_request=Machine(name=machine.name, key=machine.key).request())
    assert fleet.call("POST", "/v1/enrolments", claim, json=own_key).status_code == 201


@pytest.mark.parametrize("name", ["fleet", "aggregator", "broker", "Fleet", "BROKER"])
def test_no_device_may_take_the_name_of_a_service(fleet: Fleet, name: str) -> None:
    is_problem(fleet.enrol(Machine(name=name)), 409, name)


@pytest.mark.parametrize("claim", ["fc_" + "x" * 43, "x", "fo_made-up", "a.b.c", "x" * 9000])
def test_a_forged_claim_opens_nothing_and_its_body_is_not_looked_at(
    fleet: Fleet, machine: Machine, claim: str
) -> None:
    is_problem(fleet.call("POST", "/v1/enrolments", claim, json={"nonsense": 1}), 401)
    assert row_of(fleet, machine.name) is None


def test_no_other_token_of_the_fleet_is_a_claim(fleet: Fleet, machine: Machine) -> None:
    is_problem(fleet.enrol(machine, Role.ADMIN), 403, "for claims")
    enrolled = Machine(name=f"{machine.name}-x")
    fleet.enrol(enrolled)
    is_problem(fleet.enrol(machine, enrolled.token(fleet.now())), 403, "for claims")


def test_an_expired_a_revoked_and_a_used_claim_say_so(fleet: Fleet, machine: Machine) -> None:
    expired, revoked = fleet.claim(lifetime_s=0.001), fleet.claim()
    with fleet.database.write() as session:
        from fleet.auth.claim_tokens import claim_id, find_claim, revoke_claims

        revoke_claims(session, claim_id(find_claim(session, revoked)), fleet.now())
    is_problem(fleet.enrol(machine, expired), 401, "has expired")
    is_problem(fleet.enrol(machine, revoked), 401, "was revoked")
    assert row_of(fleet, machine.name) is None


def test_a_claim_for_one_named_device_lets_no_other_in(fleet: Fleet, machine: Machine) -> None:
    claim = fleet.claim(for_device=machine.name)
    is_problem(fleet.enrol(Machine(name=f"{machine.name}-b"), claim), 422, machine.name, "not used")
    assert fleet.enrol(machine, claim).status_code == 201


def test_a_claim_with_approval_has_its_device_wait_outside_until_a_person_has_seen_its_key(
    fleet: Fleet, machine: Machine
) -> None:
    claim = fleet.claim(needs_approval=True)
    asked = fleet.enrol(machine, claim)
    assert (asked.status_code, asked.json()["status"], asked.json()["certificate"]) == (201, "waiting", "")
    assert fleet.enrol(machine, claim).json()["status"] == "waiting"
    token = machine.token(fleet.now())
    is_problem(fleet.call("GET", "/v1/device/desired", token), 403, "waits", f"approve {machine.name}")
    is_problem(fleet.call("GET", "/v1/device/roster", token), 403, "waits")
    is_problem(fleet.renew(machine), 403, "waits")
    mark = fingerprint(machine.key.public_key())
    path = f"/v1/devices/{machine.name}:approve"
    for role in (Role.VIEWER, Role.OPERATOR, Role.PUBLISHER):
        is_problem(fleet.call("POST", path, role, json={"fingerprint": mark}), 403)
    is_problem(fleet.call("POST", path, Role.ADMIN, json={"fingerprint": "0" * 64}), 409, "look again")
    assert fleet.call("POST", path, Role.ADMIN, json={"fingerprint": mark}).json()["state"] == "enrolled"
    assert fleet.call("POST", path, Role.ADMIN, json={"fingerprint": mark}).status_code == 200
    answer = fleet.enrol(machine, claim).json()
    assert (answer["status"], leaf(answer["certificate"]).subject.rfc4514_string()) == (
        "enrolled",
        f"CN={machine.name}",
    )  # fmt: skip - one line
    assert fleet.actions(machine.name)[:2] == ["device_waits", "device_approved"]


def test_a_device_that_a_person_refused_stays_out_under_any_name(fleet: Fleet, machine: Machine) -> None:
    fleet.enrol(machine, fleet.claim(needs_approval=True))
    assert (
        fleet.call(
            "POST", f"/v1/devices/{machine.name}:refuse", Role.ADMIN, json={"confirm": machine.name}
        ).json()["state"]
        == "revoked"
    )
    mark = fingerprint(machine.key.public_key())
    path = f"/v1/devices/{machine.name}:approve"
    is_problem(fleet.call("POST", path, Role.ADMIN, json={"fingerprint": mark}), 409, "final")
    is_problem(fleet.enrol(machine), 403, "revoked")
    is_problem(fleet.enrol(Machine(name=f"{machine.name}-b", key=machine.key)), 403, "any other name")
    enrolled = Machine(name=f"{machine.name}-c")
    fleet.enrol(enrolled)
    is_problem(
        fleet.call(
            "POST", f"/v1/devices/{enrolled.name}:refuse", Role.ADMIN, json={"confirm": enrolled.name}
        ),
        409,
        "revoke",
    )


def test_a_device_that_was_assigned_another_family_enrols_into_it_by_any_claim_and_uses_none_up(
    fleet: Fleet, machine: Machine
) -> None:
    claim = fleet.claim()
    assert fleet.enrol(machine, claim).json()["family"] == "motor"
    is_problem(fleet.enrol(machine, claim, family="fan"), 422, "fedge-fleet devices assign")
    path = f"/v1/devices/{machine.name}:assign"
    assert fleet.call("POST", path, Role.ADMIN, json={"family": "fan", "is_unreleased": True}).is_success
    fresh = fleet.claim()
    for any_claim in (claim, fresh):  # the one that it used, or whichever is at hand
        assert fleet.enrol(machine, any_claim, family="fan").json()["family"] == "fan"
    assert fleet.enrol(Machine(name=f"{machine.name}-next"), fresh).status_code == 201


def test_refused_enrolments_by_one_claim_do_not_fill_the_audit_log(fleet: Fleet, machine: Machine) -> None:
    fleet.enrol(machine)
    claim, thief = fleet.claim(), Machine(name=machine.name)
    for _ in range(30):
        is_problem(fleet.enrol(thief, claim), 409)
    assert fleet.actions(machine.name).count("enrolment_refused") == 10


def test_an_agent_of_before_certificates_is_told_what_to_do_and_its_claim_is_not_used(
    fleet: Fleet, machine: Machine
) -> None:
    claim = fleet.claim()
    asked = fleet.call("POST", "/v1/enrolments", claim, json=machine.former_enrolment())
    is_problem(asked, 400, "install the agent of this fleet's version", "nothing is lost")
    assert fleet.enrol(machine, claim).status_code == 201
