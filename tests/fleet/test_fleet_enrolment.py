"""Devices over the HTTP API: enrolment, certificates, a device's own calls, its desired state, and revocation."""

from __future__ import annotations

import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from fleet_api_world import Fleet, fleet, is_problem, machine
from fleet_world import NOW, TENANT, Machine, enrol_directly, make_claims, word_of
from sqlalchemy import func, select

from fleet.device_ca import DeviceCa
from fleet.enrolment import Enrolments
from fleet.migrations.upgrade import open_storage
from fleet.storage.access_tables import ClaimToken
from fleet.storage.device_tables import Desired, Device, DeviceState
from protocol.enrolment import CertificateQuestion, EnrolmentQuestion
from protocol.identity import fingerprint
from service.errors import ForbiddenError, UnauthenticatedError
from service.roles import Role

__all__ = ["fleet", "machine"]  # the fixtures


def leaf(chain: str) -> x509.Certificate:
    return x509.load_pem_x509_certificates(chain.encode())[0]


def row_of(fleet: Fleet, name: str) -> Device | None:
    with fleet.database.read() as session:
        return session.get(Device, name)


def actions(fleet: Fleet, subject: str) -> list[str]:
    lines = fleet.call("GET", f"/v1/audit?subject={subject}", Role.ADMIN).json()["items"]
    return [line["action"] for line in lines][::-1]


def renew(fleet: Fleet, machine: Machine, request: str | None = None, **changes: Any) -> Any:
    body = machine.question(request) | changes
    return fleet.call("POST", "/v1/device/certificate", machine.token(fleet.now()), json=body)


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


def test_an_enrolled_device_gets_a_certificate_of_its_own_name_for_the_key_that_it_made(
    fleet: Fleet, machine: Machine
) -> None:
    certificate = leaf(fleet.enrol(machine).json()["certificate"])
    assert certificate.subject.rfc4514_string() == f"CN={machine.name}"
    assert machine.connection is not None
    assert certificate.public_key() == machine.connection.public_key()
    row = row_of(fleet, machine.name)
    assert row is not None
    assert row.certificate_serial == f"{certificate.serial_number:x}"
    assert row.certificate_ends_at == pytest.approx(fleet.now() + 30 * 86400, abs=60)


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
    assert actions(fleet, f"{machine.name}-twin") == ["enrolment_refused"]


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


def test_the_connection_key_is_never_the_identity_key(fleet: Fleet, machine: Machine) -> None:
    real, machine.connection = machine.request, machine.key
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.x509.oid import NameOID

    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, machine.name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    same = builder.sign(machine.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    claim = fleet.claim()
    is_problem(fleet.enrol(machine, claim, certificate_request=same), 400, "connection key of its own")
    assert fleet.enrol(machine, claim, certificate_request=real()).status_code == 201
    is_problem(renew(fleet, machine, same), 400, "connection key of its own")


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


def test_of_many_who_show_one_claim_at_once_one_gets_in(fleet: Fleet) -> None:
    claim = fleet.claim()
    machines = [Machine(name=f"crowd-{n}") for n in range(12)]
    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(lambda one: fleet.enrol(one, claim).status_code, machines))
    assert sorted(statuses) == [201] + [401] * 11


def test_many_who_enrol_at_once_all_get_in_and_a_device_that_asks_twelve_times_at_once_is_one(
    fleet: Fleet,
) -> None:
    claims = make_claims(fleet.database, 16, now=fleet.now())
    machines = [Machine(name=f"rush-{n}") for n in range(15)]
    eager, twelve = Machine(name="eager"), claims.pop()
    calls: list[tuple[Machine, str]] = [*zip(machines, claims, strict=True), *[(eager, twelve)] * 12]
    with ThreadPoolExecutor(27) as pool:
        answers = list(
            pool.map(
                lambda call: fleet.call("POST", "/v1/enrolments", call[1], json=call[0].enrolment()), calls
            )
        )  # fmt: skip - one call
    statuses = [answer.status_code for answer in answers[:15]]
    assert statuses == [201] * 15
    assert {answer.status_code for answer in answers[15:]} == {201}
    assert fleet.enrol(eager, twelve).json()["status"] == "enrolled"


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
    is_problem(renew(fleet, machine), 403, "waits")
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
    assert actions(fleet, machine.name)[:2] == ["device_waits", "device_approved"]


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


