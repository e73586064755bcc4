"""Devices that judge nothing are no evidence: they neither undo a sound release nor let a harmful one pass."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from rollout_world import RolloutWorld

from fleet.rollouts.counts import Outcome
from fleet.rollouts.limits import judge_limits
from fleet.rollouts.plans import Limit, SuccessCriteria
from fleet.rollouts.progress import Execution, Figures
from fleet.rollouts.states import RolloutState, Verb
from protocol.messages.kinds import AgentState, InstallStatus, InstallStep
from protocol.names import DeviceId

DAY_S = 86_400.0
RATE = {"metric": "anomaly_rate", "op": "<=", "value": 0.2}


def blind(world: RolloutWorld, device: str) -> None:
    """As a device with a dead sensor speaks: windows come, none is judged, so none is over the threshold."""
    world.health(device, times=4, windows=20, judged=0, state=AgentState.BLIND, p99_us=0.0)


def well(world: RolloutWorld, device: str) -> None:
    world.health(device, times=4, windows=20, judged=20, state=AgentState.WATCHING)


def took(world: RolloutWorld, rollout: str, number: int) -> list[str]:
    """The devices of a group, which have committed the release."""
    members = world.members(rollout, number)
    world.install(members)
    world.tick(0.25)
    return members


@pytest.mark.parametrize("was_blind_before", [True, False])
def test_a_sound_release_with_a_blind_device_in_its_canary_reaches_everyone(
    world: RolloutWorld, was_blind_before: bool
) -> None:
    rollout = world.create()
    lame = world.members(rollout, 0)[0]
    for device in world.devices:
        blind(world, device) if device == lame and was_blind_before else well(world, device)
    world.say(rollout, Verb.START)
    for number in range(3):
        for device in took(world, rollout, number):
            blind(world, device) if device == lame else well(world, device)
        world.tick(11)
    view = world.view(rollout)
    assert view.state is RolloutState.COMPLETED, view.reason
    assert view.groups[0].reason == (
        f"2 of 2 devices run the release; anomaly_rate <= 0.3; 1 judge no window and are left out ({lame})"
    )
    assert world.release(2).withdrawn_at is None


def test_a_canary_that_only_a_blind_device_is_in_waits_and_goes_on_once_its_sensor_is_mended(
    world: RolloutWorld,
) -> None:
    rollout = world.started(groups=[{"percentage": 5, "soak_s": 10}, {"percentage": 100}])
    (lame,) = took(world, rollout, 0)
    for _ in range(5):
        blind(world, lame)
        world.tick(DAY_S / 2)
    view = world.view(rollout)
    assert (view.state, view.groups[0].state) == (RolloutState.RUNNING, "SOAKING")
    assert view.waiting_for.startswith(
        f"1 of 1 devices judge no window ({lame}), so nothing is known of the release"
    )
    assert (world.release(2).withdrawn_at, world.desired(world.members(rollout, 1)[0])) == (
        None,
        None,
    )
    well(world, lame)
    world.tick(0.25)
    assert world.view(rollout).groups[0].state == "PASSED"


def test_a_trial_that_is_put_off_for_want_of_windows_undoes_nothing(world: RolloutWorld) -> None:
    rollout = world.started()
    lame, other = world.members(rollout, 0)
    world.report(lame, InstallStatus.IN_PROGRESS)
    world.report(lame, InstallStatus.DEFERRED, reason="no window could be judged in the trial")
    for _ in range(4):
        blind(world, lame)
        world.tick(DAY_S / 2)
        well(world, other)
        world.report(other, InstallStatus.DEFERRED, reason="on battery")
    assert world.view(rollout).waiting_for == "0 of 2 devices needed run the release; 2 have put it off"
    world.report(other, InstallStatus.SUCCEEDED)
    world.tick(0.25)
    well(world, other)
    world.tick(11)
    view = world.view(rollout)
    assert view.groups[0].state == "PASSED"
    assert view.groups[0].reason == "1 of 2 devices run the release, 1 deferred; anomaly_rate <= 0.3"
    assert world.release(2).withdrawn_at is None


@pytest.mark.parametrize("canary", [5, 10], ids=["alone", "one of two"])
def test_a_blind_device_that_stays_in_its_trial_undoes_nothing_and_goes_on_once_it_sees(
    world: RolloutWorld, canary: int
) -> None:
    rollout = world.started(groups=[{"percentage": canary, "soak_s": 10}, {"percentage": 100}])
    lame, *others = world.members(rollout, 0)
    world.report(lame, InstallStatus.IN_PROGRESS, step=InstallStep.TRIAL)
    world.install(others)
    world.tick(0.25)
    for _ in range(4):  # 10 minutes without progress, or an hour in all, was the end of a sound release
        blind(world, lame)
        for device in others:
            well(world, device)
        world.tick(2000)
    shown = world.view(rollout)
    assert (shown.state, shown.counts["DEFERRED"]) == (RolloutState.RUNNING, 1)
    assert world.view(rollout).groups[0].state == ("PASSED" if others else "RUNNING")
    # its sensor is mended: it has as long as any device for the rest of its trial
    world.health(lame, judged=5, state=AgentState.WATCHING)
    world.tick(0.25)
    assert world.view(rollout).counts["IN_PROGRESS"] == 1
    world.tick(300)
    world.report(lame, InstallStatus.SUCCEEDED)
    well(world, lame)
    world.tick(0.25)
    world.tick(11)
    assert world.view(rollout).counts["SUCCEEDED"] == 1 + len(others)
    assert world.view(rollout).groups[0].state == "PASSED"
    assert world.release(2).withdrawn_at is None


def test_a_device_that_judges_no_window_but_does_not_say_blind_is_waited_for_as_long_as_a_silent_one(
    world: RolloutWorld,
) -> None:
    rollout = world.started(timeout={"health_s": 900})
    first, second = took(world, rollout, 0)
    well(world, first)
    world.health(second, times=4, windows=0, judged=0, state=AgentState.COMMISSIONING)
    world.tick(11)
    assert world.view(rollout).waiting_for == (
        f"1 of 2 devices have not shown enough health on the release yet ({second})"
    )
    world.tick(900)
    assert world.view(rollout).groups[0].state == "PASSED"


def test_blind_devices_hide_neither_one_that_alarms_nor_one_that_is_silent(world: RolloutWorld) -> None:
    groups = [{"percentage": 25, "soak_s": 10}, {"percentage": 100}]
    for harm in ("alarms", "is silent"):
        rollout = world.started(groups=groups, force=True)
        lame, also_lame, bad = took(world, rollout, 0)
        blind(world, lame)
        blind(world, also_lame)
        if harm == "alarms":
            world.health(bad, rate=0.9, times=4, judged=20, state=AgentState.WATCHING)
            world.tick(0.25)
        else:
            world.tick(950)
        assert world.view(rollout).state is RolloutState.ROLLING_BACK, harm
        assert bad in world.view(rollout).groups[0].reason
        world.install(world.members(rollout, 0))
        world.tick(0.25)


def test_a_release_that_blinds_most_of_its_canary_goes_no_further(world: RolloutWorld) -> None:
    rollout = world.started(groups=[{"percentage": 25, "soak_s": 10}, {"percentage": 100}])
    for device in world.devices:
        well(world, device)
    first, *rest = took(world, rollout, 0)
    well(world, first)
    for device in rest:
        blind(world, device)
    world.tick(DAY_S / 2)
    view = world.view(rollout)
    assert (view.state, view.groups[0].state) == (RolloutState.RUNNING, "SOAKING")
    assert view.waiting_for.startswith(f"2 of 3 devices judge no window ({rest[0]}, {rest[1]})")
    assert "rollback" in view.verbs
    assert "trigger-next-group" in view.verbs


def test_rates_count_judged_windows_and_old_agents_are_believed_to_have_judged_all(
    world: RolloutWorld,
) -> None:
    rollout = world.started(
        success={"threshold_pct": 100, "min_windows": 10}, limits=[{**RATE, "value": 0.3}]
    )
    first, second = took(world, rollout, 0)
    # 4 windows of 80 judged, all of them over: too few to say anything, though 80 windows came
    world.health(first, rate=1.0, times=4, windows=20, judged=1, state=AgentState.WATCHING)
    well(world, second)
    world.tick(11)
    assert world.view(rollout).waiting_for.startswith("1 of 2 devices have not shown enough health")
    world.health(first, rate=1.0, times=4, windows=20, judged=5, state=AgentState.WATCHING)
    world.tick(0.25)
    assert world.view(rollout).state is RolloutState.ROLLING_BACK
    other = world.create(release="pump/3", target_query="id=in=(d00)")
    assert world.view(other).state is RolloutState.READY


LIMITS = [msgspec.convert(RATE, Limit)]


def executions(*states: InstallStatus) -> list[Execution]:
    return [
        Execution(device=DeviceId(f"d{number}"), group=0, state=state, given_at=1.0, attempt=1)
        for number, state in enumerate(states)
    ]


def criteria(**changes: Any) -> SuccessCriteria:
    return msgspec.convert(changes, SuccessCriteria)


@pytest.mark.parametrize(
    ("blind_ones", "overdue", "outcome"),
    [
        ("none", False, Outcome.HOLDS),
        ("say so", False, Outcome.HOLDS),
        ("no windows", False, Outcome.UNDECIDED),
        ("no windows", True, Outcome.HOLDS),
    ],
)
def test_half_of_a_group_may_judge_nothing(blind_ones: str, overdue: bool, outcome: Outcome) -> None:
    well = Figures(reports=5, windows=50, windows_over=1, inference_p99_us=9.0, drift_score=0.1)
    shown = {
        "none": well,
        # what it judged before it went blind is that of a machine whose sensor was dying
        "say so": Figures(
            reports=5, windows=50, windows_over=50, inference_p99_us=9.0, drift_score=9.0, is_blind=True
        ),
        "no windows": Figures(reports=5, windows=0, windows_over=0, inference_p99_us=0.0, drift_score=0.0),
    }[blind_ones]
    treated = executions(*[InstallStatus.SUCCEEDED] * 4)
    figures = {e.device: well if n < 2 else shown for n, e in enumerate(treated)}
    assert judge_limits(LIMITS, criteria(), treated, figures, is_overdue=overdue).outcome is outcome
    if blind_ones != "none":
        most = figures | {treated[1].device: shown}
        expected = Outcome.BLIND if outcome is Outcome.HOLDS else outcome
        assert judge_limits(LIMITS, criteria(), treated, most, is_overdue=overdue).outcome is expected
