"""The roster that devices check each other's keys against: who is in it, and who may read it."""

from __future__ import annotations

from fleet_world import Machine, enrol_directly
from test_fleet_api import Fleet, fleet, is_problem

from protocol.identity import fingerprint, key_from_compressed
from service.roles import Role

__all__ = ["fleet"]  # the fixture


def test_roster_holds_the_keys_of_the_callers_family_and_no_revoked_device(fleet: Fleet) -> None:
    machines = [Machine(name=f"press-{i}") for i in range(4)]
    for machine in machines:
        enrol_directly(fleet.database, machine)
    fleet.call("POST", "/v1/devices/press-3:revoke", Role.ADMIN, json={"confirm": "press-3"})
    token = machines[0].token(fleet.now())
    first = fleet.call("GET", "/v1/device/roster?limit=2", token).json()
    assert sorted(first["devices"]) == ["press-0", "press-1"]
    rest = fleet.call("GET", f"/v1/device/roster?limit=2&after={first['next_cursor']}", token).json()
    assert sorted(rest["devices"]) == ["press-2"]
    assert rest["next_cursor"] is None
    for machine in machines[:2]:
        key = key_from_compressed(first["devices"][machine.name])
        assert fingerprint(key) == fingerprint(machine.key.public_key())


def test_roster_is_for_devices_alone(fleet: Fleet) -> None:
    is_problem(fleet.call("GET", "/v1/device/roster", Role.ADMIN), 403, "for devices")
    is_problem(fleet.client.get("/v1/device/roster"), 401)
