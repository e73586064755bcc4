"""The fleet's API under requests that its own document allows, and others, as everybody who can call: no failure, nothing undocumented."""

from __future__ import annotations

import pytest
from api_fuzzing import ask, operations
from fleet_api_world import Fleet, fleet
from fleet_world import bundle
from test_rights import callers

__all__ = ["fleet"]  # the fixture


def everybody(fleet: Fleet) -> dict[str, str | None]:
    return {**callers(fleet), "no token": None}


def asked(fleet: Fleet, examples: int) -> str:
    fleet.publish(bundle(1))
    who = everybody(fleet)
    found = operations(fleet.client.app)
    assert len(found) > 50
    return "\n".join(
        line for operation in found.values() for line in ask(fleet.client, operation, who, examples=examples)
    )


def test_whatever_is_asked_by_whomever_is_answered_as_documented(fleet: Fleet) -> None:
    wrong = asked(fleet, examples=2 if fleet.database.engine.dialect.name == "sqlite" else 1)
    assert not wrong, wrong


@pytest.mark.long
def test_whatever_is_asked_by_each_of_them_is_answered_as_documented(fleet: Fleet) -> None:
    fleet.publish(bundle(1))
    found = operations(fleet.client.app)
    wrong = [
        line
        for name, token in everybody(fleet).items()
        for operation in found.values()
        for line in ask(fleet.client, operation, {name: token}, examples=20)
    ]
    assert not wrong, "\n".join(wrong)
