"""Whole runs over devices whose owners have changed nothing: what a day's windows are good for, and what happens beyond."""

from __future__ import annotations

from pathlib import Path

from family_changes import changed
from test_secure_runs import SECURE, SecureWorld

from aggregator.rounds.runs import RunState
from edge_agent.privacy.account import DeviceAccount
from edge_agent.privacy.limits import OwnerLimits


def world_of_defaults(directory: Path, rounds: int) -> SecureWorld:
    world = SecureWorld(directory, changed(SECURE, rounds__count=rounds))
    for name, device in world.masked.devices.items():
        device.budget.close()
        device.budget = DeviceAccount(directory / f"{name}.owned.sqlite", OwnerLimits())
        world.masked.start(name)
    return world


def test_a_run_of_more_rounds_than_a_snapshot_gives_ends_with_those_that_it_got(tmp_path: Path) -> None:
    world = world_of_defaults(tmp_path, rounds=12)
    run = world.run()
    assert run.state is RunState.COMPLETED, run.detail
    assert run.finished_rounds == run.rounds == 10
    (void,) = [entry for entry in run.log if entry.is_void]
    assert "no more rounds of training" in void.note
    assert [entry.kind for entry in run.log if not entry.is_void] == ["fit"] * 10 + ["assess"]


def test_a_second_run_on_the_same_day_fails_and_says_when_to_come_back(tmp_path: Path) -> None:
    world = world_of_defaults(tmp_path, rounds=2)
    first = world.run()
    assert first.state is RunState.COMPLETED, first.detail
    spent = {name: device.budget.spending().participations for name, device in world.masked.devices.items()}
    second = world.coordinator().advance(world.add_run("run-2").id)
    assert second.state is RunState.FAILED
    assert (
        "SNAPSHOT is: answered already from the data it has; it takes a new snapshot of them once a day"
        in second.detail
    )
    for name, device in world.masked.devices.items():
        assert device.budget.spending().participations == spent[name] + 2, "its rounds, and no assessment"
