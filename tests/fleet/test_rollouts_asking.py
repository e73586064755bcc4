"""A person is asked at most once what the gates cannot see, and before the start where it can be known before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from gated_machines import GATES, SOAK_S, Machines
from msgspec import convert
from rollout_decisions_world import LIMITS, S, World, make_rollout
from rollout_world import PLAN, RolloutWorld

from fleet.gates.answers import Finding, LookAnswer
from fleet.gates.looks import look_times
from fleet.gates.plan import GatePlan, Metric
from fleet.rollouts.asking import foretell_asking
from fleet.rollouts.operations import create_rollout
from fleet.rollouts.plans import RolloutPlan
from fleet.rollouts.progress import LookTaken, Running
from fleet.rollouts.states import RolloutState, Verb
from fleet.storage.rollout_tables import RolloutRecord
from service.roles import Caller, Role

HOUR = 3600.0
THREE = [{"percentage": share, "soak_s": HOUR} for share in (5, 25, 100)]


def soaking(devices: int, **gates: Any) -> World:
    """A rollout whose first group has the release and soaks from now on."""
    plan = {"groups": THREE, "gates": {"hold_out": 0, "warm_up_s": 0} | gates, "timeout": LIMITS}
    world = World(make_rollout(devices, **plan))
    world.say(Verb.START)
    install(world)
    return world


def install(world: World) -> None:
    """The present group commits the release."""
    group = world.rollout.present_group
    assert group is not None
    for execution in world.rollout.of_group(group.number):
        world.report(execution.device, S.SUCCEEDED)
        running = Running(release="pump/2", returnable="pump/2", at=world.now + 1)
        world.know({execution.device: running})
    world.tick(1)


def look(world: World, finding: Finding, still_open: Iterable[Metric] = ()) -> None:
    """The gates are asked, if a look is due, and say this."""
    group, number = world.rollout.present_group, world.rollout.due_look(world.now)
    assert group is not None
    assert number is not None
    of = len(look_times(group.soak_s))
    answer = LookAnswer(
        finding=finding,
        reason="so it is",
        number=min(number, of),
        of=of,
        is_last=number >= of,
        answers=(),
        open=tuple(still_open),
    )
    taken = LookTaken(group=group.number, number=number, answer=answer)
    world.observations = replace(world.observations, look=taken)
    world.tick()
    world.observations = replace(world.observations, look=None)


def soak(world: World, finding: Finding = Finding.NOT_SEEN, still_open: Iterable[Metric] = ()) -> None:
    """The soak ends, and the gates say this."""
    world.tick(HOUR)
    look(world, finding, still_open)


@pytest.mark.parametrize(
    ("devices", "still_open", "state"),
    [
        (1, list(Metric)[:8], RolloutState.COMPLETED),  # alone: nothing can be excluded
        (12, list(Metric)[:8], RolloutState.RUNNING),
        (100, [Metric.RESTARTS], RolloutState.RUNNING),
        (100, [Metric.RESTARTS, Metric.ANOMALY_RATE], RolloutState.PAUSED),  # a rate can be excluded by five
        (400, [Metric.RESTARTS], RolloutState.PAUSED),  # twenty could have shown it
    ],
)
def test_nobody_is_asked_what_was_known_before_the_start(
    devices: int, still_open: list[Metric], state: RolloutState
) -> None:
    world = soaking(devices)
    soak(world, still_open=still_open)
    assert world.rollout.state is state
    if state is not RolloutState.PAUSED:
        assert (
            "known before the start that so few devices cannot pass: so it is"
            in world.rollout.groups[0].reason
        )


def test_what_is_known_before_the_start_is_what_the_sentences_say() -> None:
    plan = convert({"name": "r", "release": "pump/2"}, RolloutPlan)
    first, second, third = foretell_asking(plan, [1, 2, 5, 4])
    assert first.startswith(
        "group 0: 1 device with the release and 11 without are too few to exclude harm to any figure"
    )
    assert "to start it is to agree" in first
    assert (
        "group 1: 3 devices with the release and 9 without are too few to exclude harm to restarts" in second
    )
    assert third.startswith("group 2: 8 devices")
    assert foretell_asking(plan, [20, 80, 280, 20]) == ()
    asks = convert({"name": "r", "release": "pump/2", "gates": {"on_not_seen": "pause"}}, RolloutPlan)
    assert "when they have soaked the rollout pauses for a person" in foretell_asking(asks, [1, 0, 0, 0])[0]


@pytest.mark.parametrize("finding", [Finding.PAUSE, Finding.STOP])
def test_a_group_that_is_too_small_to_pass_is_watched_all_the_same(finding: Finding) -> None:
    world = soaking(4)
    soak(world, finding)
    expected = RolloutState.PAUSED if finding is Finding.PAUSE else RolloutState.ROLLING_BACK
    assert world.rollout.state is expected


@pytest.mark.parametrize(("on_not_seen", "asked"), [("ask-once", 1), ("pause", 3), ("continue", 0)])
def test_who_went_on_without_the_gates_is_not_asked_again(on_not_seen: str, asked: int) -> None:
    world = soaking(400, on_not_seen=on_not_seen)
    pauses = 0
    for _ in range(3):
        soak(world, still_open=[Metric.ANOMALY_RATE])
        if world.rollout.state is RolloutState.PAUSED:
            pauses += 1
            world.say(Verb.TRIGGER_NEXT_GROUP)
        if world.rollout.present_group is not None:
            install(world)
    assert pauses == asked
    assert world.rollout.state is RolloutState.COMPLETED


def test_who_did_not_wait_for_the_end_of_a_soak_has_not_gone_on_without_the_gates() -> None:
    world = soaking(400)
    world.say(Verb.TRIGGER_NEXT_GROUP)
    install(world)
    soak(world, still_open=[Metric.ANOMALY_RATE])
    assert world.rollout.state is RolloutState.PAUSED


def test_after_a_long_pause_one_look_makes_up_for_all_and_asks_nobody_again() -> None:
    world = soaking(400, on_not_seen="pause")
    soak(world)
    assert world.rollout.state is RolloutState.PAUSED
    world.now += 9.5 * HOUR
    world.say(Verb.RESUME)
    assert world.rollout.due_look(world.now) == 9, "8 S, and neither 2 S nor 4 S"
    look(world, Finding.NOT_SEEN)
    assert world.rollout.state is RolloutState.RUNNING, "who resumed it knew so much"
    assert world.rollout.groups[0].looks == 9
    assert world.rollout.due_look(world.now) is None
    world.tick(6 * HOUR)
    look(world, Finding.NOT_SEEN)
    assert world.rollout.state is RolloutState.PAUSED, "16 S is past what the person knew"


def test_a_look_that_was_overdue_still_stops_and_still_passes() -> None:
    for finding, state in ((Finding.STOP, RolloutState.ROLLING_BACK), (Finding.PASS, RolloutState.RUNNING)):
        world = soaking(400, on_not_seen="pause")
        soak(world)
        world.now += 9.5 * HOUR
        world.say(Verb.RESUME)
        look(world, finding)
        assert world.rollout.state is state
        assert (world.rollout.groups[0].state == "PASSED") is (finding is Finding.PASS)


def test_a_pause_within_the_soak_passes_over_looks_but_never_its_end() -> None:
    world = soaking(400)
    world.say(Verb.PAUSE)
    world.now += 20 * HOUR
    world.say(Verb.RESUME)
    assert world.rollout.due_look(world.now) == 6
    look(world, Finding.NOT_SEEN, [Metric.ANOMALY_RATE])
    assert world.rollout.state is RolloutState.PAUSED, "nobody was asked at the end of the soak"


def test_an_answer_that_comes_when_the_rollout_has_moved_on_is_not_taken() -> None:
    world = soaking(400)
    world.tick(HOUR)
    number = world.rollout.due_look(world.now)
    assert number is not None
    late = LookTaken(
        group=0,
        number=number,
        answer=LookAnswer(finding=Finding.STOP, reason="late", number=6, of=6, is_last=True, answers=()),
    )
    world.say(Verb.TRIGGER_NEXT_GROUP)
    world.observations = replace(world.observations, look=late)
    world.tick()
    assert world.rollout.state is RolloutState.RUNNING
    install(world)
    world.tick(HOUR)
    assert world.rollout.groups[1].looks == 0


def test_a_program_that_starts_a_rollout_agrees_to_nothing(world: RolloutWorld) -> None:
    plan = convert(PLAN | {"gates": {}}, RolloutPlan)
    program = Caller(name="agg", role=Role.PUBLISHER, families=("pump",), person=None)
    assert create_rollout(world.database, plan, "ro-p", caller=program, now=world.now)
    assert not create_rollout(world.database, plan, "ro-p", caller=program, now=world.now), "the same again"
    with world.database.read() as session:
        assert session.get_one(RolloutRecord, "ro-p").plan["gates"]["on_not_seen"] == "pause"
    assert plan.gates == GatePlan()


def test_four_machines_get_a_good_release_and_nobody_is_asked(database_url: str) -> None:
    machines = Machines(database_url, 4)
    try:
        machines.live(HOUR)
        groups = [{"percentage": share, "soak_s": SOAK_S} for share in (5, 25, 100)]
        plan = {"groups": groups, "gates": GATES | {"hold_out": 20}, "limits": []}
        rollout = machines.world.create(**plan)
        said = machines.world.view(rollout).waiting_for
        assert said.startswith(
            "a person to start it. group 0: 1 device with the release and 3 without are too few"
        )
        machines.world.say(rollout, Verb.START)
        for number in (0, 2, 3):
            machines.world.install(machines.world.members(rollout, number))
            machines.world.tick()
            if number < 3:
                assert machines.soak(rollout).state is RolloutState.RUNNING, machines.world.view(
                    rollout
                ).reason
        view = machines.world.view(rollout)
        assert view.state is RolloutState.COMPLETED
        assert "known before the start" in view.groups[0].reason
    finally:
        machines.world.close()
