"""One device that stops answering holds up one round, not every one; and a round that dies early costs nobody anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import aggregator_world
import pytest
from aggregator_world import TRUSTED
from family_changes import changed
from rich.console import Console
from test_secure_runs import SECURE, SecureWorld

from aggregator import run_tables
from aggregator.api.run_view import run_view
from aggregator.privacy.ledger_entries import Outcome
from aggregator.rounds.journal import RunJournal
from aggregator.rounds.reports import CohortReport
from aggregator.rounds.runs import RefusedDevice, RunState
from aggregator.rounds.silence import FIRST_PAUSE_S, LONGEST_PAUSE_S, SilentDevices
from protocol.names import DeviceId
from protocol.questions import FIT
from protocol.sum_terms import SumStage

SILENT, OTHER = DeviceId("press-003"), DeviceId("press-000")
STAGES = [SumStage.ADVERTISE.value, SumStage.SHARE.value, FIT, SumStage.UNMASK.value]
HERE = {SILENT: "joined", OTHER: "joined"}


def stopped_at(stage: str, *devices: DeviceId) -> Callable[[str, DeviceId, bytes], bytes | None]:
    """From this stage on nothing is heard of the devices."""
    gone: set[DeviceId] = set()

    def spoil(kind: str, device: DeviceId, message: bytes) -> bytes | None:
        if kind == stage and device in devices:
            gone.add(device)
        return None if device in gone else message

    return spoil


def world_of(tmp_path: Path, count: int) -> SecureWorld:
    """The first `count` of four pumps; three make a quorum."""
    world = SecureWorld(tmp_path, SECURE)
    world.devices = world.fleet.devices = tuple(world.masked.devices)[-count:]
    world.session.present = frozenset(world.devices)
    return world


def charged(world: SecureWorld) -> list[int]:
    return [world.masked.devices[device].budget.spending().participations for device in world.devices]


def outcomes(world: SecureWorld) -> list[Outcome | None]:
    rounds = world.masked.accounts.rounds(aggregator_world.FAMILY)
    return [None if held.closed is None else held.closed.outcome for held in rounds]


@pytest.mark.parametrize("stage", STAGES)
def test_of_four_with_a_silent_one_three_go_on_and_it_holds_up_one_round_only(
    tmp_path: Path, stage: str
) -> None:
    world = world_of(tmp_path, 4)
    world.masked.spoil = stopped_at(stage, SILENT)
    run = world.run()
    assert run.state is RunState.COMPLETED, run.detail
    first = run.log[0]
    # Who has answered together is asked for the same sum again, until it is found out that this cannot be.
    assert [record.is_void for record in run.log if record.is_void] == [True] * (stage == SumStage.UNMASK)
    if stage == SumStage.UNMASK:
        assert SILENT in first.participants, "its masked input was there already"
        assert first.seconds < 1.0, "and three can unmask: nobody waits"
        assert [record.asked for record in run.log] == [4, 4, 3, 3, 3]
    else:
        assert (first.lost, first.stages) == ((SILENT,), {SILENT: stage})
        assert [record.asked for record in run.log] == [4, 3, 3, 3]


@pytest.mark.parametrize("stage", [SumStage.SHARE.value, FIT])
def test_of_three_groups_with_a_silent_one_all_go_on_and_later_rounds_wait_for_nobody(
    tmp_path: Path, stage: str
) -> None:
    world = SecureWorld(tmp_path, changed(SECURE, rounds__count=2), devices=12)
    world.masked.spoil = stopped_at(stage, SILENT)
    run = world.run()
    assert not any(record.is_void for record in run.log), run.detail
    assert [record.asked for record in run.log] == [12, 11, 11]
    assert [len(record.participants) for record in run.log] == [11, 11, 11]
    assert run.log[0].stages == {SILENT: stage}
    assert max(record.seconds for record in run.log[1:]) < 1.0


@pytest.mark.parametrize("stage", STAGES)
def test_three_with_a_silent_one_end_at_once_and_say_who_was_silent_and_where(
    tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_of(tmp_path, 3)
    world.masked.spoil = stopped_at(stage, SILENT)
    run = world.run()
    assert run.state is RunState.FAILED
    assert run.detail.startswith(
        "too few devices answer: 2 devices can be asked, the quorum is 3: press-003 "
    )
    assert f"press-003 did not answer {stage} and is left out until" in run.detail
    assert world.clock.now() - 1000.0 <= 4 * SECURE.rounds.join_settle_s, "nobody waits for the join timeout"
    # Before the masked inputs nothing has left anybody; with them something has, also from the one that was not heard.
    assert charged(world) == [int(stage in {FIT, SumStage.UNMASK})] * 3
    is_opened = stage == SumStage.UNMASK
    assert outcomes(world) == [Outcome.WITHHELD if is_opened else Outcome.VOID]
    (held,) = world.masked.accounts.rounds(aggregator_world.FAMILY)
    assert held.closed is not None
    assert held.closed.participants == (tuple(sorted(world.devices)) if is_opened else ())
    shown = Console(record=True, width=240)
    monkeypatch.setattr(run_tables, "_console", lambda: shown)
    run_tables.print_run(run_view(run))
    assert f"fit 1.1: press-003 did not answer {stage}" in shown.export_text()


def test_an_error_instead_of_a_masked_input_voids_no_third_round(tmp_path: Path) -> None:
    world = world_of(tmp_path, 3)
    side = world.masked.devices[SILENT].side
    assert side is not None

    def fail(*_: object) -> bytes:
        raise RuntimeError("out of order")

    side.mask = fail  # type: ignore[method-assign]  # a device that lies
    world.policy = changed(SECURE, rounds__attempts=9)
    run = world.run()
    assert run.state is RunState.FAILED
    assert "press-003 did not answer train.fit and is left out" in run.detail
    assert charged(world) == [2, 2, 0]


def test_the_memory_goes_from_run_to_run_and_over_a_kill_and_fades(tmp_path: Path) -> None:
    world = world_of(tmp_path, 4)
    world.masked.spoil = stopped_at(SumStage.SHARE.value, SILENT)
    assert world.run().state is RunState.COMPLETED
    world.reopen()
    world.session.present = frozenset(world.devices[1:])
    again = world.coordinator().advance(world.add_run("run-2").id)
    assert again.state is RunState.FAILED
    assert again.detail.startswith(
        "2 devices can be asked, the quorum is 3: press-003 did not answer query.share_keys"
    )
    known = RunJournal(world.store, TRUSTED, world.clock.pacing, 30.0).earlier_rounds(again)
    memory = SilentDevices(known)
    assert set(memory.left_out(HERE, world.clock.now())) == {SILENT}
    assert memory.left_out(HERE, world.clock.now() + FIRST_PAUSE_S + 10) == {}


def lost(*devices: DeviceId) -> CohortReport:
    return CohortReport(lost=devices, stages=dict.fromkeys(devices, FIT))


def test_who_joins_anew_after_a_first_silence_is_asked_at_once_and_after_a_second_is_not() -> None:
    memory = SilentDevices()
    memory.note(lost(SILENT), asked=3, at=0.0, joinings=HERE)
    assert set(memory.left_out(HERE, 1.0)) == {SILENT}
    anew = HERE | {SILENT: "joined again"}
    assert memory.left_out(anew, 1.0) == {}
    memory.note(lost(SILENT), asked=3, at=2.0, joinings=anew)
    assert set(memory.left_out(HERE | {SILENT: "a third time"}, 3.0)) == {SILENT}
    memory.note(CohortReport(participants=(SILENT,)), asked=3, at=4.0)
    assert memory.left_out(HERE, 5.0) == {}


def test_pauses_double_up_to_a_day_and_a_clock_that_was_ahead_keeps_nobody_out_for_longer() -> None:
    memory, now, pauses = SilentDevices(), 0.0, []
    for _ in range(12):
        memory.note(lost(SILENT), asked=3, at=now, joinings=HERE)
        pauses.append(memory.left_out(HERE, now)[SILENT].pause_s)
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert pauses[-1] == LONGEST_PAUSE_S
    ahead = SilentDevices()
    ahead.note(lost(SILENT), asked=3, at=1e9, joinings=HERE)
    assert ahead.left_out(HERE, 1000.0) == {}


def test_a_device_that_refuses_by_policy_before_anybody_paid_is_not_left_out() -> None:
    memory = SilentDevices()
    for _ in range(5):
        memory.note(
            CohortReport(
                refused=(RefusedDevice(device=SILENT, reason="refused: COHORT"),),
                stages={SILENT: SumStage.SHARE.value},
            ),
            asked=3,
            at=0.0,
            joinings=HERE,
        )
    assert memory.left_out(HERE, 0.0) == {}


def test_a_first_failure_by_name_leaves_nobody_out_because_its_neighbours_can_cause_it() -> None:
    memory = SilentDevices()
    failed = CohortReport(
        refused=(RefusedDevice(device=SILENT, reason="refused: ORDER"),), stages={SILENT: FIT}
    )
    memory.note(failed, asked=3, at=0.0, joinings=HERE)
    assert memory.left_out(HERE, 0.0) == {}
    memory.note(failed, asked=3, at=0.0, joinings=HERE)
    assert set(memory.left_out(HERE, 0.0)) == {SILENT}


def test_where_nobody_is_heard_nobody_was_silent_and_a_road_that_most_are_lost_on_is_forgiven_once() -> None:
    memory = SilentDevices()
    for _ in range(3):
        memory.note(lost(SILENT, OTHER), asked=2, at=0.0, joinings=HERE)
    assert memory.left_out(HERE, 0.0) == {}
    memory.note(lost(SILENT, OTHER), asked=3, at=0.0, joinings=HERE)
    assert memory.left_out(HERE, 0.0) == {}
    memory.note(lost(SILENT, OTHER), asked=3, at=0.0, joinings=HERE)
    assert set(memory.left_out(HERE, 0.0)) == {SILENT, OTHER}
