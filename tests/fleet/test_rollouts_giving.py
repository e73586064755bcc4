"""Whom a rollout tells to run its release, and when: slices, ramps, quarantine, retries, devices that join later."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollout_decisions_world import LIMITS, S, World, make_rollout, moves, started

from fleet.errors import ConflictError
from fleet.rollouts.pacing import ExponentialRate, Gift, Quarantine, Rate, held_until, recent_gifts, slice_now
from fleet.rollouts.plans import GroupPlan
from fleet.rollouts.progress import Running
from fleet.rollouts.states import GroupState, RolloutState, Verb
from fleet.rollouts.steps import GiveBack, GiveRelease, Hold, Join
from fleet.rollouts.targets import Meant, assign_groups, group_of_joiner
from protocol.names import DeviceId

KNOWN = Running(release="pump/1", returnable="pump/1", at=0.0)


def told(world: World) -> int:
    return sum(e.is_given for e in world.rollout.executions.values())


def run_until(world: World, end: float) -> list[tuple[float, int]]:
    """Let time pass as an engine does: from one due time to the next. When how many devices were told."""
    gifts = []
    while True:
        given = sum(isinstance(command, GiveRelease) for command in world.tick())
        if given:
            gifts.append((world.now, given))
        due_at = world.rollout.index.due_at
        if due_at is None or due_at > end:
            return gifts
        assert due_at > world.now, "what is due now was not done"
        world.now = due_at


def test_a_group_is_told_in_slices_and_never_more_in_any_minute_than_its_rate() -> None:
    world, _ = started(400, rate={"maximum_per_minute": 90}, timeout={"queued_s": 10**6})
    gifts = [(0.0, told(world)), *run_until(world, 400.0)]
    assert sum(number for _, number in gifts) == 400
    for at, _ in gifts:
        assert sum(number for other, number in gifts if at - 60 < other <= at) <= 90
    assert gifts[-1][0] < 270, "and not much slower than that"


def test_a_restart_is_no_licence_to_tell_more() -> None:
    world, _ = started(400, rate={"maximum_per_minute": 60}, timeout={"queued_s": 10**6})
    for _ in range(120):
        world.rollout = replace(
            world.rollout
        ).counted()  # what was told in the last minute is all that is carried over
        world.tick(0.5)
    assert told(world) <= 61


def test_a_rate_grows_with_what_has_succeeded() -> None:
    ramp = {"base_per_minute": 4, "increment_factor": 2, "on_succeeded": 4}
    world, devices = started(
        64, rate={"exponential": ramp, "maximum_per_minute": 20}, timeout={"queued_s": 10**6}
    )
    per_minute = []
    for minute in range(1, 5):
        before = told(world)
        run_until(world, minute * 60.0 - 0.001)
        per_minute.append(told(world) - before + (1 if minute == 1 else 0))
        for execution in world.rollout.executions.values():
            if execution.is_given:
                world.report(execution.device, S.SUCCEEDED)
        world.now = minute * 60.0
    assert per_minute == sorted(per_minute)
    assert (per_minute[0], per_minute[-1]) == (4, 20)
    assert devices


@given(
    maximum=st.integers(1, 500),
    succeeded=st.integers(0, 2_000_000),
    factor=st.sampled_from([1.1, 2.0, 10.0]),
    moments=st.lists(st.floats(0.0, 20.0), max_size=60),
)
def test_no_rate_is_ever_exceeded_whenever_one_asks(
    maximum: int, succeeded: int, factor: float, moments: list[float]
) -> None:
    ramp = ExponentialRate(base_per_minute=2, increment_factor=factor, on_succeeded=100)
    rate, now, gifts, all_gifts = Rate(maximum_per_minute=maximum, exponential=ramp), 1000.0, (), []
    for pause in moments:
        now += pause
        gifts = recent_gifts(gifts, now)
        number = slice_now(rate, gifts, succeeded, now)
        if number:
            gifts = (*gifts, Gift(now, number))
            all_gifts.append(Gift(now, number))
        assert sum(n for at, n in all_gifts if at + 60 > now) <= maximum


def test_a_clock_that_was_set_back_stops_nothing_for_longer_than_a_minute() -> None:
    world, _ = started(100, rate={"maximum_per_minute": 10}, timeout={"queued_s": 10**6})
    world.now = 100_000.0
    run_until(world, 100_120.0)
    world.now = 50_000.0
    before = told(world)
    run_until(world, world.now + 130.0)
    assert 10 <= told(world) - before <= 21


def test_the_order_in_which_a_group_is_told_is_the_draw_and_not_the_alphabet() -> None:
    world, devices = started(20, rate={"maximum_per_minute": 1}, timeout={"queued_s": 10**6})
    run_until(world, 1300.0)
    order = [command.device for command in world.log if isinstance(command, GiveRelease)]
    assert sorted(order) == devices != order


def test_a_device_that_failed_too_often_is_left_out_until_its_penalty_is_over() -> None:
    world = World(
        make_rollout(
            3,
            groups=[{"percentage": 100}],
            quarantine={"device_failures": 2, "penalty_s": 1000},
            timeout=LIMITS,
        )
    )
    world.keep(failed={DeviceId("d1"): [-500.0, -100.0, -5000.0]})
    world.say(Verb.START)
    held = world.rollout.executions[DeviceId("d1")]
    assert (held.is_given, held.held_until) == (False, 500.0)
    assert held.reason == "it failed too often lately: in quarantine until 1970-01-01 00:08 UTC"
    assert told(world) == 2
    for device in ("d0", "d2"):
        world.report(device, S.IN_PROGRESS)
    world.rollout = world.rollout.counted()
    assert not any(isinstance(c, Hold) for c in world.tick(1)), "it is said once"
    world.report("d0", S.SUCCEEDED)
    world.report("d2", S.SUCCEEDED)
    assert ("d1", S.CANCELED, f"left out: {held.reason}") in moves(world.tick(1))
    assert world.rollout.state is RolloutState.COMPLETED


def test_a_penalty_that_ends_while_the_rollout_is_under_way_is_over() -> None:
    quarantine = {"device_failures": 1, "penalty_s": 60}
    world = World(
        make_rollout(2, groups=[{"percentage": 100}], quarantine=quarantine, success={"threshold_pct": 100})
    )
    world.keep(failed={DeviceId("d1"): [-10.0]})
    world.say(Verb.START)
    assert world.rollout.index.due_at == 50.0
    world.tick(49.5)
    assert told(world) == 1
    world.tick(0.5)
    assert told(world) == 2


def test_a_failure_counts_for_one_penalty_and_a_clock_that_was_wrong_does_not_make_it_longer() -> None:
    rule = Quarantine(device_failures=2, penalty_s=100.0)
    assert held_until(rule, [], 50.0) is None
    assert held_until(rule, [10.0], 50.0) is None
    assert held_until(rule, [10.0, 20.0, 40.0], 50.0) == 120.0
    assert held_until(rule, [10.0, 20.0], 110.0) is None
    assert held_until(rule, [10**9, 10**9], 50.0) == 150.0


def test_a_person_may_have_what_failed_tried_once_more_also_when_all_is_done() -> None:
    world, devices = started(4, success={"threshold_pct": 50}, retry={"FAILED": 1})
    for device in devices[:3]:
        world.report(device, S.SUCCEEDED)
    for _ in range(2):
        world.report(devices[3], S.FAILED)
        world.tick(1)
    assert world.rollout.state is RolloutState.COMPLETED
    failed = world.rollout.executions[DeviceId(devices[3])]
    assert (failed.state, failed.attempt) == (S.FAILED, 2)
    world.say(Verb.RETRY_FAILED)
    again = world.rollout.executions[DeviceId(devices[3])]
    assert (again.state, again.attempt, again.previous) == (S.QUEUED, 3, "pump/1")
    assert not world.rollout.is_over
    world.report(devices[3], S.SUCCEEDED)
    world.tick(1)
    assert Counter(e.state for e in world.rollout.executions.values()) == {S.SUCCEEDED: 4}
    assert world.rollout.is_over
    with pytest.raises(ConflictError, match="nothing to retry"):
        world.say(Verb.RETRY_FAILED)


def test_what_a_person_has_tried_again_while_it_is_paused_is_told_when_it_goes_on() -> None:
    world, devices = started(4, success={"threshold_pct": 50})
    world.report(devices[0], S.FAILED)
    world.tick(1)
    world.say(Verb.PAUSE)
    world.say(Verb.RETRY_FAILED)
    assert world.desired[devices[0]][1] == 1
    world.now += 5
    world.say(Verb.RESUME)
    assert world.desired[devices[0]][1] == 2


def dynamic(**changes: Any) -> World:
    groups = [{"percentage": 50, "soak_s": 10}, {"percentage": 100}]
    world = World(make_rollout(8, **{"groups": groups, "dynamic": True, "timeout": LIMITS} | changes))
    world.say(Verb.START)
    return world


def join(world: World, *devices: str) -> None:
    names = [DeviceId(device) for device in devices]
    world.know(dict.fromkeys(names, KNOWN))
    world.observations = replace(world.observations, joined={*world.observations.joined, *names})


def test_a_device_that_enrols_later_joins_the_group_that_the_draw_gives_it() -> None:
    world = dynamic()
    later = [f"new-{number}" for number in range(40)]
    join(world, *later)
    world.tick(1)
    joined = {c.device: c.group for c in world.log if isinstance(c, Join)}
    assert sorted(joined) == sorted(later)
    assert 10 < sum(group == 0 for group in joined.values()) < 30, "half of them, by hash"
    for device, group in joined.items():
        assert group == group_of_joiner("ro-1", device, world.rollout.plan.groups, [4, 4])
        assert world.rollout.executions[device].is_given == (group == 0), "a later group is not exposed"


def test_a_completed_rollout_takes_in_who_comes_later_while_it_is_dynamic() -> None:
    for is_dynamic in (True, False):
        world = dynamic(dynamic=is_dynamic, groups=[{"percentage": 100}])
        for device in list(world.rollout.executions):
            world.report(device, S.SUCCEEDED)
        world.tick(1)
        assert world.rollout.state is RolloutState.COMPLETED
        assert world.rollout.is_over == (not is_dynamic)
        join(world, "late")
        world.tick(5)
        assert ("late" in world.rollout.executions) == is_dynamic
        if is_dynamic:
            assert world.desired["late"] == ("pump/2", 1)


def test_a_person_ends_a_dynamic_rollout_and_nobody_joins_any_more() -> None:
    world = dynamic(groups=[{"percentage": 100}])
    for device in list(world.rollout.executions):
        world.report(device, S.SUCCEEDED)
    world.tick(1)
    world.say(Verb.CANCEL)
    join(world, "late")
    world.tick(1)
    assert "late" not in world.rollout.executions
    assert not any(isinstance(c, GiveBack) for c in world.log), "who runs the release keeps it"


def test_a_rollout_of_which_later_ones_have_half_of_the_devices_takes_in_nobody() -> None:
    world = dynamic(groups=[{"percentage": 100}])
    for device in list(world.rollout.executions):
        world.report(device, S.SUCCEEDED)
    world.tick(1)
    executions = dict(world.rollout.executions)
    for number, device in enumerate(sorted(executions), 1):
        executions[device] = replace(executions[device], superseded_by="ro-2")
        world.rollout = replace(world.rollout, executions=executions).counted()
        assert world.rollout.takes_in == (number < 4)


@given(
    devices=st.integers(0, 60),
    ends=st.lists(st.one_of(st.integers(1, 80), st.floats(0.5, 99.0)), max_size=6),
    unheard=st.integers(0, 60),
)
def test_groups_by_count_and_percentage_share_out_every_device_once(
    devices: int, ends: list[int | float], unheard: int
) -> None:
    counts = iter(sorted({end for end in ends if isinstance(end, int)}))
    shares = iter(sorted({end for end in ends if isinstance(end, float)}))
    plan = []
    for end in ends:
        kind = "count" if isinstance(end, int) else "percentage"
        value = next(counts if kind == "count" else shares, None)
        if value is not None:
            plan.append(msgspec.convert({kind: value}, GroupPlan))
    plan.append(GroupPlan(percentage=100))
    names = [DeviceId(f"d{number}") for number in range(devices)]
    silent = set(names[:unheard])
    meant = replace(Meant.alike(names), is_unheard=np.arange(devices) < unheard)
    groups = assign_groups("ro", meant, plan)
    assert sorted(device for group in groups for device in group) == sorted(names)
    order = [device in silent for group in groups for device in group]
    assert order == sorted(order), "devices that never said a word come last"
    reached = 0
    for group, drawn in zip(plan, groups, strict=True):
        reached += len(drawn)
        if group.count is not None:
            assert reached >= min(group.count, devices)


def test_empty_groups_by_count_pass_and_a_canary_of_more_than_there_are_is_all() -> None:
    world, devices = started(3, groups=[{"count": 5}, {"percentage": 50}, {"percentage": 100}])
    assert told(world) == 3
    for device in devices:
        world.report(device, S.SUCCEEDED)
    world.tick(1)
    assert world.rollout.state is RolloutState.COMPLETED
    assert [group.state for group in world.rollout.groups] == [GroupState.PASSED] * 3
    assert world.rollout.groups[1].reason == "the fleet is too small for this group: nobody is in it"


def test_nobody_is_told_before_the_time_at_which_it_starts() -> None:
    world = World(make_rollout(2, groups=[{"percentage": 100}], schedule={"start_at": 500}))
    world.say(Verb.START)
    assert (told(world), world.rollout.index.due_at) == (0, 500)
    world.tick(499.5)
    assert told(world) == 0
    world.tick(0.5)
    assert told(world) == 2
