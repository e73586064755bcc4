"""The same thing asked for at the same moment, through two programs that share nothing but the database: done once, and never a failure."""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from fleet_api_world import Fleet, fleet
from fleet_world import TENANT, Machine, anomaly, bundle, enrol_directly, make_claims
from sqlalchemy import func, select

from fleet.app import build_app
from fleet.auth.operator_tokens import PREFIX, SessionRows
from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.migrations.upgrade import open_storage
from fleet.settings import load_fleet_settings
from fleet.storage.access_tables import AuditEntry, OperatorToken
from fleet.storage.command_tables import DeviceCommands
from fleet.storage.device_tables import Device
from fleet.storage.event_tables import Anomaly
from fleet.storage.release_tables import Release
from fleet.storage.rollout_tables import RolloutRecord
from fleet.storage.verdict_tables import VerdictRecord
from service.errors import TokenChangeError
from service.roles import Role
from service.tokens import TokenGrant, create_token

__all__ = ["fleet"]  # the fixture

AT_ONCE = 8


@pytest.fixture(scope="module")
def programs(fleet: Fleet) -> Iterator[list[Fleet]]:
    """The fleet, and another program on the same database and folder, as another process would be."""
    settings = load_fleet_settings(fleet.folder / "fleet.toml")
    other = open_storage(fleet.database.engine.url.render_as_string(hide_password=False))
    with TestClient(build_app(settings, other), raise_server_exceptions=False) as client:
        second = Fleet.__new__(Fleet)
        second.client, second.database, second.folder, second.tokens = (
            client,
            other,
            fleet.folder,
            fleet.tokens,
        )
        yield [fleet, second]
    other.close()


def at_once(programs: list[Fleet], ask: Callable[[Fleet, int], Any]) -> list[Any]:
    """What came of `AT_ONCE` calls at the same moment, through either program in turn; an error is what it was."""
    start, answers = threading.Barrier(AT_ONCE), [None] * AT_ONCE

    def one(number: int) -> None:
        start.wait()
        try:
            answers[number] = ask(programs[number % 2], number)
        except Exception as error:  # noqa: BLE001 - looked at by the test
            answers[number] = error  # type: ignore[call-overload] # a list of anything

    threads = [threading.Thread(target=one, args=(number,)) for number in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def statuses(answers: list[Any]) -> Counter[int]:
    return Counter(getattr(answer, "status_code", -1) for answer in answers)


def count(fleet: Fleet, table: Any, *where: Any) -> int:
    with fleet.database.read() as session:
        return session.scalar(select(func.count()).select_from(table).where(*where)) or 0


def enrolled(fleet: Fleet) -> Machine:
    machine = Machine(name=f"press-{secrets.token_hex(4)}")
    enrol_directly(fleet.database, machine)
    return machine


def test_first_verdicts_on_one_anomaly(programs: list[Fleet]) -> None:
    machine = enrolled(programs[0])
    EventStore(programs[0].database, TENANT, FleetMetrics()).store([machine.arrival(anomaly())])
    with programs[0].database.read() as session:
        number = session.scalar(select(Anomaly.id).where(Anomaly.device == machine.name))

    def judge(program: Fleet, which: int) -> Any:
        said = {"verdict": "true_alarm" if which % 3 else "false_alarm"}
        return program.call("PUT", f"/v1/anomalies/{number}/verdict", Role.OPERATOR, json=said)

    assert statuses(at_once(programs, judge)) == {200: AT_ONCE}
    assert count(programs[0], VerdictRecord, VerdictRecord.anomaly == number) == 1


def test_enrolments_of_one_device_by_one_claim(programs: list[Fleet]) -> None:
    machine, claim = Machine(name=f"press-{secrets.token_hex(4)}"), programs[0].claim()
    body = machine.enrolment()
    answers = at_once(programs, lambda program, _: program.call("POST", "/v1/enrolments", claim, json=body))
    assert statuses(answers) == {201: AT_ONCE}
    assert count(programs[0], Device, Device.id == machine.name) == 1


def test_two_devices_that_bring_the_same_claim(programs: list[Fleet]) -> None:
    claim = programs[0].claim()
    bodies = [Machine(name=f"press-{secrets.token_hex(4)}").enrolment() for _ in range(AT_ONCE)]
    answers = at_once(
        programs, lambda program, n: program.call("POST", "/v1/enrolments", claim, json=bodies[n])
    )
    assert statuses(answers) == {201: 1, 401: AT_ONCE - 1}


def test_settings_of_one_device_that_had_none(programs: list[Fleet]) -> None:
    name = enrolled(programs[0]).name

    def set_(program: Fleet, number: int) -> Any:
        body = {"settings": {"health.every_s": 20 + number}}
        return program.call("PUT", f"/v1/devices/{name}/settings", Role.OPERATOR, json=body)

    assert statuses(at_once(programs, set_)) == {200: AT_ONCE}
    assert count(programs[0], DeviceCommands, DeviceCommands.device == name) == 1


def test_commands_to_one_device(programs: list[Fleet]) -> None:
    name = enrolled(programs[0]).name

    def give(program: Fleet, number: int) -> Any:
        key = {"Idempotency-Key": "the same"} if number % 4 else {}
        return program.call(
            "POST", f"/v1/devices/{name}/commands", Role.OPERATOR, json={"action": "diagnose"}, headers=key
        )

    found = statuses(at_once(programs, give))
    assert found[201] == 1
    assert set(found) <= {200, 201, 409}


def test_releases_with_the_same_bytes(programs: list[Fleet]) -> None:
    content = bundle(1, family="busy")
    answers = at_once(
        programs, lambda program, _: program.call("POST", "/v1/releases", Role.PUBLISHER, content=content)
    )
    assert statuses(answers) == {201: 1, 200: AT_ONCE - 1}
    assert count(programs[0], Release, Release.family == "busy") == 1


def test_rollouts_under_the_same_key(programs: list[Fleet]) -> None:
    programs[0].publish(bundle(1))
    enrolled(programs[0])
    plan = {"name": "at once", "release": "motor/1", "groups": [{"percentage": 100}]}
    key = {"Idempotency-Key": "once"}

    def create(program: Fleet, number: int) -> Any:
        start = "?start=true" if number % 2 else ""
        return program.call("POST", f"/v1/rollouts{start}", Role.OPERATOR, json=plan, headers=key)

    answers = at_once(programs, create)
    assert statuses(answers) == {201: 1, 200: AT_ONCE - 1}
    assert count(programs[0], RolloutRecord) == 1


def test_tokens_and_claims_of_the_same_name(programs: list[Fleet]) -> None:
    def token(program: Fleet, _: int) -> str:
        grant = TokenGrant(name="the-same", role=Role.VIEWER)
        with program.database.write() as session:
            return create_token(
                SessionRows(session), grant, prefix=PREFIX, now=1.0, random_bytes=secrets.token_bytes
            )

    made = at_once(programs, token)
    assert [type(one) for one in made if not isinstance(one, str)] == [TokenChangeError] * (AT_ONCE - 1)
    assert count(programs[0], OperatorToken, OperatorToken.name == "the-same") == 1
    claims = at_once(programs, lambda program, _: make_claims(program.database, 20, name="the-same"))
    assert len({claim for batch in claims for claim in batch}) == 20 * AT_ONCE


def test_after_all_of_it_the_audit_log_has_no_fork(programs: list[Fleet]) -> None:
    with programs[0].database.read() as session:
        ids = list(session.scalars(select(AuditEntry.id).order_by(AuditEntry.id)))
    assert ids == list(range(1, len(ids) + 1))
