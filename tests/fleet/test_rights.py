"""Every call of the fleet, asked by everybody: who gets in is what docs/people.md says, and a call without a line there fails."""

from __future__ import annotations

import pytest
from databases import Databases, SqliteDatabases
from fleet_api_world import Fleet, fleet
from fleet_world import Machine, enrol_directly, operator_token
from rights_table import Call, address, routes, written_rights
from sqlalchemy import update

from fleet.rollouts.states import Verb
from fleet.storage.device_tables import Device, DeviceState
from service.roles import Role

__all__ = ["fleet"]  # the fixture


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Databases:
    """SQLite alone: who gets in does not hang on the database."""
    return SqliteDatabases(tmp_path_factory.mktemp("databases"))


RIGHTS = written_rights("fleet")


def callers(fleet: Fleet) -> dict[str, str]:
    """Everybody who might call, with what they show."""
    inside, outside = Machine(name="inside"), Machine(name="outside")
    enrol_directly(fleet.database, inside, outside)
    with fleet.database.write() as session:
        session.execute(update(Device).where(Device.id == "outside").values(state=DeviceState.REVOKED))
        programs = {
            f"{role} program": operator_token(session, f"p-{role}", role, is_program=True)
            for role in (Role.OPERATOR, Role.ADMIN)
        }
    return (
        {str(role): fleet.tokens[role] for role in Role}
        | programs
        | {
            "device": inside.token(fleet.now()),
            "revoked device": outside.token(fleet.now()),
            "claim": fleet.claim(),
            "nobody": "fo_" + "A" * 43,
        }
    )


def may(who: frozenset[str], caller: str) -> bool:
    """Whether the written table lets a caller in."""
    if "everybody" in who:
        return True
    name, _, is_program = caller.partition(" ")
    if caller == "revoked device":
        return False
    in_person = any(one.endswith(" in person") for one in who)
    if in_person and is_program:
        return False
    return name in {one.removesuffix(" in person") for one in who}


def test_every_call_has_a_line_and_every_line_a_call(fleet: Fleet) -> None:
    assert set(routes(fleet.client.app, verbs=list(Verb))) == set(RIGHTS)
    assert len(RIGHTS) > 60


def test_who_gets_in_is_what_is_written(fleet: Fleet) -> None:
    wrong: list[tuple[Call, str, int]] = []
    everybody = callers(fleet)
    for (method, path), who in RIGHTS.items():
        for caller, token in everybody.items():
            status = fleet.call(method, address(path, family="motor"), token).status_code
            if (status not in {401, 403}) is not may(who, caller) or status >= 500:
                wrong.append(((method, path), caller, status))
        without = fleet.client.request(method, address(path)).status_code
        if (without == 401) is ("everybody" in who):
            wrong.append(((method, path), "no token", without))
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("who", ["admin in person", "operator, admin"])
def test_the_reading_of_the_table_can_fail(who: str) -> None:
    table = frozenset(who.split(", "))
    assert may(table, "admin")
    assert may(table, "admin program") is (who != "admin in person")
    assert not may(table, "viewer")
    assert not may(table, "revoked device")
