"""The way back: rollbacks and cancels, who is told to go back, and when it is over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from rollout_decisions_world import LIMITS, S, World, make_rollout, moves, started

from fleet.errors import ConflictError
from fleet.rollouts.progress import Running
from fleet.rollouts.states import RolloutState, Verb
from fleet.rollouts.steps import GiveBack, GiveRelease, MoveRollout, Withdraw
from fleet.rollouts.verbs import carry_out
from protocol.names import DeviceId


@pytest.mark.parametrize(
    ("name", "label"), [("", "group 0 failed: "), ("canary", "group 0 (canary) failed: ")]
)
def test_a_rollback_names_the_group_that_failed(name: str, label: str) -> None:
    world, (first, second) = started(2, groups=[{"percentage": 100, "name": name}])
    world.report(first, S.FAILED)
    world.report(second, S.REJECTED)
    world.tick()
    (move,) = [c for c in world.log if isinstance(c, MoveRollout) and c.state is RolloutState.ROLLING_BACK]
    assert (move.reason, move.actor) == (f"{label}2 of 2 devices failed; 2 must succeed (95 %)", "fleet")


def rolled_back(devices: int = 2, **changes: Any) -> tuple[World, list[str]]:
    world, names = started(devices, **changes)
    world.tick(1)
    world.say(Verb.ROLLBACK)
    return world, names


def test_a_rollback_is_over_when_every_device_is_back_or_nobody_waits_any_longer() -> None:
    world, (first, second) = rolled_back()
    world.report(first, S.SUCCEEDED)
    world.tick(1)
    assert world.rollout.state is RolloutState.ROLLING_BACK
    world.tick(38.5)
    assert world.rollout.state is RolloutState.ROLLING_BACK
    world.tick(0.5)
    assert world.rollout.state is RolloutState.ROLLED_BACK
    (last,) = [c for c in world.log if isinstance(c, MoveRollout) and c.state is RolloutState.ROLLED_BACK]
    assert last.reason == f"every device is told to go back; 1 online have not confirmed ({second})"
    world, names = rolled_back()
    for device in names:
        world.report(device, S.SUCCEEDED)
    world.tick(1)
    assert world.rollout.state is RolloutState.ROLLED_BACK


def test_of_many_that_have_not_confirmed_five_are_named() -> None:
    for devices, more in ((5, ""), (6, ", …")):
        world, names = rolled_back(devices)
        world.tick(41)
        (last,) = [c for c in world.log if isinstance(c, MoveRollout) and c.state is RolloutState.ROLLED_BACK]
        assert last.reason.endswith(f"{devices} online have not confirmed ({', '.join(names[:5])}{more})")


def test_a_device_that_cannot_go_back_is_told_three_times() -> None:
    world, (first, _) = rolled_back(timeout={**LIMITS, "rollback_s": 1000})
    for _ in range(6):
        world.report(first, S.FAILED)
        world.tick(1)
    assert sum(isinstance(c, GiveBack) and c.device == first for c in world.log) == 3
    assert world.rollout.state is RolloutState.ROLLING_BACK


def test_health_five_seconds_after_it_was_given_back_shows_that_a_device_never_left_its_release() -> None:
    world, (first, second) = rolled_back(timeout={**LIMITS, "rollback_s": 1000})

    def healthy(device: str, release: str, at: float) -> None:
        running = Running(release=release, returnable=release, at=at)
        world.know({DeviceId(device): running})

    healthy(first, "pump/1", world.now + 5.0)
    healthy(second, "pump/2", world.now + 9.0)
    world.tick(20)
    assert world.rollout.executions[DeviceId(first)].restored_at is None
    healthy(first, "pump/1", world.now - 20 + 5.5)
    world.tick(1)
    assert world.rollout.executions[DeviceId(first)].restored_at == world.now
    assert world.rollout.executions[DeviceId(second)].restored_at is None


def test_a_revoked_device_holds_up_neither_a_group_nor_a_rollback() -> None:
    world, (first, second) = started(2)
    world.revoke(first)
    world.report(second, S.SUCCEEDED)
    assert (first, S.CANCELED, "the device was revoked") in moves(world.tick(1))
    assert world.rollout.state is RolloutState.COMPLETED
    world, (first, second) = rolled_back()
    world.revoke(first)
    world.report(second, S.SUCCEEDED)
    world.tick(1)
    assert world.rollout.state is RolloutState.ROLLED_BACK


def test_a_cancel_leaves_those_who_run_the_release_and_sends_back_the_others() -> None:
    world, devices = started(
        8, groups=[{"percentage": 50}, {"percentage": 100}], success={"threshold_pct": 75}
    )
    ran, at_work, failed, silent = (e.device for e in world.rollout.executions.values() if e.is_given)
    world.report(ran, S.SUCCEEDED)
    world.report(at_work, S.IN_PROGRESS)
    world.report(failed, S.FAILED)
    world.tick(1)
    world.say(Verb.CANCEL)
    back = {c.device: c.release for c in world.log if isinstance(c, GiveBack)}
    assert back == dict.fromkeys((at_work, failed, silent), "pump/1")
    states = {device: world.rollout.executions[DeviceId(device)].state for device in devices}
    waiting = set(devices) - {ran, at_work, failed, silent}
    assert states == {ran: S.SUCCEEDED, failed: S.FAILED} | dict.fromkeys(
        {at_work, silent} | waiting, S.CANCELED
    )
    assert not any(isinstance(c, Withdraw) for c in world.log)


def test_a_device_that_ran_the_release_before_or_nothing_has_no_way_back() -> None:
    for before in ("pump/2", None):
        world = World(make_rollout(1, groups=[{"percentage": 100}]))
        running = Running(release=before, returnable=before, at=0.0)
        world.know({DeviceId("d0"): running})
        world.say(Verb.START)
        assert world.rollout.executions[DeviceId("d0")].previous is None
        world.say(Verb.ROLLBACK)
        world.tick()
        assert world.rollout.state is RolloutState.ROLLED_BACK


AWAY = Running(release="pump/2", returnable="pump/2", at=0.0, is_online=False)


def last_reason(world: World) -> str:
    return next(c.reason for c in reversed(world.log) if isinstance(c, MoveRollout))


def test_devices_that_are_away_hold_up_no_rollback_and_go_back_when_they_are_heard() -> None:
    world, devices = started(4)
    world.tick(1)
    world.know(dict.fromkeys([DeviceId(d) for d in devices[:2]], AWAY))
    world.say(Verb.ROLLBACK)
    for device in devices[2:]:
        world.report(device, S.SUCCEEDED)
    world.tick(1)
    assert world.rollout.state is RolloutState.ROLLED_BACK
    assert last_reason(world) == (
        "every device is told to go back; 2 offline: will go back when heard (d0, d1)"
    )
    assert {world.desired[device][0] for device in devices} == {"pump/1"}
    assert not world.rollout.is_over
    world.report(devices[0], S.SUCCEEDED)
    world.tick(3600)
    assert world.rollout.executions[DeviceId(devices[0])].restored_at == world.now
    world.know({DeviceId(devices[1]): Running(release="pump/1", returnable="pump/1", at=world.now + 60)})
    world.tick(100)
    assert {e.state for e in world.rollout.executions.values()} == {S.ROLLED_BACK}
    assert world.rollout.is_over


def test_a_device_that_goes_away_while_it_is_waited_for_is_not_waited_for() -> None:
    world, (first, second) = rolled_back()
    world.report(second, S.SUCCEEDED)
    world.tick(1)
    world.keep(devices={**world.records.devices, DeviceId(first): AWAY})  # its farewell is lost
    assert world.tick(8) == []
    world.tick(1)
    assert world.rollout.state is RolloutState.ROLLED_BACK


def test_a_device_that_comes_back_from_a_failed_return_is_told_again_also_when_the_rollback_is_over() -> None:
    world, (first, second) = started(2)
    world.know({DeviceId(first): AWAY})
    world.say(Verb.ROLLBACK)
    world.report(second, S.SUCCEEDED)
    world.tick(1)
    assert world.rollout.state is RolloutState.ROLLED_BACK
    world.report(first, S.FAILED)
    world.tick(1)
    assert world.rollout.executions[DeviceId(first)].returns == 2
    world.report(first, S.SUCCEEDED)
    world.tick(1)
    assert world.rollout.is_over


def completed(devices: int = 4, **changes: Any) -> tuple[World, list[str]]:
    world, names = started(devices, **changes)
    for device in names:
        world.report(device, S.SUCCEEDED)
    world.tick(1)
    assert world.rollout.state is RolloutState.COMPLETED
    return world, names


def test_a_completed_rollout_is_rolled_back_to_what_ran_or_to_what_a_person_names() -> None:
    for named in (None, "pump/0"):
        world, devices = completed()
        world.take(
            carry_out(
                world.rollout,
                Verb.ROLLBACK,
                actor="bob",
                observations=world.observations,
                now=world.now,
                rollback_to=named,
            )
        )
        assert {world.desired[device][0] for device in devices} == {named or "pump/1"}
        for device in devices:
            world.report(device, S.SUCCEEDED)
        world.tick(1)
        assert world.rollout.state is RolloutState.ROLLED_BACK
        assert any(isinstance(c, Withdraw) for c in world.log)


def test_a_rollback_leaves_devices_alone_that_a_later_rollout_has() -> None:
    world, devices = completed()
    executions = {
        device: replace(execution, superseded_by="ro-2") if device in devices[:3] else execution
        for device, execution in world.rollout.executions.items()
    }
    world.rollout = replace(world.rollout, executions=executions).counted()
    world.say(Verb.ROLLBACK)
    assert [c.device for c in world.log if isinstance(c, GiveBack)] == devices[3:]
    world, devices = completed()
    executions = {d: replace(e, superseded_by="ro-2") for d, e in world.rollout.executions.items()}
    world.rollout = replace(world.rollout, executions=executions).counted()
    with pytest.raises(ConflictError, match=r"later rollouts \(ro-2\) have all devices of ro-1"):
        world.say(Verb.ROLLBACK)


def test_nobody_goes_back_to_what_is_taken_back() -> None:
    world, _ = completed()
    with pytest.raises(ConflictError, match="pump/2 is what the rollout takes back"):
        carry_out(
            world.rollout,
            Verb.ROLLBACK,
            actor="b",
            observations=world.observations,
            now=1.0,
            rollback_to="pump/2",
        )


def test_a_canary_whose_devices_were_shut_out_is_no_evidence_and_a_person_decides() -> None:
    canary = [{"percentage": 25, "soak_s": 10}, {"percentage": 100}]
    for reports in ([], [S.SUCCEEDED]):
        world = World(make_rollout(4, groups=canary, timeout=LIMITS))
        world.say(Verb.START)
        (first,) = (e.device for e in world.rollout.executions.values() if e.is_given)
        for status in reports:
            world.report(first, status)
            world.tick(1)
        world.revoke(first)
        world.tick(1)
        assert world.rollout.state is RolloutState.PAUSED
        assert last_reason(world).startswith("all 1 devices of the group were revoked")
        assert len(world.desired) == 1
        world.now += 1
        world.say(Verb.RESUME)
        world.tick(60)
        assert world.rollout.state is RolloutState.PAUSED, "to resume alone does not make it evidence"
        world.say(Verb.TRIGGER_NEXT_GROUP)
        assert len(world.desired) == 4


def test_a_canary_that_never_said_a_word_or_died_is_no_evidence() -> None:
    canary = [{"percentage": 25, "soak_s": 10}, {"percentage": 100}]
    world = World(make_rollout(4, groups=canary, timeout=LIMITS))
    world.say(Verb.START)
    world.tick(101)
    assert world.rollout.state is RolloutState.PAUSED
    assert last_reason(world).startswith("1 of 1 devices never said a word of it")
    assert not any(isinstance(c, Withdraw) for c in world.log)
    world = World(make_rollout(4, groups=canary, timeout=LIMITS))
    world.say(Verb.START)
    (first,) = (e.device for e in world.rollout.executions.values() if e.is_given)
    world.report(first, S.SUCCEEDED)
    world.tick(1)
    world.know({DeviceId(first): AWAY})
    world.tick(10)
    assert world.rollout.state is RolloutState.PAUSED
    assert "nothing was heard of the group's 1 devices since they got the release" in last_reason(world)
    # it was heard for a while, and died before its soak was over
    world = World(make_rollout(4, groups=canary, timeout=LIMITS))
    world.say(Verb.START)
    (first,) = (e.device for e in world.rollout.executions.values() if e.is_given)
    world.report(first, S.SUCCEEDED)
    world.tick(1)
    world.know({DeviceId(first): replace(AWAY, at=world.now + 1)})
    world.tick(10)
    assert world.rollout.state is RolloutState.RUNNING
    assert not any(isinstance(c, GiveRelease) and c.device != first for c in world.log), "it may come back"
    world.tick(world.rollout.plan.timeout.health_s)
    assert world.rollout.state is RolloutState.PAUSED
    assert "nothing is heard of the group's 1 devices any more" in last_reason(world)
