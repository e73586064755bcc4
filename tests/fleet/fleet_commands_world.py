"""One enrolled device at the fleet's API, and the words that go to it and come back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fleet_api_world import Fleet
from fleet_world import TENANT, Machine, enrol_directly
from typer.testing import CliRunner

from fleet.cli import app
from fleet.client.client import FleetClient
from fleet.device_commands import words_for
from fleet.ingest.batch_result import BatchResult
from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from protocol.messages.commands import CommandResult, Commands
from protocol.messages.kinds import CommandStatus
from service.roles import Role

Run = Callable[..., str]


@pytest.fixture
def run(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs ``fedge-fleet …`` as the holder of an admin's token."""

    def connect(*_: object) -> FleetClient:
        headers = {"Authorization": f"Bearer {fleet.tokens[Role.ADMIN]}"}
        http = httpx.Client(transport=fleet.client._transport, base_url="http://testserver", headers=headers)
        return FleetClient(http, service="fleet")

    monkeypatch.setattr("fleet.commands.connection.connect", connect)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    return run


@pytest.fixture
def device(fleet: Fleet, machine: Machine) -> Machine:
    enrol_directly(fleet.database, machine)
    return machine


def give(fleet: Fleet, name: str, action: str = "recommission", key: str | None = None, **more: Any) -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    return fleet.call(
        "POST", f"/v1/devices/{name}/commands", Role.OPERATOR, json={"action": action} | more, headers=headers
    )


def answer(fleet: Fleet, machine: Machine, number: int, status: str, **more: Any) -> BatchResult:
    result = CommandResult(number=number, action="recommission", status=CommandStatus(status), **more)
    return EventStore(fleet.database, TENANT, FleetMetrics()).store([machine.arrival(result)])


def word(fleet: Fleet, name: str) -> Commands:
    with fleet.database.read() as session:
        return words_for(session, [name])[name]


def show(fleet: Fleet, name: str, number: int) -> dict[str, Any]:
    view: dict[str, Any] = fleet.call("GET", f"/v1/devices/{name}/commands/{number}").json()
    return view
