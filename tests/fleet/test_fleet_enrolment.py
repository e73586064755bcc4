"""Devices over the HTTP API: enrolment, a device's own calls, its desired state, and revocation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fleet_api_world import Fleet, fleet, is_problem, machine
from fleet_world import NOW, TENANT, Machine, enrol_directly, word_of

from fleet.broker_accounts.password_file import PasswordFile
from fleet.broker_accounts.passwords import verify_password
from fleet.storage.device_tables import Desired, DeviceState
from service.roles import Role

__all__ = ["fleet", "machine"]  # the fixtures


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
        ({"signature": "no base64!"}, 422),
        ({"public_key": "nonsense"}, 400),
        ({"device": "a/b"}, 400),
        ({"device": "training"}, 400),
        ({"device": "x" * 65}, 422),
        ({"labels": {"a": 1}}, 422),
        ({"labels": {"a\0": "b"}}, 422),
        ({"labels": {"a": "b\0"}}, 422),
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


def test_an_enrolment_that_another_call_overtakes_promises_no_password_that_does_not_hold(
    fleet: Fleet, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = fleet.claim()
    update = PasswordFile.update
    meanwhile: list[Callable[[], Any]] = [
        lambda: fleet.enrol(machine, claim),
        lambda: fleet.call("POST", f"/v1/devices/{machine.name}:revoke", Role.ADMIN),
    ]

    async def overtaken(self: PasswordFile, name: str) -> None:
        monkeypatch.setattr(PasswordFile, "update", update)
        await asyncio.to_thread(meanwhile.pop(0))
        await update(self, name)

    for status, words in ((409, "once more"), (403, "revoked")):
        monkeypatch.setattr(PasswordFile, "update", overtaken)
        is_problem(fleet.enrol(machine, claim), status, machine.name, words)


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
    is_problem(fleet.call("GET", "/v1/devices", machine.token(now)), 403, "viewer")


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
    assert word_of(first).counter == 4
    again = fleet.call("GET", "/v1/device/desired", token, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert fleet.call("GET", f"/v1/devices/{machine.name}").json()["desired_release"] == "motor/1"


def test_a_device_state_reads_back_as_its_word(fleet: Fleet, machine: Machine) -> None:
    enrol_directly(fleet.database, machine)
    assert fleet.call("GET", f"/v1/devices/{machine.name}").json()["state"] == DeviceState.ENROLLED
