"""Kill -9 and power cuts at every write of the aggregator: no seen sum is uncounted, no step of a run is half done."""

from __future__ import annotations

from pathlib import Path

import pytest
from aggregator_crashes import COHORT, NOISE
from fault_laboratory.crash_states import record_crashes
from fault_laboratory.sqlite_contents import contents_digest
from ledger_world import FAMILY, accounts_at, play, poisson

from aggregator.rounds.run_store import RunStore
from protocol.names import RunId

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).with_name("aggregator_crashes.py")


def test_no_seen_sum_is_uncounted_whatever_write_the_ledger_dies_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crashes, half_open = record_crashes(tmp_path, PROGRAM, "ledger"), 0
    for state in crashes.states():
        seen = {int(word) for word in state.said("seen")}
        with state.on_disk() as folder:
            accounts = accounts_at(folder)
            held = {one.opened.id.number: one for one in accounts.rounds(FAMILY)}
            assert seen <= set(held), f"{state}: a sum was seen of which the ledger knows nothing"
            for number in seen:
                assert held[number].is_seen_by_server
                assert set(held[number].participants) >= set(COHORT[1:])
                assert held[number].cost.rho > 0
            half_open += any(one.is_open for one in held.values())
            # Life goes on: the next attempt is a new one, and the figure does not fall.
            before = accounts.figures(FAMILY)
            play(accounts, 9, COHORT, noise=NOISE, sampling=poisson())
            after = accounts.figures(FAMILY)
            assert (after.server > before.server, after.release > before.release) == (True, True)
            accounts.close()
    crashes.show(capsys, at_least=80)
    assert half_open > 5, "no crash hit an open round"


def test_a_step_of_a_run_is_whole_or_not_there_whatever_write_it_dies_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crashes = record_crashes(tmp_path, PROGRAM, "runs")
    steps = crashes.told("holds")
    for state in crashes.states(others_every=8):
        with state.on_disk() as folder:
            store = RunStore(folder / "runs.sqlite")
            holds = contents_digest(folder / "runs.sqlite")
            done = len(state.said("holds"))
            assert holds in steps[max(0, done - 1) : done + 1], str(state)
            for run in store.unfinished():
                if run.finished_rounds:
                    whole = bytes([run.finished_rounds]) * 5_000
                    assert store.artifact(RunId("run-1"), "parameters") == whole
            store.close()
    crashes.show(capsys, at_least=110)
