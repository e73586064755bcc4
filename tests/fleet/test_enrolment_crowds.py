"""Many who enrol at once, at one fleet and at many that share a database: each device gets in once, each claim lets one in."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from fleet_api_world import Fleet, fleet
from fleet_world import NOW, TENANT, Machine, make_claims
from sqlalchemy import func, select

from fleet.device_ca import DeviceCa
from fleet.enrolment import Enrolments
from fleet.migrations.upgrade import open_storage
from fleet.storage.device_tables import Device
from protocol.enrolment import EnrolmentQuestion
from service.errors import UnauthenticatedError

__all__ = ["fleet"]  # the fixtures


def test_of_many_who_show_one_claim_at_once_one_gets_in(fleet: Fleet) -> None:
    claim = fleet.claim()
    machines = [Machine(name=f"crowd-{n}") for n in range(12)]
    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(lambda one: fleet.enrol(one, claim).status_code, machines))
    assert sorted(statuses) == [201] + [401] * 11


def test_many_who_enrol_at_once_all_get_in_and_a_device_that_asks_twelve_times_at_once_is_one(
    fleet: Fleet,
) -> None:
    claims = make_claims(fleet.database, 16, now=fleet.now())
    machines = [Machine(name=f"rush-{n}") for n in range(15)]
    eager, twelve = Machine(name="eager"), claims.pop()
    calls: list[tuple[Machine, str]] = [*zip(machines, claims, strict=True), *[(eager, twelve)] * 12]
    with ThreadPoolExecutor(27) as pool:
        answers = list(
            pool.map(
                lambda call: fleet.call("POST", "/v1/enrolments", call[1], json=call[0].enrolment()), calls
            )
        )  # fmt: skip - one call
    statuses = [answer.status_code for answer in answers[:15]]
    assert statuses == [201] * 15
    assert {answer.status_code for answer in answers[15:]} == {201}
    assert fleet.enrol(eager, twelve).json()["status"] == "enrolled"


def test_fifteen_processes_on_one_database_let_each_device_in_once_and_one_of_those_with_one_claim(
    database_url: str, tmp_path: Path
) -> None:
    """Each with connections and a lock of its own, as the fleet and its commands have them."""
    databases = [open_storage(database_url) for _ in range(15)]
    authority = DeviceCa(tmp_path, tenant=TENANT, random_bytes=secrets.token_bytes)
    authority.ensure(NOW)
    fleets = [
        Enrolments(one, authority, tenant=TENANT, reserved=(), certificate_lifetime_s=86400.0)
        for one in databases
    ]
    claims = make_claims(databases[0], 16)
    contested = claims.pop()

    def ask(number: int, claim: str, name: str) -> str:
        question = msgspec.convert(Machine(name=name).enrolment(), EnrolmentQuestion)
        try:
            return fleets[number].enrol(question, claim, NOW).status
        except UnauthenticatedError as error:
            return str(error)

    with ThreadPoolExecutor(15) as pool:
        all_in = list(pool.map(ask, range(15), claims, [f"each-{n}" for n in range(15)]))
        one_in = list(pool.map(ask, range(15), [contested] * 15, [f"one-{n}" for n in range(15)]))
    assert all_in == ["enrolled"] * 15
    assert one_in.count("enrolled") == 1
    assert sum("was used by another device" in words for words in one_in) == 14
    with databases[0].read() as session:
        assert session.scalar(select(func.count()).select_from(Device)) == 16
    for one in databases:
        one.close()
