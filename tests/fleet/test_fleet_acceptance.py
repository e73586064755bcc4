"""Accept as normal: who may, what is noted, whom it reaches, and what is held back."""

from __future__ import annotations

import pytest
from fleet_api_world import Fleet, fleet, is_problem, machine
from fleet_world import NOW, TENANT, Machine, anomaly, enrol_directly, health
from sqlalchemy import select

from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.storage.command_tables import CommandRecord
from service.roles import Role

__all__ = ["fleet", "machine"]  # the fixtures

QUERY = "/v1/devices:accept-normal"


def store(fleet: Fleet, *arrivals: object) -> None:
    EventStore(fleet.database, TENANT, FleetMetrics()).store(list(arrivals))  # type: ignore[arg-type] # arrivals


def row(fleet: Fleet, name: str) -> CommandRecord | None:
    """The last acceptance of a device."""
    last = select(CommandRecord).where(CommandRecord.device == name).order_by(CommandRecord.number.desc())
    with fleet.database.read() as session:
        return session.scalars(last).first()


def audited(fleet: Fleet, name: str) -> list[dict[str, object]]:
    query = {"subject": name, "action": "command_given"}
    items: list[dict[str, object]] = fleet.call("GET", "/v1/audit", Role.ADMIN, params=query).json()["items"]
    return items


def test_a_person_accepts_what_one_device_set_aside_and_each_time_under_a_greater_counter(
    fleet: Fleet, machine: Machine
) -> None:
    enrol_directly(fleet.database, machine)
    store(fleet, machine.arrival(health(set_aside_windows=41, interval_judged=0)))
    path, before = f"/v1/devices/{machine.name}/normal", fleet.now()
    done = fleet.call("POST", path, Role.OPERATOR).json()
    assert done.pop("until_s") == pytest.approx(before, abs=60)
    assert done == {
        "dry_run": False,
        "devices": [machine.name],
        "set_aside_windows": 41,
        "held_back": {},
    }
    first = row(fleet, machine.name)
    assert first is not None
    assert first.asked_by == "operator:a-operator"
    again = fleet.call("POST", path, Role.OPERATOR, json={"until_s": NOW})
    second = row(fleet, machine.name)
    assert second is not None
    # a device that was away hears of the last one alone: it must not unsay the first
    assert (second.number, second.arguments) == (first.number + 1, first.arguments)
    view = fleet.call("GET", f"/v1/devices/{machine.name}/commands/{first.number}").json()
    assert view["status"] == "SUPERSEDED"
    assert again.json()["until_s"] == NOW
    assert [line["detail"] for line in audited(fleet, machine.name)] == [
        {"number": one.number, "command": "accept-as-normal", "arguments": first.arguments}
        for one in (second, first)
    ]
    view = fleet.call("GET", f"/v1/devices/{machine.name}").json()
    assert (view["commands_counter"], view["outstanding_commands"]) == (second.number, 1)


def test_only_operators_accept_and_only_for_a_device_that_can_be_told(fleet: Fleet, machine: Machine) -> None:
    enrol_directly(fleet.database, machine)
    path = f"/v1/devices/{machine.name}/normal"
    for role in (Role.VIEWER, Role.PUBLISHER):
        is_problem(fleet.call("POST", path, role), 403, "needs operator")
        is_problem(fleet.call("POST", QUERY, role, json={"query": "id==*"}), 403, "needs operator")
    is_problem(fleet.call("POST", "/v1/devices/nobody/normal", Role.OPERATOR), 404, "nobody")
    ahead = fleet.call("POST", path, Role.OPERATOR, json={"until_s": fleet.now() + 3600})
    is_problem(ahead, 422, "lies 3600 s ahead")
    is_problem(fleet.call("POST", path, Role.OPERATOR, json={"until": 1}), 422, "until")
    assert (
        fleet.call(
            "POST", f"/v1/devices/{machine.name}:revoke", Role.ADMIN, json={"confirm": machine.name}
        ).status_code
        == 200
    )
    is_problem(fleet.call("POST", path, Role.OPERATOR), 409, "revoked")
    assert (row(fleet, machine.name), audited(fleet, machine.name)) == (None, [])


def test_a_query_is_asked_dry_first_and_then_reaches_exactly_the_devices_it_named(
    fleet: Fleet, machine: Machine
) -> None:
    machines = [Machine(name=f"{machine.name}-{n}") for n in range(3)]
    enrol_directly(fleet.database, *machines)
    for count, one in enumerate(machines):
        store(fleet, one.arrival(health(set_aside_windows=10 * count, interval_judged=1)))
    wanted = {"query": f"id=={machine.name}-* and set_aside_windows=gt=0", "dry_run": True}
    dry = fleet.call("POST", QUERY, Role.OPERATOR, json=wanted).json()
    assert (dry["devices"], dry["set_aside_windows"]) == ([m.name for m in machines[1:]], 30)
    assert not any(row(fleet, one.name) or audited(fleet, one.name) for one in machines)
    done = fleet.call("POST", QUERY, Role.OPERATOR, json=wanted | {"dry_run": False}).json()
    assert done["devices"] == dry["devices"]
    assert [row(fleet, one.name) is not None for one in machines] == [False, True, True]
    assert [len(audited(fleet, one.name)) for one in machines] == [0, 1, 1]
    for nobody_asked_for_all in ("", " ", "\t\n"):
        said = fleet.call("POST", QUERY, Role.OPERATOR, json={"query": nobody_asked_for_all})
        is_problem(said, 422, "query")
    is_problem(fleet.call("POST", QUERY, Role.OPERATOR, json={"query": "a="}), 400, "query")


def test_windows_of_an_alarm_that_was_judged_true_do_not_become_normal_in_passing(
    fleet: Fleet, machine: Machine
) -> None:
    sick, well = Machine(name=f"{machine.name}-sick"), Machine(name=f"{machine.name}-well")
    enrol_directly(fleet.database, sick, well)
    store(fleet, sick.arrival(anomaly(episode="e"), at=NOW), well.arrival(anomaly(episode="e"), at=NOW))
    numbers = {
        one.name: fleet.call("GET", f"/v1/anomalies?device={one.name}").json()["items"][0]["id"]
        for one in (sick, well)
    }
    for name, verdict in ((sick.name, "true_alarm"), (well.name, "false_alarm")):
        fleet.call("PUT", f"/v1/anomalies/{numbers[name]}/verdict", Role.OPERATOR, json={"verdict": verdict})
    both = {"query": f"id=={machine.name}-*"}
    done = fleet.call("POST", QUERY, Role.OPERATOR, json=both).json()
    assert (done["devices"], done["held_back"]) == ([well.name], {sick.name: numbers[sick.name]})
    path = f"/v1/devices/{sick.name}/normal"
    is_problem(fleet.call("POST", path, Role.OPERATOR), 409, str(numbers[sick.name]), "include_true_alarms")
    # what was set aside before that alarm is another matter
    earlier = fleet.call("POST", path, Role.OPERATOR, json={"until_s": NOW - 1})
    assert earlier.json()["devices"] == [sick.name]
    meant = fleet.call("POST", path, Role.OPERATOR, json={"include_true_alarms": True})
    assert meant.json()["devices"] == [sick.name]
    # and what has been accepted once is not asked about again
    assert fleet.call("POST", path, Role.OPERATOR).status_code == 200
