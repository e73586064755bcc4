"""What people type: devices, releases and anomalies on the command line, its HTTP carried by the application itself."""

from __future__ import annotations

import json

import pytest
from fleet_api_world import Fleet, fleet, machine
from fleet_commands_world import Run, run
from fleet_world import (
    NOW,
    TENANT,
    Machine,
    anomaly,
    bundle,
    closed,
    enrol_directly,
    health,
    of_a_newer_agent,
)

from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from protocol.messages.kinds import AgentState
from service.errors import ClientError
from service.roles import Role

__all__ = ["fleet", "machine", "run"]  # the fixtures


def test_a_blind_device_shows_what_it_does_not_see_and_an_old_one_what_it_does_not_tell(
    fleet: Fleet, machine: Machine, run: Run
) -> None:
    old = Machine(name=f"{machine.name}-old")
    enrol_directly(fleet.database, machine, old)
    said = health(
        state=AgentState.BLIND,
        interval_judged=0,
        unjudged_windows=508,
        sight=0.125,
        promised_per_1000=1.0,
        realised_alarms=6,
        realised_windows=2000,
        realised_low_per_1000=1.1,
        realised_high_per_1000=6.5,
        set_aside_windows=41,
        problems=("sensor rms_h delivers nothing", "clipped"),
    )
    store = EventStore(fleet.database, TENANT, FleetMetrics())
    store.store([machine.arrival(said), old.arrival(health())])
    heading, *_, first, second = [
        [cell.strip() for cell in line.strip("┃│").replace("┃", "│").split("│")]
        for line in run("devices", "list", "--query", f"id=={machine.name}*").splitlines()
        if "┃" in line or "│" in line
    ]
    shown = [dict(zip(heading, row, strict=True)) for row in (first, second)]
    names = ("does", "sight", "alarms in 1000", "unjudged", "set aside", "problem")
    assert [shown[0][name] for name in names] == [
        "blind",
        "0.125",
        "3 (1.1–6.5) of 1",
        "508",
        "41",
        "sensor rms_h delivers nothing",
    ]
    assert [shown[1][name] for name in names] == ["watching", "–", "–", "–", "–", "–"]
    whole = json.loads(run("devices", "show", machine.name))
    assert whole["last_health"]["problems"] == ["sensor rms_h delivers nothing", "clipped"]


def test_a_false_alarm_is_judged_and_then_accepted_as_normal(
    fleet: Fleet, machine: Machine, run: Run
) -> None:
    enrol_directly(fleet.database, machine)
    said = [
        anomaly(episode="e", window_withheld=True),
        anomaly(episode="f"),
        closed("e"),
        health(set_aside_windows=12, interval_judged=1),
    ]
    EventStore(fleet.database, TENANT, FleetMetrics()).store([machine.arrival(one) for one in said])
    listed = json.loads(run("anomalies", "--device", machine.name, "--json"))
    assert [one["episode"] for one in listed] == ["f", "e"]
    shown = run("anomalies", "--device", machine.name)
    assert "20 s, 9 windows (calm)" in shown
    assert "open" in shown
    assert shown.count("withheld by its owner") == 1
    assert {one["episode"]: one["window_withheld"] for one in listed} == {"e": True, "f": None}
    (ended,) = json.loads(run("anomalies", "--device", machine.name, "--ended", "--json"))
    (lasts,) = json.loads(run("anomalies", "--device", machine.name, "--open", "--json"))
    assert (ended["episode"], lasts["episode"]) == ("e", "f")
    said_of_it = run("judge", str(ended["id"]), "false_alarm")
    assert f"fedge-fleet devices accept-normal {machine.name}" in said_of_it
    dry = run("devices", "accept-normal", machine.name, "--dry-run")
    assert dry.startswith("1 devices would be told")
    assert "12 windows by their last word" in dry
    assert json.loads(run("devices", "show", machine.name))["commands_counter"] is None
    done = json.loads(run("devices", "accept-normal", machine.name, "--until", str(NOW - 2), "--json"))
    assert (done["devices"], done["until_s"]) == ([machine.name], NOW - 2)
    (told,) = json.loads(run("devices", "commands", machine.name, "--json"))
    assert (told["action"], told["arguments"]) == ("accept-as-normal", {"until_s": NOW - 2})
    run("judge", str(lasts["id"]), "true_alarm")
    query = ("--query", f"id=={machine.name}")
    assert f"held back: {machine.name}, whose anomaly {lasts['id']} was judged a true alarm" not in run(
        "devices", "accept-normal", *query, "--until", str(NOW - 1)
    )
    assert f"held back: {machine.name}, whose anomaly {lasts['id']} was judged a true alarm" in run(
        "devices", "accept-normal", *query
    )
    with pytest.raises(ClientError, match="Name one device, or give --query"):
        run("devices", "accept-normal")
    with pytest.raises(ClientError, match="not both"):
        run("devices", "accept-normal", machine.name, *query)


