"""Several rollouts at once: a device has one of them, and what one withdraws none gives any more."""

from __future__ import annotations

from typing import Any

import pytest
from rollout_world import RolloutWorld, make_boot, make_device
from sqlalchemy import func, select

from fleet.api.rollout_views import view_timeline
from fleet.errors import ConflictError
from fleet.rollouts import engine
from fleet.rollouts.decisions import decide
from fleet.rollouts.states import RolloutState, Verb
from fleet.storage.rollout_tables import RolloutExecution, RolloutTransition
from protocol.messages.kinds import InstallStatus

LEFT, RIGHT = "id=in=(d00,d01,d02,d03)", "id=in=(d04,d05,d06,d07)"
HALVES: dict[str, Any] = {"groups": [{"percentage": 50, "soak_s": 10}, {"percentage": 100}], "limits": []}
AT_ONCE: dict[str, Any] = {"groups": [{"percentage": 100}], "limits": [], "success": {"threshold_pct": 50}}


def lines(world: RolloutWorld, rollout: str) -> list[tuple[str, str, str]]:
    with world.database.read() as session:
        found = view_timeline(session, rollout, after=0, limit=500, subject=None)
    return [(line.subject, line.state, line.reason) for line in found if line.device is None]


def gifts(world: RolloutWorld, rollout: str) -> int:
    with world.database.read() as session:
        given = RolloutTransition.rollout == rollout, RolloutTransition.state == "GIVEN"
        return session.scalar(select(func.count()).where(*given)) or 0


def wants(world: RolloutWorld, device: str) -> str | None:
    desired = world.desired(device)
    return None if desired is None else desired.release


def stop(world: RolloutWorld, rollout: str) -> None:
    """Its release does harm, as a limit shows."""
    (first, *_) = world.members(rollout, 0)
    world.install(world.members(rollout, 0))
    world.tick(1)
    world.health(first, rate=0.9, times=3)
    world.tick(1)
    assert world.view(rollout).state in {RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK}


def test_what_one_rollout_withdraws_every_other_stops_giving_and_says_so(world: RolloutWorld) -> None:
    bad = world.started(**HALVES | {"limits": [{"metric": "anomaly_rate", "value": 0.3}]}, target_query=LEFT)
    other = world.started(**HALVES, target_query=RIGHT)
    waiting = world.create(**HALVES, target_query="id=in=(d08,d09)")
    elsewhere = world.started(**AT_ONCE, release="pump/3", target_query="id=in=(d10,d11)")
    world.install(world.members(other, 0))
    world.tick(1)
    before = gifts(world, other)
    stop(world, bad)
    assert world.view(other).state is RolloutState.PAUSED
    assert world.view(elsewhere).state is not RolloutState.PAUSED, "another release"
    reason = next(why for what, state, why in lines(world, other) if (what, state) == ("rollout", "PAUSED"))
    assert reason.startswith(f"pump/2 was withdrawn by rollout {bad}: ")
    for rollout in (other, waiting):
        assert ("release", "WITHDRAWN") in {(what, state) for what, state, _ in lines(world, rollout)}
    for seconds in (1, 60, 600):
        world.tick(seconds)
    assert gifts(world, other) == before
    for rollout, verb in (
        (other, Verb.RESUME),
        (other, Verb.TRIGGER_NEXT_GROUP),
        (waiting, Verb.START),
    ):
        with pytest.raises(ConflictError, match="release pump/2 was withdrawn"):
            world.say(rollout, verb)
    world.say(other, Verb.ROLLBACK)
    assert {wants(world, device) for device in world.members(other, 0)} == {"pump/1"}


def test_who_forced_a_release_is_paused_as_well_and_may_go_on(world: RolloutWorld) -> None:
    bad = world.started(**HALVES, target_query=LEFT)
    forced = world.started(**HALVES, target_query=RIGHT, force=True)
    world.say(bad, Verb.ROLLBACK)
    assert world.view(forced).state is RolloutState.PAUSED
    world.say(forced, Verb.RESUME)
    world.install(world.members(forced, 0))
    world.tick(1)
    world.tick(10)
    assert world.view(forced).state is RolloutState.RUNNING


