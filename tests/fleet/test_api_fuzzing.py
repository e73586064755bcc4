"""The fleet's API under requests that its own document allows, and others, as everybody who can call: no failure, nothing undocumented."""

from __future__ import annotations

import pytest
from api_fuzzing import ask, operations, wrong_examples
from databases import Databases, SqliteDatabases
from fleet_api_world import Fleet, fleet
from fleet_world import bundle
from test_rights import callers

__all__ = ["fleet"]  # the fixture


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Databases:
    """SQLite alone, in a few seconds; `test_api_fuzzing_at_length` asks both kinds, and asks more."""
    return SqliteDatabases(tmp_path_factory.mktemp("databases"))


def everybody(fleet: Fleet) -> dict[str, str | None]:
    return {**callers(fleet), "no token": None}


def test_whatever_is_asked_by_whomever_is_answered_as_documented(fleet: Fleet) -> None:
    fleet.publish(bundle(1))
    found, who = operations(fleet.client.app), everybody(fleet)
    assert len(found) > 50
    wrong = [line for operation in found.values() for line in ask(fleet.client, operation, who, examples=2)]
    assert not wrong, "\n".join(wrong)


def test_every_example_is_what_it_is_an_example_of(fleet: Fleet) -> None:
    assert wrong_examples(fleet.client.app) == []