def test_a_release_is_withdrawn_and_whoever_still_runs_it_is_counted(
    fleet: Fleet, machine: Machine, run: Run
) -> None:
    enrol_directly(fleet.database, machine)
    EventStore(fleet.database, TENANT, FleetMetrics()).store([machine.arrival(health(release="motor/77"))])
    assert fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=bundle(77)).status_code == 201
    shown = run("releases", "withdraw", "motor/77", "--reason", "alarms on cold starts", "--yes")
    assert "withdrawn: motor/77 (alarms on cold starts)" in shown
    assert "1 devices shall still run it: roll another release out to them" in shown
    assert "alarms on cold starts" in run("releases", "list")


def test_devices_are_told_and_set_by_one_and_by_query_and_mistakes_are_one_line(
    fleet: Fleet, machine: Machine, run: Run
) -> None:
    machines = [Machine(name=f"{machine.name}-{n}") for n in range(2)]
    enrol_directly(fleet.database, *machines)
    name, query = machines[0].name, f"id=={machine.name}-*"
    (given,) = json.loads(run("devices", "command", "recommission", name, "--json"))
    assert run("devices", "command", "recommission", "-q", query, "--dry-run").splitlines() == [
        "1 devices would be told: recommission",
        f"held back: {name}: command {given['number']} (recommission) is WAITING, and has not ended",
    ]
    assert "1 devices are told: diagnose" in run("devices", "command", "diagnose", "-q", f"id=={name}")
    assert "CANCELED" in run("devices", "cancel", name, str(given["number"]))
    assert "2 devices would be set; 0" in run(
        "devices", "settings", "-q", query, "--set", "health.every_s=60", "--dry-run"
    )
    run("devices", "settings", name, "--set", "health.every_s=60")
    assert "1 devices are set; 1 are so already" in run(
        "devices", "settings", "-q", query, "--set", "health.every_s=60"
    )
    shown = run("devices", "settings", name)
    assert "health.every_s" in shown
    assert "not yet" in shown
    run("devices", "settings", name, "--clear")
    assert json.loads(run("devices", "settings", name, "--json"))["wanted"] == {}
    for words, said in [
        (("command", "diagnose"), "Name one, or give --query"),
        (("command", "accept-as-normal", name), "accept-normal"),
        (("command", "diagnose", name, "--dry-run"), "--dry-run goes with --query"),
        (("settings", name, "--set", "health.every_s"), "is not name=number"),
        (("settings", name, "--set", "a=1", "--clear"), "contradict"),
        (("settings", name, "--set", "learner.enabled=0"), "is no setting that comes from a fleet"),
        (("diagnose", machines[1].name, "--wait", "1"), "has not answered within 1 s"),
    ]:
        with pytest.raises(ClientError, match=said):
            run("devices", *words)


def test_letters_are_replayed_and_dropped_to_the_last_however_many_one_call_takes(
    fleet: Fleet, machine: Machine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.api.dead_letters.AT_ONCE", 2)
    enrol_directly(fleet.database, machine)
    sent = [of_a_newer_agent(machine.arrival(anomaly())) for _ in range(5)]
    EventStore(fleet.database, TENANT, FleetMetrics()).store(sent)
    assert (
        run("dead-letters", "replay", "--device", machine.name).splitlines()[-1]
        == "0 stored, 5 refused again"
    )
    first = json.loads(run("dead-letters", "list", "--device", machine.name, "--json"))[-1]["id"]
    assert json.loads(run("dead-letters", "drop", str(first), "--json", "--yes")) == {"dropped": [first]}
    assert run("dead-letters", "drop", "--device", machine.name, "--yes") == "4 dropped\n"
    with pytest.raises(ClientError, match="Name one, or give --device"):
        run("dead-letters", "drop", "--all", "--device", machine.name)
