"""What a device calls the fleet for once it is in: its token, its desired state, and what is shown of it."""

from __future__ import annotations

from fleet_api_world import Fleet, fleet, is_problem, machine
from fleet_world import NOW, Machine, enrol_directly, word_of

from fleet.storage.device_tables import Desired, DeviceState
from service.roles import Role

__all__ = ["fleet", "machine"]  # the fixtures


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
