"""The way back: rollbacks and cancels, who is told to go back, and when it is over."""

from __future__ import annotations

from typing import Any

import pytest
from rollout_decisions_world import LIMITS, S, World, make_rollout, moves, started

from fleet.rollouts.progress import Running
from fleet.rollouts.states import RolloutState
from fleet.rollouts.steps import GiveBack, MoveRollout, Withdraw
from fleet.rollouts.verbs import Verb
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
