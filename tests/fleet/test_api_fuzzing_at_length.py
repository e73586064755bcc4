"""The same as `test_api_fuzzing`, as each caller by itself, on either database (a step of make prove).

It asks what `EXAMPLES` says and then ends: 60 operations as 11 callers are 13,200 requests for each database. That took four
minutes on SQLite and five on PostgreSQL on a machine with seven times the work that its two cores can do.
"""

from __future__ import annotations

import pytest
from api_fuzzing import ask, operations
from fleet_api_world import Fleet, fleet
from fleet_world import bundle
from test_api_fuzzing import everybody

__all__ = ["fleet"]  # the fixture

EXAMPLES = 20
"""Of each operation as each caller."""


@pytest.mark.long
def test_whatever_is_asked_by_each_of_them_is_answered_as_documented(fleet: Fleet) -> None:
    fleet.publish(bundle(1))
    found = operations(fleet.client.app)
    wrong = [
        line
        for name, token in everybody(fleet).items()
        for operation in found.values()
        for line in ask(fleet.client, operation, {name: token}, examples=EXAMPLES)
    ]
    assert not wrong, "\n".join(wrong)