def test_a_certificate_is_renewed_by_the_identity_key_as_often_as_the_device_likes(
    fleet: Fleet, machine: Machine
) -> None:
    first = leaf(fleet.enrol(machine).json()["certificate"])
    for _ in range(2):
        answer = renew(fleet, machine)
        assert answer.status_code == 200
        next_one = leaf(answer.json()["certificate"])
        assert machine.connection is not None
        assert next_one.public_key() == machine.connection.public_key()
        assert next_one.serial_number != first.serial_number
    assert actions(fleet, machine.name) == ["device_enrolled", "certificate_renewed", "certificate_renewed"]


def test_a_certificate_is_for_nobody_but_the_device_that_asks(fleet: Fleet, machine: Machine) -> None:
    fleet.enrol(machine)
    other = Machine(name=f"{machine.name}-other")
    is_problem(renew(fleet, machine, other.request()), 400, f"CN={machine.name}")
    body = machine.question()
    is_problem(fleet.call("POST", "/v1/device/certificate", Role.ADMIN, json=body), 403, "for devices")
    is_problem(fleet.call("POST", "/v1/device/certificate", other.token(fleet.now()), json=body), 401)
    impostor = Machine(name=machine.name)
    is_problem(fleet.call("POST", "/v1/device/certificate", impostor.token(fleet.now()), json=body), 401)


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


def test_who_overheard_a_token_gets_no_certificate_for_a_key_of_his_own(
    fleet: Fleet, machine: Machine
) -> None:
    """He who plays the fleet for a moment hears tokens, good for minutes; a certificate is good for weeks at the broker."""
    fleet.enrol(machine)
    thief = Machine(name=machine.name)
    for stolen in (
        thief.question(),
        thief.question() | {"signature": machine.question()["signature"]},
        thief.question() | {"signature": ""},
        thief.question() | {"signature": machine.enrolment()["signature"]},
    ):
        answer = fleet.call("POST", "/v1/device/certificate", machine.token(fleet.now()), json=stolen)
        is_problem(answer, 400, "does not verify")
    is_problem(renew(fleet, machine, signature="?"), 400, "not base64")
    unsigned = {"certificate_request": thief.request()}
    answer = fleet.call("POST", "/v1/device/certificate", machine.token(fleet.now()), json=unsigned)
    is_problem(answer, 422, "signature")
    assert actions(fleet, machine.name) == ["device_enrolled"]
    assert renew(fleet, machine).status_code == 200


def test_a_revoked_device_is_shut_out_of_https_of_the_broker_and_of_certificates(
    fleet: Fleet, machine: Machine
) -> None:
    fleet.enrol(machine)
    assert (
        fleet.call(
            "POST", f"/v1/devices/{machine.name}:revoke", Role.ADMIN, json={"confirm": machine.name}
        ).json()["state"]
        == "revoked"
    )
    is_problem(fleet.call("GET", "/v1/device/desired", machine.token(fleet.now())), 403, "revoked")
    is_problem(renew(fleet, machine), 403, "revoked")
    assert machine.name in (fleet.folder / "broker/shut-out").read_text().split()
    for name in (machine.name, f"{machine.name}-2"):
        is_problem(fleet.enrol(Machine(name=name, key=machine.key)), 403, "revoked")
    is_problem(fleet.enrol(Machine(name=machine.name)), 403, "revoked")
    assert [one for one in actions(fleet, machine.name) if one != "enrolment_refused"] == [
        "device_enrolled",
        "device_revoked",
    ]  # fmt: skip - one line


