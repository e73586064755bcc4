"""Settings at the fleet: which may be set, within which bounds, by whom, and what came of them, on either database."""

from __future__ import annotations

from typing import Any

import pytest
from fleet_api_world import Fleet, fleet, is_problem, machine
from fleet_commands_world import device, give, word
from fleet_world import TENANT, Machine, enrol_directly, health

from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.storage.command_tables import CommandRecord, DeviceCommands
from protocol.fleet_settings import FLEET_SETTINGS
from protocol.messages.commands import SettingInForce
from protocol.messages.kinds import SettingSource
from service.roles import Role

__all__ = ["device", "fleet", "machine"]  # the fixtures

EVERY = "health.every_s"
BUDGET = "detection.budget.alarms_per_1000_windows"


def set_(fleet: Fleet, name: str, **settings: float) -> Any:
    named = {key.replace("__", "."): value for key, value in settings.items()}
    return fleet.call("PUT", f"/v1/devices/{name}/settings", Role.OPERATOR, json={"settings": named})


def test_settings_are_all_that_the_fleet_asks_and_show_what_came_of_them(
    fleet: Fleet, device: Machine
) -> None:
    path = f"/v1/devices/{device.name}/settings"
    assert fleet.call("GET", path).json() == {
        "device": device.name,
        "wanted": {},
        "set_by": None,
        "set_at": None,
        "is_obeyed": None,
        "in_force": {},
    }
    assert (
        set_(fleet, device.name, health__every_s=60, detection__budget__alarms_per_1000_windows=0.5).json()[
            "is_obeyed"
        ]
        is False
    )
    told = word(fleet, device.name)
    assert told.settings == {EVERY: 60.0, BUDGET: 0.5}
    said = (
        SettingInForce(name=EVERY, value=60.0, source=SettingSource.FLEET),
        SettingInForce(name=BUDGET, value=1.0, source=SettingSource.FILE, refused="kept"),
    )
    EventStore(fleet.database, TENANT, FleetMetrics()).store(
        [device.arrival(health(obeyed=told.counter, settings=said, interval_judged=1))]
    )
    view = fleet.call("GET", path).json()
    assert (view["is_obeyed"], view["set_by"]) == (True, "operator:a-operator")
    assert view["in_force"] == {
        EVERY: {"value": 60.0, "source": "fleet", "refused": ""},
        BUDGET: {"value": 1.0, "source": "file", "refused": "kept"},
    }
    set_(fleet, device.name, health__every_s=60)
    assert word(fleet, device.name).settings == {EVERY: 60.0}
    counter = word(fleet, device.name).counter
    set_(fleet, device.name, health__every_s=60)
    assert word(fleet, device.name).counter == counter, "no change is no word"
    assert fleet.actions(device.name) == ["settings_set", "settings_set"]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("privacy.maximum_epsilon", 5, "is no setting that comes from a fleet"),
        (BUDGET, 0, "0.001 to 10"),
        (BUDGET, 11, "0.001 to 10"),
        ("detection.budget.shortest_event_windows", 1.5, "whole number"),
        (EVERY, 5, "10 to 300"),
        (EVERY, 200, "offline"),
    ],
)
def test_a_setting_off_the_list_or_out_of_bounds_is_refused_by_name(
    fleet: Fleet, device: Machine, name: str, value: float, words: str
) -> None:
    wanted = {"settings": {name: value, "detection.budget.shortest_event_windows": 1} | {name: value}}
    path = f"/v1/devices/{device.name}/settings"
    is_problem(fleet.call("PUT", path, Role.OPERATOR, json=wanted), 422, name, words)
    many = wanted | {"query": "id==*"}
    is_problem(fleet.call("PUT", "/v1/devices:settings", Role.OPERATOR, json=many), 422, name)
    with fleet.database.read() as session:
        assert session.get(DeviceCommands, device.name) is None


def test_settings_by_query_reach_those_it_selects_and_are_listed(fleet: Fleet, machine: Machine) -> None:
    machines = [Machine(name=f"{machine.name}-{n}") for n in range(3)]
    enrol_directly(fleet.database, *machines)
    set_(fleet, machines[0].name, health__every_s=60)
    wanted = {"query": f"id=={machine.name}-*", "settings": {EVERY: 60}, "dry_run": True}
    dry = fleet.call("PUT", "/v1/devices:settings", Role.OPERATOR, json=wanted).json()
    assert (dry["devices"], dry["unchanged"]) == ([m.name for m in machines[1:]], [machines[0].name])
    done = fleet.call("PUT", "/v1/devices:settings", Role.OPERATOR, json=wanted | {"dry_run": False}).json()
    assert done["devices"] == dry["devices"]
    listed = fleet.call("GET", "/v1/devices:settings", params={"query": wanted["query"]}).json()["items"]
    assert [one["wanted"] for one in listed] == [{EVERY: 60.0}] * 3


def test_commands_and_settings_keep_each_other(fleet: Fleet, device: Machine) -> None:
    set_(fleet, device.name, health__every_s=60)
    give(fleet, device.name)
    told = word(fleet, device.name)
    assert (told.settings, len(told.outstanding)) == ({EVERY: 60.0}, 1)
    with fleet.database.read() as session:
        row = session.get(DeviceCommands, device.name)
        assert row is not None
        assert row.settings_counter < row.counter
        assert session.get(CommandRecord, (device.name, row.counter)) is not None
    assert set(FLEET_SETTINGS) >= set(told.settings)
