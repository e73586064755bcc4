"""What lists of the fleet say and leave out: alarms that last, devices that were shut out, how much more there is."""

from __future__ import annotations

import json

import pytest
from fleet_api_world import Fleet, fleet, machine
from fleet_commands_world import Run, run
from fleet_world import TENANT, Machine, anomaly, enrol_directly

from fleet.commands.printing import show_time
from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from runtime.errors import SettingsError
from service.roles import Role

__all__ = ["fleet", "machine", "run"]  # the fixtures


def test_an_alarm_that_lasts_is_said_and_who_was_shut_out_is_listed_only_when_asked(
    fleet: Fleet, machine: Machine, run: Run
) -> None:
    gone = Machine(name=f"{machine.name}-gone")
    enrol_directly(fleet.database, machine, gone)
    EventStore(fleet.database, TENANT, FleetMetrics()).store([machine.arrival(anomaly(episode="e"))])
    revoked = fleet.call("POST", f"/v1/devices/{gone.name}:revoke", Role.ADMIN, json={"confirm": gone.name})
    assert revoked.status_code == 200, revoked.text
    query = ("--query", f"id=={machine.name}*")
    assert "1 OPEN" in run("devices", "list", *query)

    def listed(*more: str) -> list[str]:
        return [one["id"] for one in json.loads(run("devices", "list", *query[:1], *more, "--json"))]

    assert listed(query[1]) == [machine.name]
    assert listed(query[1], "--revoked") == [machine.name, gone.name]
    assert listed(f"{query[1]} and state==revoked") == [gone.name]
    assert listed(f"{query[1]} and agent_state!=blind") == [machine.name]


def test_a_list_that_was_cut_says_so_and_all_of_it_can_be_had(
    fleet: Fleet, machine: Machine, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    others = [Machine(name=f"{machine.name}-{number}") for number in range(3)]
    enrol_directly(fleet.database, machine, *others)
    query = ("devices", "list", "--json", "--query", f"id=={machine.name}*")
    cut, whole = run(*query, "--limit", "2"), run(*query, "--limit", "0")
    assert "these are 2, and there may be more: --limit 0 gives all" in cut
    assert len(json.loads(whole)) == 4


def test_anomalies_are_asked_for_by_times_as_people_write_them(
    fleet: Fleet, machine: Machine, run: Run
) -> None:
    enrol_directly(fleet.database, machine)
    EventStore(fleet.database, TENANT, FleetMetrics()).store([machine.arrival(anomaly(episode="e"))])

    def found(*when: str) -> int:
        return len(json.loads(run("anomalies", "--device", machine.name, "--json", *when)))

    assert [found("--since", when) for when in ("2001-01-01", "1000000", "100d")] == [
        found(),
        found(),
        found("--since", "100d"),
    ]
    assert found("--since", "2200-01-01T00:00+01:00") == 0
    assert found("--until", "2001-01-01") == 0
    with pytest.raises(SettingsError, match="is no moment"):
        run("anomalies", "--since", "yesterday")


def test_times_are_utc_unless_this_machines_zone_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert show_time(0.0) == "1970-01-01 00:00:00"
    monkeypatch.setenv("FEDGE_LOCAL_TIME", "1")
    shown = show_time(0.0)
    assert shown is not None
    assert shown.count(" ") == 2


def test_a_family_that_nobody_has_is_an_error_and_few_verdicts_are_no_promise(
    fleet: Fleet, machine: Machine, run: Run
) -> None:
    with pytest.raises(Exception, match="there is no family 'nope'"):
        run("precision", "--family", "nope")
    enrol_directly(fleet.database, machine)
    family = json.loads(run("devices", "show", machine.name))["family"]
    assert "nothing is known of its precision yet" in run("precision", "--family", family)
