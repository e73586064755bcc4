"""The database of a fleet of commit 7cc0d60, before identities: what its devices had they keep, and its claims are over.

`golden/fleet_of_7cc0d60.json` holds every row of one, written by that commit: four devices enrolled by one claim, one of which
said in a birth that it is of another family, with labels no database should hold; one is revoked. And what an agent of that
commit sends to enrol.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from databases import Databases
from fleet_api_world import Fleet, fleet, is_problem
from fleet_world import Machine
from sqlalchemy import select

from fleet.auth.claim_tokens import check_open, find_claim
from fleet.migrations.upgrade import _config, open_storage
from fleet.storage.access_tables import ClaimToken
from fleet.storage.base import Database, open_database
from fleet.storage.device_tables import Device, DeviceState
from protocol.identity import load_private_key, load_public_key, verify_token
from service.errors import UnauthenticatedError

__all__ = ["fleet"]  # the fixture

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "fleet_of_7cc0d60.json").read_text())


@pytest.fixture
def upgraded(databases: Databases) -> Iterator[Database]:
    with databases.fresh(is_migrated=False) as url:
        former = open_database(url)
        with former.write() as session:
            command.upgrade(_config(session), GOLDEN["revision"])
            metadata = sa.MetaData()
            metadata.reflect(session.connection())
            for table in metadata.sorted_tables:
                rows = GOLDEN["tables"].get(table.name, [])
                if rows:
                    session.execute(sa.insert(table), rows)
        former.close()
        database = open_storage(url)
        yield database
        database.close()


def devices(database: Database) -> dict[str, Device]:
    with database.read() as session:
        return {device.id: device for device in session.scalars(select(Device))}


def test_a_device_is_what_it_was_and_its_site_is_no_label_any_more(upgraded: Database) -> None:
    found = devices(upgraded)
    assert {name: (row.family, row.site, row.labels) for name, row in found.items()} == {
        "press-1": ("motor", "hall-1", {"line": "3"}),
        "press-2": ("motor", "hall-2", {}),
        "odd-3": ("hospital", "", {"line": "9"}),
        "gone-4": ("motor", "hall-1", {"line": "3"}),
    }
    assert {name: row.state for name, row in found.items()} == {
        **dict.fromkeys(("press-1", "press-2", "odd-3"), DeviceState.ENROLLED),
        "gone-4": DeviceState.REVOKED,
    }
    assert found["press-2"].reported_labels == {"site": "hall-2"}
    assert all(row.certificate_serial is None for row in found.values())


def test_a_device_is_known_by_the_key_that_it_has(upgraded: Database) -> None:
    for name, pem in GOLDEN["keys"].items():
        machine = Machine(name=name, key=load_private_key(pem.encode()))
        row = devices(upgraded)[name]
        assert (
            verify_token(machine.token(0.0), load_public_key(row.public_key.encode()), "fleet", 0.0) == name
        )


def test_claims_that_let_in_any_device_as_anything_are_over_and_say_so(upgraded: Database) -> None:
    with upgraded.read() as session:
        assert len(session.scalars(select(ClaimToken)).all()) == 2
        for token in GOLDEN["claims"]:
            with pytest.raises(UnauthenticatedError, match="was revoked; make another"):
                check_open(find_claim(session, token), 0.0)


def test_an_agent_of_before_is_told_in_one_sentence_what_to_do_and_its_claim_is_not_used(
    fleet: Fleet,
) -> None:
    claim = fleet.claim()
    answer = fleet.call("POST", "/v1/enrolments", claim, json=GOLDEN["enrolment"])
    is_problem(answer, 400, "install the agent of this fleet's version", "nothing is lost")
    said = answer.json()["detail"]
    assert len(said) <= 300, "that agent shows no more of it"
    assert "\n" not in said
    assert fleet.enrol(Machine(name="press-9"), claim).status_code == 201
