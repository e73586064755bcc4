"""A device's certificates over the HTTP API: for its own name and keys alone, renewed while it is let in."""

from __future__ import annotations

import pytest
from fleet_api_world import Fleet, fleet, is_problem, leaf, machine
from fleet_world import Machine

from fleet.storage.device_tables import Device, DeviceState
from protocol.enrolment import CertificateQuestion
from service.errors import ForbiddenError
from service.roles import Role

__all__ = ["fleet", "machine"]  # the fixtures


def test_an_enrolled_device_gets_a_certificate_of_its_own_name_for_the_key_that_it_made(
    fleet: Fleet, machine: Machine
) -> None:
    certificate = leaf(fleet.enrol(machine).json()["certificate"])
    assert certificate.subject.rfc4514_string() == f"CN={machine.name}"
    assert machine.connection is not None
    assert certificate.public_key() == machine.connection.public_key()
    with fleet.database.read() as session:
        row = session.get_one(Device, machine.name)
    assert row.certificate_serial == f"{certificate.serial_number:x}"
    assert row.certificate_ends_at == pytest.approx(fleet.now() + 30 * 86400, abs=60)


def test_the_connection_key_is_never_the_identity_key(fleet: Fleet, machine: Machine) -> None:
    same = machine.request(machine.key)
    claim = fleet.claim()
    is_problem(fleet.enrol(machine, claim, certificate_request=same), 400, "connection key of its own")
    assert fleet.enrol(machine, claim, certificate_request=machine.request()).status_code == 201
    is_problem(fleet.renew(machine, same), 400, "connection key of its own")


def test_a_certificate_is_renewed_by_the_identity_key_as_often_as_the_device_likes(
    fleet: Fleet, machine: Machine
) -> None:
    first = leaf(fleet.enrol(machine).json()["certificate"])
    for _ in range(2):
        answer = fleet.renew(machine)
        assert answer.status_code == 200
        next_one = leaf(answer.json()["certificate"])
        assert machine.connection is not None
        assert next_one.public_key() == machine.connection.public_key()
        assert next_one.serial_number != first.serial_number
    assert fleet.actions(machine.name) == ["device_enrolled", "certificate_renewed", "certificate_renewed"]


def test_a_certificate_is_for_nobody_but_the_device_that_asks(fleet: Fleet, machine: Machine) -> None:
    fleet.enrol(machine)
    other = Machine(name=f"{machine.name}-other")
    is_problem(fleet.renew(machine, other.request()), 400, f"CN={machine.name}")
    body = machine.question()
    is_problem(fleet.call("POST", "/v1/device/certificate", Role.ADMIN, json=body), 403, "for devices")
    is_problem(fleet.call("POST", "/v1/device/certificate", other.token(fleet.now()), json=body), 401)
    impostor = Machine(name=machine.name)
    is_problem(fleet.call("POST", "/v1/device/certificate", impostor.token(fleet.now()), json=body), 401)


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
    is_problem(fleet.renew(machine, signature="?"), 400, "not base64")
    unsigned = {"certificate_request": thief.request()}
    answer = fleet.call("POST", "/v1/device/certificate", machine.token(fleet.now()), json=unsigned)
    is_problem(answer, 422, "signature")
    assert fleet.actions(machine.name) == ["device_enrolled"]
    assert fleet.renew(machine).status_code == 200


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
    is_problem(fleet.renew(machine), 403, "revoked")
    assert machine.name in (fleet.folder / "broker/shut-out").read_text().split()
    for name in (machine.name, f"{machine.name}-2"):
        is_problem(fleet.enrol(Machine(name=name, key=machine.key)), 403, "revoked")
    is_problem(fleet.enrol(Machine(name=machine.name)), 403, "revoked")
    assert [one for one in fleet.actions(machine.name) if one != "enrolment_refused"] == [
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


def test_a_device_that_asks_for_certificates_all_day_fills_no_audit_log(
    fleet: Fleet, machine: Machine
) -> None:
    fleet.enrol(machine)
    statuses = [fleet.renew(machine).status_code for _ in range(25)]
    assert statuses == [200] * 19 + [429] * 6
    is_problem(fleet.renew(machine), 429, "the next one in 60 s")
    assert fleet.actions(machine.name) == ["device_enrolled", *["certificate_renewed"] * 19]
    assert fleet.enrol(Machine(name=f"{machine.name}-2")).status_code == 201, (
        "another device is not kept waiting"
    )