def test_one_that_is_paused_when_its_release_is_withdrawn_is_told_so(world: RolloutWorld) -> None:
    bad = world.started(**HALVES, target_query=LEFT)
    paused = world.started(**HALVES, target_query=RIGHT)
    world.say(paused, Verb.PAUSE)
    world.say(bad, Verb.ROLLBACK)
    assert lines(world, paused)[-1][:2] == ("release", "WITHDRAWN")
    with pytest.raises(ConflictError, match="was withdrawn"):
        world.say(paused, Verb.RESUME)


def retrying(world: RolloutWorld) -> tuple[str, str, str]:
    """A completed rollout with a retry left, a later one that has its device and has not given it anything yet, and the device."""
    later = world.create(
        groups=[{"count": 1, "soak_s": 1000}, {"percentage": 100}],
        limits=[],
        release="pump/3",
        target_query="id=in=(d00,d11)",
    )
    (last,) = world.members(later, 1)
    first = world.started(**AT_ONCE, retry={"FAILED": 1})
    world.install(device for device in world.devices if device != last)
    world.report(last, InstallStatus.IN_PROGRESS)
    world.tick(1)
    assert world.view(first).state is RolloutState.COMPLETED
    world.say(later, Verb.START)
    return first, later, last


def test_a_retry_waits_while_another_rollout_has_the_device_and_is_left_to_it(world: RolloutWorld) -> None:
    first, later, last = retrying(world)
    told = gifts(world, first)
    world.report(last, InstallStatus.FAILED)
    for seconds in (1, 60, 600):
        world.tick(seconds)
    assert gifts(world, first) == told
    assert world.engine.advance_all() == 0, "it is not decided again and again meanwhile"
    world.say(later, Verb.TRIGGER_NEXT_GROUP)
    world.tick(1)
    assert wants(world, last) == "pump/3"
    for seconds in (60, 600):
        world.tick(seconds)
    assert (wants(world, last), gifts(world, first)) == ("pump/3", told)


def test_a_retry_goes_on_when_the_other_rollout_ended_without_the_device(world: RolloutWorld) -> None:
    first, later, last = retrying(world)
    told = gifts(world, first)
    world.report(last, InstallStatus.FAILED)
    world.tick(1)
    world.say(later, Verb.CANCEL)
    world.tick(60)
    assert gifts(world, first) == told + 1


def test_who_was_in_quarantine_is_not_given_an_older_release_after_a_later_one(world: RolloutWorld) -> None:
    held = world.devices[-1]
    failing = world.started(**AT_ONCE, release="pump/3", target_query=f"id=={held}")
    for status in (InstallStatus.FAILED, InstallStatus.SUCCEEDED):
        world.report(held, status)
        world.tick(1)
    assert world.view(failing).state is RolloutState.ROLLED_BACK
    older = world.started(**AT_ONCE, dynamic=True, quarantine={"device_failures": 1, "penalty_s": 3600})
    world.install(world.devices[:-1])
    world.tick(1)
    assert world.view(older).state is RolloutState.COMPLETED
    world.started(**AT_ONCE, release="pump/3", target_query=f"id=={held}", force=True)
    world.install([held])
    for seconds in (1, 3600, 3600):
        world.tick(seconds)
    assert wants(world, held) == "pump/3"


def test_a_device_that_would_join_one_rollout_as_another_starts_is_had_by_one(
    world: RolloutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = world.started(**HALVES, dynamic=True)
    with world.database.write() as session:
        session.add(make_device("new1", world.now))
        session.add_all(make_boot("new1", number, world.now) for number in (0, 1, 2))
    later = world.create(**AT_ONCE, release="pump/3", target_query="id==new1")

    def decide_late(*arguments: Any) -> Any:
        decision = decide(*arguments)
        if decision.commands and world.view(later).state is RolloutState.READY:
            world.say(later, Verb.START)
        return decision

    monkeypatch.setattr(engine, "decide", decide_late)
    for _ in range(3):
        world.tick(60)
    assert world.view(later).state is RolloutState.RUNNING
    with world.database.read() as session:
        whose = session.scalars(select(RolloutExecution.rollout).where(RolloutExecution.device == "new1"))
        assert list(whose) == [later]
    assert world.view(running).state is RolloutState.RUNNING
