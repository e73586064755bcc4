"""What a look at a rollout is given: whose figures, of which hours, and what is no evidence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from rollout_world import RolloutWorld, make_boot, make_device
from sqlalchemy import delete, update

from fleet.gates.arms import Arms
from fleet.retention.health_blocks import HealthRollUp
from fleet.rollouts import gate_evidence
from fleet.rollouts.gate_evidence import read_arms
from fleet.rollouts.states import GroupState, Verb
from fleet.rollouts.store import find_rollout
from fleet.storage.device_tables import Device, DeviceState
from fleet.storage.event_tables import Anomaly, HealthRecord
from fleet.storage.verdict_tables import VerdictRecord
from protocol.messages.kinds import InstallStatus

OFFLINE_S = 120.0
BASELINE_S, WARM_UP_S = 7200.0, 300.0
GATES = {
    "baseline_s": BASELINE_S,
    "warm_up_s": WARM_UP_S,
    "on_not_seen": "continue",
    "hold_out": 0,
}
GROUPS = [{"percentage": 25, "soak_s": 3600}, {"percentage": 100, "soak_s": 3600}]


def live(world: RolloutWorld, seconds: float, *devices: str, every_s: float = 60.0, **figures: Any) -> None:
    """Time passes, in which these devices (none named: all) tell their health."""
    times = np.arange(world.now + every_s, world.now + seconds + 0.5, every_s)
    world.tell_health([(device, float(at)) for at in times for device in devices or world.devices], **figures)
    world.now += seconds


def arms_of(world: RolloutWorld, rollout_id: str, group: int = 0) -> Arms:
    rolling = HealthRollUp(world.database, offline_after_s=OFFLINE_S)
    while rolling.roll_up():
        pass
    with world.database.read() as session:
        rollout, _ = find_rollout(session, rollout_id)
        return read_arms(session, rollout, rollout.groups[group], world.now, offline_after_s=OFFLINE_S)


def soaking(
    world: RolloutWorld, past_s: float = BASELINE_S, *, dynamic: bool = False, **gates: object
) -> tuple[str, list[str]]:
    """A rollout whose first group has the release since now, after a past; and who is in that group."""
    world.now = 1_000_200.0
    live(world, past_s, anomaly_rate=0.1, memory_pss_bytes=1000, sight=0.9)
    rollout = world.started(groups=GROUPS, gates=GATES | gates, limits=[], dynamic=dynamic)
    canaries = world.members(rollout, 0)
    world.install(canaries)
    world.tick()
    assert world.view(rollout).groups[0].state == GroupState.SOAKING
    return rollout, canaries


def of(arms: Arms, device: str) -> int:
    return arms.devices.index(device)


def test_a_look_sees_each_device_before_and_after_and_who_has_the_release(world: RolloutWorld) -> None:
    rollout, canaries = soaking(world)
    live(world, WARM_UP_S, inference_p99_us=9999.0)  # a fresh start is left out
    others = [device for device in world.devices if device not in canaries]
    figures = {"inference_p99_us": 200.0, "anomaly_rate": 0.5, "interval_judged": 10, "drift_score": 0.2}
    live(world, 600.0, *canaries, **figures, memory_pss_bytes=2000, sight=0.5)
    world.now -= 600.0
    live(world, 600.0, *others, inference_p99_us=110.0)
    world.now += 1.0
    arms = arms_of(world, rollout)
    assert sorted(arms.devices) == world.devices
    assert {d for d, has in zip(arms.devices, arms.is_canary, strict=True) if has} == set(canaries)
    row, other = of(arms, canaries[0]), of(arms, others[0])
    before, after = arms.before, arms.after
    assert before.hours[row] == pytest.approx(119 * 30 / 3600)
    assert before.log_latency[row] == pytest.approx(math.log(100))
    assert (before.windows[row], before.judged[row]) == (2380, 2380)
    assert before.over[row] == pytest.approx(238)
    assert before.sight[row] == pytest.approx(0.9)
    assert before.memory_slope[row] == pytest.approx(0.0, abs=1e-6)
    assert (after.windows[row], after.judged[row], after.unjudged[row]) == (200, 100, 100)
    assert after.over[row] == pytest.approx(50)
    assert after.log_latency[[row, other]] == pytest.approx(np.log([200, 110]))
    assert after.log_drift[row] == pytest.approx(math.log(0.21))
    assert (after.sight[row], np.isnan(after.sight[other])) == (pytest.approx(0.5), True)
    assert after.restarts.sum() == before.restarts.sum() == 0
    assert np.isnan(after.first_event_hours).all()
    assert arms.hazard_hours == pytest.approx(12 * 119 * 30 / 3600)
    assert arms.placebos is None


def test_what_was_said_before_the_commit_is_no_evidence_though_it_comes_after_it(world: RolloutWorld) -> None:
    rollout, (canary, *_) = soaking(world)
    live(world, WARM_UP_S + 600)
    arms = arms_of(world, rollout)
    said = {"release": "pump/2", "anomaly_rate": 1.0, "boot_id": "boot-0"}  # in its trial, kept in its outbox
    world.tell_health([(canary, world.now - 1)] * 3, **said)
    late = arms_of(world, rollout)
    row = of(arms, canary)
    assert late.after.windows[row] == arms.after.windows[row] == 180
    assert late.after.over[row] == 0
    world.health(canary, rate=1.0)
    assert arms_of(world, rollout).after.windows[row] == 180  # until now, which is not in it
    world.now += 1
    assert arms_of(world, rollout).after.over[row] == 20, "what is said after it is"


def test_no_device_makes_the_past_longer_than_it_was(world: RolloutWorld) -> None:
    rollout, _ = soaking(world)
    with world.database.write() as session:
        said = HealthRecord.device == world.devices[0]
        session.execute(update(HealthRecord).where(said).values(interval_s=86400.0))
    live(world, WARM_UP_S + 600)
    arms = arms_of(world, rollout)
    assert arms.before.hours.max() <= BASELINE_S / 3600
    assert arms.hazard_hours <= 12 * BASELINE_S / 3600


def test_a_leak_is_a_slope_and_an_outbox_that_is_emptied_at_once_is_none(world: RolloutWorld) -> None:
    rollout, (leaky, flushed, *_) = soaking(world)
    world.now += WARM_UP_S
    for minute in range(60):
        world.now += 60
        world.health(leaky, memory=round(1e7 * math.exp(0.1 * minute / 60)))
    world.health(flushed, times=50, memory=10**7)
    world.now += 1
    slope = arms_of(world, rollout).after.memory_slope
    arms = arms_of(world, rollout)
    assert slope[of(arms, leaky)] == pytest.approx(0.1, rel=1e-3)
    assert np.isnan(slope[of(arms, flushed)])


def test_a_canary_that_falls_silent_has_an_event_and_one_that_was_away_before_has_none(
    world: RolloutWorld,
) -> None:
    rollout, (dies, sleeps, well) = soaking(world)
    others = [device for device in world.devices if device not in {dies, sleeps, well}]
    away, *rest = others
    with world.database.write() as session:  # it was away for a while when the group began
        long_ago = HealthRecord.received_at < world.now - 1000
        session.execute(delete(HealthRecord).where(HealthRecord.device == away, ~long_ago))
    live(world, WARM_UP_S / 2, dies, sleeps, well, *rest)  # away is away, and one dies in the warm-up
    live(world, WARM_UP_S / 2, sleeps, well, *rest)
    live(world, 600, sleeps, well, *rest)
    live(world, 300, well, *rest)  # longer than a device counts as online
    live(world, 600, sleeps, well, away, *rest)
    arms = arms_of(world, rollout)
    shown = arms.after
    assert shown.hours[of(arms, dies)] == 0
    assert (shown.restarts[of(arms, dies)], shown.first_event_hours[of(arms, dies)]) == (1, 0)
    assert shown.restarts[of(arms, sleeps)] == 1
    assert shown.first_event_hours[of(arms, sleeps)] * 3600 == pytest.approx(600 + OFFLINE_S)
    for device in (well, away, *rest):
        assert shown.restarts[of(arms, device)] == 0, device
        assert np.isnan(shown.first_event_hours[of(arms, device)])
    assert shown.hours[of(arms, away)] > 0


def test_a_broker_that_is_away_silences_both_arms(world: RolloutWorld) -> None:
    rollout, _ = soaking(world)
    live(world, WARM_UP_S + 300)
    world.now += 900
    live(world, 300)
    arms = arms_of(world, rollout)
    assert arms.after.restarts.tolist() == [1] * 12
    assert len(set(arms.after.first_event_hours)) == 1


def test_a_start_is_an_event_and_those_before_are_the_fleets_hazard(world: RolloutWorld) -> None:
    world.now = 1_000_200.0
    for number, ago in ((7, BASELINE_S + 1), (8, BASELINE_S), (9, 1.0)):
        with world.database.write() as session:
            session.add(make_boot(world.devices[number], number, world.now + BASELINE_S - ago))
    rollout, canaries = soaking(world)
    assert arms_of(world, rollout).hazard_events == 2
    live(world, WARM_UP_S + 120)
    with world.database.write() as session:
        session.add(make_boot(canaries[0], 10, world.now))
    live(world, 120)
    arms = arms_of(world, rollout)
    assert arms.after.restarts[of(arms, canaries[0])] == 1
    assert arms.after.first_event_hours[of(arms, canaries[0])] * 3600 == pytest.approx(120)
    assert arms.after.restarts.sum() == 1


def test_who_is_shut_out_is_no_evidence_and_with_the_last_canary_there_is_none(world: RolloutWorld) -> None:
    rollout, canaries = soaking(world)
    live(world, WARM_UP_S + 300)
    with world.database.write() as session:
        session.execute(update(Device).where(Device.id.in_(canaries[:2])).values(state=DeviceState.REVOKED))
    arms = arms_of(world, rollout)
    assert (arms.is_canary.sum(), len(arms.devices)) == (1, 10)
    with world.database.write() as session:
        session.execute(update(Device).where(Device.id.in_(canaries)).values(state=DeviceState.REVOKED))
    arms = arms_of(world, rollout)
    assert arms.is_canary.sum() == 0


def test_who_enrols_after_the_rollout_began_is_of_neither_arm(world: RolloutWorld) -> None:
    """They were drawn by nobody, and whoever installs a machine switches it off and on again."""
    rollout, _ = soaking(world, dynamic=True)
    live(world, WARM_UP_S)
    with world.database.write() as session:
        session.add_all(make_device(f"new{n}", world.now) for n in range(8))
        session.add_all(make_boot(f"new{n}", 2, world.now) for n in range(8))
    world.tick(60)
    world.install([name for name in (f"new{n}" for n in range(8)) if world.desired(name)])
    live(world, 600)
    with world.database.read() as session:
        assert len(find_rollout(session, rollout)[0].executions) == len(world.devices) + 8
    assert sorted(arms_of(world, rollout).devices) == world.devices


def test_a_device_that_never_was_heard_shows_nothing_and_fell_not_silent(world: RolloutWorld) -> None:
    world.devices, mute = world.devices[:-1], world.devices[-1]
    rollout, canaries = soaking(world)
    live(world, WARM_UP_S + 300)
    arms = arms_of(world, rollout)
    row = of(arms, mute)
    if mute not in canaries:
        assert (arms.before.hours[row], arms.after.hours[row], arms.after.restarts[row]) == (0, 0, 0)


def test_verdicts_count_for_the_device_whose_anomaly_it_was(world: RolloutWorld) -> None:
    rollout, (canary, *_) = soaking(world)
    live(world, WARM_UP_S + 60)
    with world.database.write() as session:
        for number, said in enumerate(["false_alarm", "false_alarm", "true_alarm"]):
            session.add(
                Anomaly(
                    **world._event(canary),
                    release="pump/2",
                    score=2.0,
                    threshold=1.0,
                    window_index=number,
                    windows_over=1,
                    observed_at_s=0.0,
                    contributors=[],
                    window=None,
                    window_shape=[],
                    window_withheld=None,
                    episode=None,
                )
            )
            session.flush()
            session.add(
                VerdictRecord(
                    anomaly=number + 1,
                    family="pump",
                    release="pump/2",
                    verdict=said,
                    author="ann",
                    note="",
                    given_at=world.now + 30,
                    first_given_at=world.now + 30,
                )
            )
    world.now += 60
    arms = arms_of(world, rollout)
    assert (arms.after.true_alarms.sum(), arms.after.false_alarms.sum()) == (1, 2)
    assert arms.after.false_alarms[of(arms, canary)] == 2


def test_one_canary_is_compared_with_past_hours_of_all(world: RolloutWorld) -> None:
    world.now = 1_000_200.0
    live(world, 3 * BASELINE_S, every_s=300.0)
    rollout = world.started(
        groups=[{"percentage": 5, "soak_s": 3600}, {"percentage": 100}], gates=GATES, limits=[]
    )
    world.install(world.members(rollout, 0))
    world.tick()
    live(world, WARM_UP_S + 300)
    assert arms_of(world, rollout).placebos is None, "less than a block has passed"
    live(world, 1200)
    placebos = arms_of(world, rollout).placebos
    assert placebos is not None
    # 20 minutes each, with two hours before each, of the six hours
    assert set(placebos.block) == set(range(18))
    assert placebos.after.hours[placebos.block == 0].max() == pytest.approx(4 * 30 / 3600)
    assert len(placebos.after) == len(placebos.before) == 18 * 12
    assert placebos.before.hours[placebos.block == 0].tolist() == [pytest.approx(24 * 30 / 3600)] * 12


def test_no_more_of_either_arm_are_looked_at_than_are_needed_and_each_stratum_has_its_share(
    world: RolloutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_evidence, "MOST", 2)
    rollout, _ = soaking(world)
    arms = arms_of(world, rollout)
    assert (arms.is_canary.sum(), (~arms.is_canary).sum()) == (2, 2)
    assert arms_of(world, rollout).devices == arms.devices
    monkeypatch.setattr(gate_evidence, "MOST", 1000)
    world.say(rollout, Verb.TRIGGER_NEXT_GROUP)
    arms = arms_of(world, rollout)
    assert (arms.is_canary.sum(), arms.runs_it.sum()) == (12, 3), "the others have it and do not run it yet"


def test_a_soak_of_many_hours_is_read_from_blocks_where_the_messages_are_gone(
    world: RolloutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout, (canary, *_) = soaking(world)
    live(world, WARM_UP_S + 300, every_s=100.0)  # to a block's beginning
    size = [round(1e7 * math.exp(0.02 * n / 36)) for n in range(216)]
    times = [world.now + 100.0 * (n + 1) for n in range(216)]
    world.tell(
        {"device": canary, "received_at": at, "memory_pss_bytes": bytes_, "anomaly_rate": 0.5}
        for at, bytes_ in zip(times, size, strict=True)
        if not 100 <= times.index(at) < 103  # and silent for a while
    )
    world.now = times[-1] + 1
    arms_of(world, rollout)
    with world.database.write() as session:
        session.execute(delete(HealthRecord).where(HealthRecord.received_at < world.now - 3 * 3600))
    arms = arms_of(world, rollout)
    row, shown = of(arms, canary), arms.after
    # of the first, unfinished block nothing, and at the border one message whose interval began before it
    assert shown.windows[row] == pytest.approx(213 * 20, abs=100)
    assert shown.over[row] == pytest.approx(shown.windows[row] / 2, abs=20)
    assert shown.memory_slope[row] == pytest.approx(0.02, rel=0.01)
    assert shown.restarts[row] == 1
    assert shown.first_event_hours[row] * 3600 == pytest.approx(300 + 100 * 100 + OFFLINE_S, abs=1)


def test_who_puts_it_off_stays_in_the_arm_of_the_lot_and_is_shown_on_what_it_runs(
    world: RolloutWorld,
) -> None:
    world.now = 1_000_200.0
    live(world, BASELINE_S, anomaly_rate=0.1)
    success = {"threshold_pct": 60}
    rollout = world.started(groups=GROUPS, gates=GATES, limits=[], success=success)
    busy, *others = world.members(rollout, 0)
    world.install(others)
    world.report(busy, InstallStatus.DEFERRED, reason="busy")
    world.tick()
    assert world.view(rollout).groups[0].state == GroupState.SOAKING
    live(world, WARM_UP_S + 600.0, busy, anomaly_rate=0.5)
    world.now -= WARM_UP_S + 600.0
    live(world, WARM_UP_S + 600.0, *(device for device in world.devices if device != busy))
    arms = arms_of(world, rollout)
    row = of(arms, busy)
    assert (arms.is_canary[row], arms.runs_it[row]) == (True, False)
    assert (arms.is_canary.sum(), arms.runs_it.sum()) == (3, 2)
    assert arms.after.over[row] == pytest.approx(arms.after.judged[row] / 2)
    assert arms.after.judged[row] > 0
