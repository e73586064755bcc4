"""What cannot be undone is done when its name is repeated, and not before: over the API and at the command line."""

from __future__ import annotations

import itertools
from typing import Any

import httpx
import pytest
from databases import Databases, SqliteDatabases
from fleet_api_world import Fleet, fleet, is_problem, machine
from fleet_world import TENANT, Machine, anomaly, bundle, enrol_directly, of_a_newer_agent
from typer.testing import CliRunner

from fleet.cli import app
from fleet.client.client import FleetClient
from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from service.errors import ClientError
from service.roles import Role

__all__ = ["fleet", "machine"]  # fixtures

VERSIONS = itertools.count(1)


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Databases:
    """SQLite alone: what is asked for twice does not hang on the database."""
    return SqliteDatabases(tmp_path_factory.mktemp("databases"))


def everything_final(fleet: Fleet, machine: Machine) -> dict[str, tuple[str, dict[str, Any]]]:
    """Path → the name that is to be repeated, and what else goes into the body."""
    enrol_directly(fleet.database, machine)
    EventStore(fleet.database, TENANT, FleetMetrics()).store([of_a_newer_agent(machine.arrival(anomaly()))])
    version = next(VERSIONS)
    made = fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=bundle(version))
    assert made.status_code == 201, made.text
    (letter,) = fleet.call("GET", f"/v1/dead-letters?device={machine.name}").json()["items"]
    return {
        f"/v1/dead-letters/{letter['id']}:drop": (str(letter["id"]), {}),
        f"/v1/releases/motor/{version}:withdraw": (f"motor/{version}", {"reason": "alarms"}),
        f"/v1/devices/{machine.name}:revoke": (machine.name, {}),
        f"/v1/devices/{machine.name}:erase": (machine.name, {}),
    }


def test_a_call_that_does_not_repeat_the_name_changes_nothing_and_says_how(
    fleet: Fleet, machine: Machine
) -> None:
    for path, (name, more) in everything_final(fleet, machine).items():
        before = fleet.call("GET", "/v1/audit", Role.ADMIN).json()["items"][0]
        for body in ({}, None, more, more | {"confirm": name + "x"}, more | {"confirm": f" {name}"}):
            refused = fleet.call("POST", path, Role.ADMIN, json=body)
            assert refused.status_code == 422, (path, body, refused.text)
        is_problem(
            fleet.call("POST", path, Role.ADMIN, json=more | {"confirm": "another"}),
            422,
            f'{{"confirm": "{name}"}}',
        )
        assert fleet.call("GET", "/v1/audit", Role.ADMIN).json()["items"][0] == before
        done = fleet.call("POST", path, Role.ADMIN, json=more | {"confirm": name})
        assert done.status_code == 200, (path, done.text)


def test_a_call_of_an_older_program_is_told_what_to_send(fleet: Fleet, machine: Machine) -> None:
    enrol_directly(fleet.database, machine)
    # without a body, as it was asked until now
    refused = fleet.call("POST", f"/v1/devices/{machine.name}:revoke", Role.ADMIN)
    is_problem(
        refused, 422, "cannot be undone, and no confirm was sent", f'send {{"confirm": "{machine.name}"}}'
    )


@pytest.mark.parametrize("typed", ["", "no\n", "y\n", "\n"])
def test_a_person_who_does_not_type_the_name_changes_nothing(
    fleet: Fleet, machine: Machine, monkeypatch: pytest.MonkeyPatch, typed: str
) -> None:
    def connected(*_: object) -> FleetClient:
        headers = {"Authorization": f"Bearer {fleet.tokens[Role.ADMIN]}"}
        http = httpx.Client(transport=fleet.client._transport, base_url="http://testserver", headers=headers)
        return FleetClient(http, service="fleet")

    monkeypatch.setattr("fleet.commands.connection.connect", connected)
    finals = everything_final(fleet, machine)
    release = next(name for name, more in finals.values() if more)
    words = [
        ("dead-letters", "drop", "--device", machine.name),
        ("releases", "withdraw", release, "--reason", "x"),
        ("devices", "revoke", machine.name),
        ("devices", "erase", machine.name),
    ]
    for command in words:
        refused = CliRunner().invoke(app, command, input=typed)
        assert isinstance(refused.exception, ClientError), command
        assert "nothing was done" in str(refused.exception)
    assert fleet.call("GET", f"/v1/devices/{machine.name}").json()["state"] == "enrolled"
    for command, name in zip(words, (machine.name, release, machine.name, machine.name), strict=True):
        assert CliRunner().invoke(app, command, input=f"{name}\n").exit_code == 0, command
    assert fleet.call("GET", f"/v1/devices/{machine.name}").json()["state"] == "revoked"
