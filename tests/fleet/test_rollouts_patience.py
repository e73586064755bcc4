"""When exactly a rollout loses patience: each time limit on both sides."""

from __future__ import annotations

import pytest
from rollout_decisions_world import LIMITS, S, World, make_rollout, moves, started

from fleet.rollouts.pacing import Timeouts
from fleet.rollouts.plans import MAXIMUM_GROUPS, SuccessCriteria
from fleet.rollouts.progress import Figures, Running
from fleet.rollouts.returning import MAXIMUM_RETURNS, SETTLE_S
from fleet.rollouts.states import GroupState, RolloutState, Verb
from fleet.rollouts.steps import MoveExecution, Withdraw
from protocol.messages.kinds import InstallStatus
from protocol.names import DeviceId


def test_a_silent_installation_times_out_and_a_late_success_still_counts() -> None:
    world = World(make_rollout(2, groups=[{"percentage": 100}], success={"threshold_pct": 50}))
    world.say(Verb.START)
    first, second = sorted(world.rollout.executions)
    world.report(first, InstallStatus.IN_PROGRESS)
    world.tick(1)
    commands = world.tick(601)
    assert [(c.device, c.state) for c in commands if isinstance(c, MoveExecution)] == [
        (first, InstallStatus.TIMED_OUT)
    ]
    world.report(second, InstallStatus.SUCCEEDED)
    world.tick()
    assert world.rollout.state is RolloutState.COMPLETED
    world.report(first, InstallStatus.SUCCEEDED)
    world.tick()
    assert {e.state for e in world.rollout.executions.values()} == {InstallStatus.SUCCEEDED}


def test_the_patience_that_nobody_set_is_a_day_an_hour_ten_minutes_and_a_quarter_of_an_hour() -> None:
    assert (SETTLE_S, MAXIMUM_RETURNS, MAXIMUM_GROUPS) == (5.0, 3, 20)
    assert Timeouts() == Timeouts(
        queued_s=86_400.0, in_progress_s=3_600.0, step_s=600.0, health_s=900.0, rollback_s=600.0
    )
    assert SuccessCriteria() == SuccessCriteria(
        threshold_pct=95.0, min_devices=1, min_reports=2, min_windows=10, confidence=0.95
    )
    plan = make_rollout().plan
    assert [plan.retries(state) for state in (S.FAILED, S.TIMED_OUT, S.REJECTED)] == [0, 0, 0]
    assert (plan.require_approval, plan.force, plan.abort, plan.rollback_to) == (False, False, (), None)


def test_a_device_that_never_begins_times_out_with_that_time_and_not_before() -> None:
    world, (first, _) = started(2)
    world.now = 0.0
    assert (first, S.TIMED_OUT, "not begun within 100 s") not in moves(world.tick(99.5))
    assert (first, S.TIMED_OUT, "not begun within 100 s") in moves(world.tick(0.5))


def test_a_device_that_has_put_a_release_off_is_neutral_for_as_long_as_anything_is_heard_of_it() -> None:
    world, (first, second) = started(2)
    world.report(second, S.SUCCEEDED)
    world.report(first, S.DEFERRED)
    world.tick()
    assert world.rollout.state is RolloutState.COMPLETED, "the other device was enough"
    world, (first,) = started(1)
    world.report(first, S.DEFERRED)
    began = world.now
    world.tick()
    for _ in range(5):
        at = world.now + 90
        heard = Running(release="pump/1", returnable="pump/1", at=at)
        world.know({DeviceId(first): heard})
        assert world.tick(90) == []
    assert world.now - began == 450
    assert world.tick(99.5) == []
    assert (first, S.TIMED_OUT, "put off, and then silent for 100 s") in moves(world.tick(0.5))


