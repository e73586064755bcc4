"""Kill -9 and power cuts at every write of the fleet: what it acknowledged is stored, what it does is done whole or not."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_laboratory.crash_states import Crashes, record_crashes
from fault_laboratory.sqlite_contents import contents_digest, opened
from fleet_crashes import PRESS

from fleet.migrations.upgrade import open_storage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def crashes(tmp_path_factory: pytest.TempPathFactory) -> Crashes:
    return record_crashes(tmp_path_factory.mktemp("fleet"), Path(__file__).with_name("fleet_crashes.py"))


@pytest.mark.parametrize("others_every", [40, pytest.param(1, marks=pytest.mark.long)])
def test_a_transaction_is_whole_or_not_there_whatever_write_the_fleet_dies_at(
    crashes: Crashes, capsys: pytest.CaptureFixture[str], others_every: int
) -> None:
    held, count = crashes.told("holds"), 0
    for state in crashes.states(others_every=others_every):
        if not state.said("migrated"):
            continue
        count += 1
        with state.on_disk() as folder:
            path, done = folder / "fleet.sqlite", len(state.said("holds"))
            assert contents_digest(path) in held[max(0, done - 1) : done + 1], str(state)
            with opened(path) as db:
                told = [
                    row[0] for row in db.execute("SELECT sequence FROM anomalies WHERE device = ?", (PRESS,))
                ]
        assert len(set(told)) == len(told), str(state)
        acked = max(map(int, state.said("acked")), default=0)
        missing = {number for number in range(1, acked + 1) if number % 5 in {2, 4}} - set(told)
        assert not missing, f"{state}: acknowledged and not stored"
    crashes.show(capsys, at_least=730)
    assert count > 200


@pytest.mark.parametrize("every", [50, pytest.param(3, marks=pytest.mark.long)])
def test_a_migration_that_died_at_any_write_is_finished_by_the_next_start(
    crashes: Crashes, every: int
) -> None:
    whole, number = crashes.told("holds")[0], 0
    for state in crashes.states(others_every=every):
        if state.said("migrated"):
            break
        number += 1
        if number % every > 1:
            continue
        with state.on_disk() as folder:
            path = folder / "fleet.sqlite"
            open_storage(f"sqlite:///{path}").close()
            assert contents_digest(path) == whole, str(state)
