"""What a rollout decides: whom it gives the release, when a group has passed, when it stops, and what it says it waits for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollout_decisions_world import S, World, make_rollout, started

from fleet.rollouts.evidence import explain
from fleet.rollouts.plans import GroupPlan
from fleet.rollouts.states import GroupState, RolloutState, Verb
from fleet.rollouts.steps import GiveRelease, MoveGroup, MoveRollout
from fleet.rollouts.targets import Meant, assign_groups
from protocol.messages.kinds import InstallStatus
from protocol.names import DeviceId


@given(devices=st.integers(0, 60), salt=st.text(max_size=5), first=st.floats(0.1, 60))
def test_groups_share_out_every_device_once_and_always_the_same_way(
    devices: int, salt: str, first: float
) -> None:
    names = [DeviceId(f"d{number}") for number in range(devices)]
    plan = [GroupPlan(percentage=share) for share in (first, 75.0, 100.0)]
    groups = assign_groups(salt, Meant.alike(names), plan)
    assert sorted(device for group in groups for device in group) == sorted(names)
    assert groups == assign_groups(salt, Meant.alike(names[::-1]), plan)
    assert not devices or len(groups[0]) >= 1
    assert len(groups[0]) <= devices * first / 100 + 1


def test_another_rollout_draws_another_canary() -> None:
    names = [DeviceId(f"d{number}") for number in range(50)]
    plan = [GroupPlan(percentage=2), GroupPlan(percentage=100)]
    canaries = {assign_groups(f"ro-{number}", Meant.alike(names), plan)[0] for number in range(20)}
    assert len(canaries) > 10


@pytest.mark.parametrize(
    ("action", "state"),
    [
        ("rollback", RolloutState.ROLLING_BACK),
        ("pause", RolloutState.PAUSED),
        ("cancel", RolloutState.CANCELED),
    ],
)
def test_an_abort_rule_acts_before_the_group_is_judged(action: str, state: RolloutState) -> None:
    world = World(
        make_rollout(
            20,
            groups=[{"percentage": 50}, {"percentage": 100}],
            abort=[{"failure_type": "REJECTED", "min_executed": 2, "threshold_pct": 50, "action": action}],
            success={"threshold_pct": 60},
        )
    )
    world.say(Verb.START)
    first, second = [e.device for e in world.rollout.of_group(0)][:2]
    world.report(first, InstallStatus.REJECTED)
    world.tick()
    world.report(second, InstallStatus.SUCCEEDED)
    world.tick()
    assert world.rollout.state is state


def test_a_resumed_rollout_is_paused_again_only_by_another_failure() -> None:
    world = World(
        make_rollout(
            20,
            groups=[{"percentage": 50}, {"percentage": 100}],
            abort=[{"threshold_pct": 10, "action": "pause"}],
            success={"threshold_pct": 60},
        )
    )
    world.say(Verb.START)
    first, second = [e.device for e in world.rollout.of_group(0)][:2]
    world.report(first, InstallStatus.REJECTED)
    world.tick(1)
    assert world.rollout.state is RolloutState.PAUSED
    world.now += 1
    world.say(Verb.RESUME)
    world.tick(1)
    assert world.rollout.state is RolloutState.RUNNING
    world.report(second, InstallStatus.REJECTED)
    world.tick(1)
    assert world.rollout.state is RolloutState.PAUSED


def test_a_device_that_failed_and_was_shut_out_is_not_tried_again() -> None:
    plan = {"groups": [{"percentage": 100}], "retry": {"FAILED": 1}, "success": {"threshold_pct": 50}}
    world = World(make_rollout(2, **plan))
    world.say(Verb.START)
    first, _ = sorted(world.rollout.executions)
    world.report(first, InstallStatus.FAILED)
    world.revoke(first)
    world.tick()
    assert world.rollout.executions[first].state is InstallStatus.FAILED
    assert world.desired[first][1] == 1, "it was given the release once more"


def test_a_deferred_device_does_not_hold_up_the_others() -> None:
    world = World(make_rollout(4, groups=[{"percentage": 100}], retry={"FAILED": 1}))
    world.say(Verb.START)
    devices = sorted(world.rollout.executions)
    world.report(devices[0], InstallStatus.DEFERRED)
    for device in devices[1:]:
        world.report(device, InstallStatus.SUCCEEDED)
    world.tick()
    assert world.rollout.state is RolloutState.COMPLETED


def test_empty_groups_of_a_tiny_fleet_pass_at_once() -> None:
    world = World(make_rollout(1, groups=[{"percentage": 5}, {"percentage": 50}, {"percentage": 100}]))
    world.say(Verb.START)
    world.report("d0", InstallStatus.SUCCEEDED)
    commands = world.tick()
    assert [c.number for c in commands if isinstance(c, MoveGroup) and c.state is GroupState.PASSED] == [
        0,
        1,
        2,
    ]
    assert isinstance(commands[-1], MoveRollout)
    assert world.rollout.state is RolloutState.COMPLETED


def test_a_failure_is_tried_again_as_often_as_the_plan_says_and_keeps_what_ran_before() -> None:
    world, (first, second) = started(2, retry={"FAILED": 2}, success={"threshold_pct": 50})
    for attempt in (1, 2, 3):
        execution = world.rollout.executions[DeviceId(first)]
        assert (execution.attempt, execution.previous, execution.state) == (attempt, "pump/1", S.QUEUED)
        world.report(first, S.FAILED)
        world.tick(1)
    assert world.rollout.executions[DeviceId(first)].state is S.FAILED
    assert world.rollout.executions[DeviceId(first)].attempt == 3
    assert world.rollout.executions[DeviceId(second)].attempt == 1


def test_the_next_group_begins_only_when_the_one_before_has_passed() -> None:
    world, devices = started(8, groups=[{"percentage": 25}, {"percentage": 50}, {"percentage": 100}])
    given = [sum(e.is_given for e in world.rollout.executions.values())]
    while world.rollout.state is RolloutState.RUNNING:
        for execution in world.rollout.executions.values():
            if execution.is_given:
                world.report(execution.device, S.SUCCEEDED)
        world.tick(1)
        given.append(sum(e.is_given for e in world.rollout.executions.values()))
    assert given == [2, 4, 8, 8]
    assert sorted(c.device for c in world.log if isinstance(c, GiveRelease)) == devices


def test_a_person_is_told_what_a_rollout_waits_for() -> None:
    world, (first, second) = started(2, groups=[{"percentage": 100, "soak_s": 10}])

    def waits_for(now: float | None = None) -> str:
        return explain(world.rollout, world.observations, world.now if now is None else now)

    assert waits_for() == "0 of 2 devices needed run the release"
    for state, words in (
        (RolloutState.WAITING_FOR_APPROVAL, "somebody other than its creator to approve it"),
        (RolloutState.READY, "a person to start it"),
    ):
        assert explain(replace(world.rollout, state=state), world.observations, world.now) == words
    world.report(first, S.SUCCEEDED)
    world.report(second, S.SUCCEEDED)
    world.tick(1)
    assert waits_for() == "10 s more of its soak; no limit is set"
    assert waits_for(world.now + 10) == "no limit is set"
    assert waits_for(world.now + 9.4) == "1 s more of its soak; no limit is set"
    world.say(Verb.PAUSE)
    assert waits_for() == "a person to resume, cancel or roll it back"
    world.say(Verb.ROLLBACK)
    assert waits_for() == "2 devices have not confirmed that they are back"
    world.report(first, S.SUCCEEDED)
    world.tick(1)
    assert waits_for() == "1 devices have not confirmed that they are back"
    world.report(second, S.SUCCEEDED)
    world.tick(1)
    assert waits_for() == ""