def test_an_installation_times_out_as_a_whole_and_by_its_silence() -> None:
    world, (first, second) = started(2)
    world.report(first, S.IN_PROGRESS)
    world.tick()
    assert moves(world.tick(29.5)) == []
    assert moves(world.tick(0.5)) == [(first, S.TIMED_OUT, "no progress for 30 s")]
    world, (first, second) = started(2)
    for _ in range(6):
        world.report(first, S.IN_PROGRESS)
        world.tick(9.9)
    world.report(first, S.IN_PROGRESS)
    assert moves(world.tick(10)) == []
    assert moves(world.tick(0.5)) == [(first, S.TIMED_OUT, "still installing after 60 s")]
    assert world.rollout.executions[DeviceId(second)].state is not S.TIMED_OUT


def test_a_group_soaks_for_its_time_and_waits_for_health_so_long_after_it() -> None:
    limits = [{"metric": "drift_score", "value": 1.0}]
    soak = [{"percentage": 100, "soak_s": 10}]
    well = Figures(reports=5, windows=50, windows_over=0, inference_p99_us=10.0, drift_score=0.1)
    world, devices = started(2, groups=soak, limits=limits)
    for device in devices:
        world.report(device, S.SUCCEEDED)
    world.tick()
    assert world.rollout.groups[0].state is GroupState.SOAKING
    world.tick(29.5)
    assert world.rollout.groups[0].state is GroupState.SOAKING, (
        "20 s after the soak: still waiting for health"
    )
    world.tick(0.5)
    assert world.rollout.state is RolloutState.ROLLING_BACK
    assert world.rollout.groups[0].reason.startswith(
        "20 s after the soak, 2 of 2 devices have not shown enough"
    )
    world, devices = started(2, groups=soak, limits=limits)
    for device in devices:
        world.report(device, S.SUCCEEDED)
    for device in devices:
        world.show(device, well)
    world.tick()
    assert world.tick(9.5) == []
    world.tick(0.5)
    assert world.rollout.state is RolloutState.COMPLETED


@pytest.mark.parametrize("limits", [[], [{"metric": "anomaly_rate", "value": 0.5}]], ids=["none", "limits"])
@pytest.mark.parametrize("is_heard", [False, True])
def test_a_group_that_is_switched_off_after_its_commit_is_no_evidence_and_withdraws_nothing(
    limits: list[dict[str, object]], is_heard: bool
) -> None:
    canary = [{"percentage": 50, "soak_s": 10}, {"percentage": 100}]
    world = World(make_rollout(4, groups=canary, timeout=LIMITS, limits=limits))
    world.say(Verb.START)
    first = [e.device for e in world.rollout.executions.values() if e.is_given]
    for device in first:
        world.report(device, S.SUCCEEDED)
    world.tick(1)
    at = world.now + 1 if is_heard else 0.0
    off = Running(release="pump/2", returnable="pump/2", at=at, is_online=False)
    world.know(dict.fromkeys(first, off))
    world.tick(10)
    world.tick(world.rollout.plan.timeout.health_s)
    assert world.rollout.state is RolloutState.PAUSED
    assert not any(isinstance(command, Withdraw) for command in world.log)


def test_one_that_is_silent_among_others_that_speak_still_counts_as_harm() -> None:
    canary = [{"percentage": 50, "soak_s": 10}, {"percentage": 100}]
    limits = [{"metric": "anomaly_rate", "value": 0.5}]
    world = World(make_rollout(4, groups=canary, timeout=LIMITS, limits=limits))
    world.say(Verb.START)
    first, second = (e.device for e in world.rollout.executions.values() if e.is_given)
    for device in (first, second):
        world.report(device, S.SUCCEEDED)
    world.tick(1)
    world.show(first, Figures(reports=5, windows=50, windows_over=0, inference_p99_us=10.0, drift_score=0.1))
    world.know({second: Running(release="pump/2", returnable="pump/2", at=0.0, is_online=False)})
    world.tick(10)
    world.tick(world.rollout.plan.timeout.health_s)
    assert any(isinstance(command, Withdraw) for command in world.log)
