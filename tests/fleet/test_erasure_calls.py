"""Who may have a device's data erased, and what is asked of them first."""

from __future__ import annotations

import json
from typing import Any

from fleet_api_world import Fleet, fleet, machine
from fleet_world import TENANT, Machine, enrol_directly
from test_erasure import counts, everything_it_can_say
from test_fleet_commands import run
from typer.testing import CliRunner

from fleet.cli import app
from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from service.roles import Role

__all__ = ["fleet", "machine", "run"]  # the fixtures


def test_only_an_admin_who_repeats_the_name_erases(fleet: Fleet, machine: Machine) -> None:
    enrol_directly(fleet.database, machine)
    path = f"/v1/devices/{machine.name}:erase"
    for role in (Role.VIEWER, Role.OPERATOR, Role.PUBLISHER):
        assert fleet.call("POST", path, role, json={"confirm": machine.name}).status_code == 403
    assert fleet.call("POST", path, Role.ADMIN, json={"confirm": "press"}).status_code == 422
    assert fleet.call("POST", path, Role.ADMIN, json={}).status_code == 422
    assert (
        fleet.call("POST", "/v1/devices/nobody:erase", Role.ADMIN, json={"confirm": "nobody"}).status_code
        == 404
    )


def test_on_the_command_line_a_person_is_asked_first(fleet: Fleet, machine: Machine, run: Any) -> None:
    enrol_directly(fleet.database, machine)
    EventStore(fleet.database, TENANT, FleetMetrics()).store(everything_it_can_say(machine))
    refused = CliRunner().invoke(app, ["devices", "erase", machine.name], input="n\n")
    assert refused.exit_code != 0
    assert "anomalies" in counts(fleet.database, machine.name)
    done = run("devices", "erase", machine.name, "--yes")
    assert f"erased: {machine.name} (" in done
    assert " 1 of anomalies" in done.replace("(", " ")
    assert "revoke it first" in done
    assert json.loads(run("devices", "erase", machine.name, "--yes", "--json"))["state"] == "enrolled"