def test_a_device_that_is_revoked_while_it_asks_gets_no_certificate(fleet: Fleet, machine: Machine) -> None:
    fleet.enrol(machine)
    with fleet.database.write() as session:  # after its token was looked at
        session.get_one(Device, machine.name).state = DeviceState.REVOKED
    question = CertificateQuestion(**machine.question())
    enrolments = fleet.client.app.state.services.enrolments  # type: ignore[attr-defined] # a FastAPI app
    with pytest.raises(ForbiddenError, match="revoked"):
        enrolments.renew(machine.name, question, fleet.now())


def test_refused_enrolments_by_one_claim_do_not_fill_the_audit_log(fleet: Fleet, machine: Machine) -> None:
    fleet.enrol(machine)
    claim, thief = fleet.claim(), Machine(name=machine.name)
    for _ in range(30):
        is_problem(fleet.enrol(thief, claim), 409)
    assert actions(fleet, machine.name).count("enrolment_refused") == 10


def test_an_agent_of_before_certificates_is_told_what_to_do_and_its_claim_is_not_used(
    fleet: Fleet, machine: Machine
) -> None:
    claim = fleet.claim()
    asked = fleet.call("POST", "/v1/enrolments", claim, json=machine.former_enrolment())
    is_problem(asked, 400, "install the agent of this fleet's version", "nothing is lost")
    assert fleet.enrol(machine, claim).status_code == 201


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
    is_problem(fleet.call("GET", "/v1/devices", machine.token(now)), 403, "viewer")


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
    assert word_of(first).counter == 4
    again = fleet.call("GET", "/v1/device/desired", token, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert fleet.call("GET", f"/v1/devices/{machine.name}").json()["desired_release"] == "motor/1"


def test_a_device_state_reads_back_as_its_word(fleet: Fleet, machine: Machine) -> None:
    enrol_directly(fleet.database, machine)
    assert fleet.call("GET", f"/v1/devices/{machine.name}").json()["state"] == DeviceState.ENROLLED


def test_a_device_that_asks_for_certificates_all_day_fills_no_audit_log(
    fleet: Fleet, machine: Machine
) -> None:
    fleet.enrol(machine)
    statuses = [renew(fleet, machine).status_code for _ in range(25)]
    assert statuses == [200] * 19 + [429] * 6
    is_problem(renew(fleet, machine), 429, "the next one in 60 s")
    assert actions(fleet, machine.name) == ["device_enrolled", *["certificate_renewed"] * 19]
    assert fleet.enrol(Machine(name=f"{machine.name}-2")).status_code == 201, (
        "another device is not kept waiting"
    )


def test_fifteen_processes_on_one_database_let_each_device_in_once_and_one_of_those_with_one_claim(
    database_url: str, tmp_path: Path
) -> None:
    """Each with connections and a lock of its own, as the fleet and its commands have them."""
    databases = [open_storage(database_url) for _ in range(15)]
    authority = DeviceCa(tmp_path, tenant=TENANT, random_bytes=secrets.token_bytes)
    authority.ensure(NOW)
    fleets = [
        Enrolments(one, authority, tenant=TENANT, reserved=(), certificate_lifetime_s=86400.0)
        for one in databases
    ]
    claims = make_claims(databases[0], 16)
    contested = claims.pop()

    def ask(number: int, claim: str, name: str) -> str:
        question = msgspec.convert(Machine(name=name).enrolment(), EnrolmentQuestion)
        try:
            return fleets[number].enrol(question, claim, NOW).status
        except UnauthenticatedError as error:
            return str(error)

    with ThreadPoolExecutor(15) as pool:
        all_in = list(pool.map(ask, range(15), claims, [f"each-{n}" for n in range(15)]))
        one_in = list(pool.map(ask, range(15), [contested] * 15, [f"one-{n}" for n in range(15)]))
    assert all_in == ["enrolled"] * 15
    assert one_in.count("enrolled") == 1
    assert sum("was used by another device" in words for words in one_in) == 14
    with databases[0].read() as session:
        assert session.scalar(select(func.count()).select_from(Device)) == 16
    for one in databases:
        one.close()
