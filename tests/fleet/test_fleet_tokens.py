"""Tokens of the fleet: claims, which let devices in (how long, how many, what a file of them may hold), and operators' own."""

from __future__ import annotations

import secrets

from fleet_world import NOW, operator_token
from sqlalchemy import select

from fleet.auth.operator_tokens import PREFIX, SessionRows, open_tokens
from fleet.storage.access_tables import AuditEntry, OperatorToken
from fleet.storage.base import Database
from service.roles import Caller, Role
from service.tokens import rotate_token


def test_a_token_is_found_by_its_new_secret_and_by_the_old_one_and_lies_there_as_neither(
    database: Database,
) -> None:
    with database.write() as session:
        old = operator_token(session, "agg", Role.PUBLISHER, families=("pump",))
        new = rotate_token(
            SessionRows(session), "agg", prefix=PREFIX, now=NOW, random_bytes=secrets.token_bytes
        )
    holders = open_tokens(database, lambda: NOW)
    expected = Caller(name="agg", role=Role.PUBLISHER, is_program=True, families=frozenset({"pump"}))
    assert holders.find_caller(old) == holders.find_caller(new) == expected
    with database.read() as session:
        row = session.get_one(OperatorToken, "agg")
        assert not [value for value in vars(row).values() if str(value) in {old, new}]
        lines = [(line.action, line.subject) for line in session.scalars(select(AuditEntry))]
    assert lines == [("token_created", "agg"), ("token_rotated", "agg")]
