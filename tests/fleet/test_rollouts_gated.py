"""Releases whose harm only figures show: slower, leaking, blind, dying. Each is stopped at the canary, and a good one is not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gated_machines import GATES, SOAK_S, WARM_UP_S, Harm, Machines
from sqlalchemy import select, update

from fleet.rollouts.states import RolloutState, Verb
from fleet.storage.command_tables import CommandRecord
from fleet.storage.device_tables import Device, DeviceState


@pytest.fixture
def machines(database_url: str) -> Iterator[Machines]:
    machines = Machines(database_url)
    yield machines
    machines.world.close()


@pytest.mark.parametrize(
    ("harm", "metric"),
    [
        ({"latency": 1.3}, "latency"),
        ({"leak": 0.15}, "memory"),
        ({"sight": 0.2}, "sight"),
        ({"rate": 5.0}, "anomaly rate"),
    ],
    ids=["slower", "leaks", "blind", "alarms"],
)
def test_a_harmful_release_is_stopped_at_the_canary_and_withdrawn(
    machines: Machines, harm: Harm, metric: str
) -> None:
    rollout = machines.begin()
    view = machines.soak(rollout, harm)
    assert view.state is RolloutState.ROLLING_BACK, view.reason
    assert metric in view.groups[0].reason
    assert machines.world.release(2).withdrawn_at is not None
    assert view.groups[1].state == "SCHEDULED"
    last = view.groups[0].looks[-1]
    assert last.finding == "STOP"
    assert [one.number for one in view.groups[0].looks] == list(range(1, len(view.groups[0].looks) + 1))
    stopped = [answer for answer in last.answers if answer.finding == "STOP"]
    assert all(one.p is not None and one.level is not None and one.p <= one.level for one in stopped)
    assert any(line.state == "LOOK_STOP" for line in view.timeline)


def test_a_good_release_passes_and_the_looks_say_how_sure_that_is(machines: Machines) -> None:
    rollout = machines.begin(12, gates=GATES | {"metrics": ["latency_p99", "sight", "memory"]})
    view = machines.soak(rollout)
    assert view.state is RolloutState.RUNNING, view.reason
    assert [group.state for group in view.groups] == ["PASSED", "RUNNING"]
    assert [look.finding for look in view.groups[0].looks] == ["NOT_SEEN"] * 5 + ["PASS"]
    latency = next(a for a in view.groups[0].looks[-1].answers if a.metric == "latency_p99")
    assert latency.low is not None
    assert latency.high is not None
    assert latency.low < 1 < latency.high < 1.2
    assert (latency.canaries, latency.controls) == (12, 28)


@pytest.mark.parametrize("fate", ["revoked", "dead"])
@pytest.mark.parametrize("on_not_seen", ["ask-once", "pause", "continue"])
def test_a_canary_that_is_gone_is_no_evidence_and_nobody_else_gets_the_release(
    machines: Machines, fate: str, on_not_seen: str
) -> None:
    rollout = machines.begin(3, gates=GATES | {"on_not_seen": on_not_seen})
    if fate == "dead":
        machines.dead |= set(machines.canaries(rollout)[:1])
    else:
        with machines.world.database.write() as session:
            gone = Device.id.in_(machines.canaries(rollout))
            session.execute(update(Device).where(gone).values(state=DeviceState.REVOKED))
    machines.live(WARM_UP_S)
    machines.dead |= set(machines.canaries(rollout))
    view = machines.soak(rollout)
    assert view.state is RolloutState.PAUSED, view.reason
    assert "no evidence" in view.reason or "nothing is known" in view.reason
    assert [group.state for group in view.groups] == ["SOAKING", "SCHEDULED"]
    others = [device for device in machines.world.devices if device not in machines.canaries(rollout)]
    assert all(machines.world.desired(device) is None for device in others)
    assert machines.world.release(2).withdrawn_at is None


def test_what_is_not_seen_pauses_and_who_resumes_watches_on_for_twice_as_long(machines: Machines) -> None:
    machines.rate = dict.fromkeys(machines.world.devices, 0.0002)
    rollout = machines.begin(3, gates=GATES | {"metrics": ["anomaly_rate"]})
    view = machines.soak(rollout)
    assert view.state is RolloutState.PAUSED
    assert "not excluded" in view.reason
    assert machines.world.release(2).withdrawn_at is None
    machines.world.say(rollout, Verb.RESUME)
    machines.live(SOAK_S - 10)
    machines.world.tick()
    assert "the gates: a look after the soak (1) in 10 s" in machines.world.view(rollout).waiting_for
    machines.live(10, None)
    machines.world.tick(1)
    looks = machines.world.view(rollout).groups[0].looks
    assert [(one.number, one.is_last) for one in looks[-2:]] == [(6, True), (7, True)]
    machines.world.say(rollout, Verb.RESUME)
    machines.world.say(rollout, Verb.TRIGGER_NEXT_GROUP)
    assert machines.world.view(rollout).groups[1].state == "RUNNING"


def test_the_first_release_of_a_fleet_has_nothing_to_be_compared_with_and_says_so(machines: Machines) -> None:
    with machines.world.database.write() as session:
        session.execute(update(Device).values(release=None))
    rollout = machines.begin(past_s=0.0)
    view = machines.soak(rollout)
    assert view.groups[0].state == "PASSED"
    assert "nothing to compare with: no device ran a release before" in view.groups[0].reason


def test_a_paused_rollout_is_not_looked_at_and_a_missed_look_is_made_up_for(machines: Machines) -> None:
    rollout = machines.begin()
    machines.world.say(rollout, Verb.PAUSE)
    machines.live(WARM_UP_S + SOAK_S / 2, {"latency": 1.5})
    machines.world.tick()
    assert machines.world.view(rollout).groups[0].looks == []
    machines.world.say(rollout, Verb.RESUME)
    for _ in range(6):
        machines.world.tick()
    assert machines.world.view(rollout).state is RolloutState.ROLLING_BACK


def test_a_group_that_does_not_soak_is_not_judged_and_says_so(machines: Machines) -> None:
    rollout = machines.begin(groups=[{"count": 6}, {"percentage": 100}])
    view = machines.world.view(rollout)
    assert view.groups[0].state == "PASSED"
    assert "not judged by the gates: it does not soak" in view.groups[0].reason


def test_devices_that_never_said_anything_are_no_canaries(machines: Machines) -> None:
    machines.world.devices, mute = machines.world.devices[:5], machines.world.devices[5:]
    rollout = machines.begin(6)
    assert sorted(machines.canaries(rollout)) == sorted(
        [*machines.world.devices, *machines.canaries(rollout)[5:]]
    )
    assert set(machines.world.devices) <= set(machines.canaries(rollout))
    assert len(mute) == 35


def test_of_the_last_group_some_wait_until_the_rest_has_soaked_and_are_its_controls(
    machines: Machines,
) -> None:
    rollout = machines.begin(
        gates=GATES | {"hold_out": 10, "metrics": ["latency_p99"], "on_not_seen": "continue"}
    )
    groups = machines.world.view(rollout).groups
    assert [(group.name, group.devices) for group in groups] == [("canary", 6), ("all", 24), ("held out", 10)]
    machines.soak(rollout)
    machines.world.install(machines.world.members(rollout, 1))
    machines.world.tick()
    view = machines.soak(rollout, {"latency": 1.0})
    (last,) = view.groups[1].looks[-1].answers
    assert (last.canaries, last.controls) == (30, 10)
    assert [group.state for group in view.groups] == ["PASSED", "PASSED", "RUNNING"]
    machines.world.install(machines.world.members(rollout, 2))
    machines.world.tick()
    assert machines.world.view(rollout).state is RolloutState.COMPLETED


def test_harm_that_begins_late_is_stopped_in_the_last_group_by_those_held_out(machines: Machines) -> None:
    rollout = machines.begin(
        gates=GATES | {"hold_out": 10, "metrics": ["latency_p99"], "on_not_seen": "continue"}
    )
    machines.soak(rollout)
    machines.world.install(machines.world.members(rollout, 1))
    machines.world.tick()
    view = machines.soak(rollout, {"latency": 1.3})
    assert view.state is RolloutState.ROLLING_BACK
    held = machines.world.members(rollout, 2)
    assert all(machines.world.desired(device) is None for device in held)


def test_controls_start_afresh_with_the_canaries_where_a_plan_asks_for_it(machines: Machines) -> None:
    rollout = machines.begin(gates=GATES | {"reactivate_controls": True})
    others = sorted(set(machines.world.devices) - set(machines.canaries(rollout)))
    machines.world.tick()
    assert machines.world.publisher.commanded == others, "once"
    with machines.world.database.read() as session:
        given = session.scalars(select(CommandRecord).order_by(CommandRecord.device)).all()
    assert [(one.device, one.action) for one in given] == [(device, "reactivate") for device in others]
    assert {one.expires_at for one in given} == {machines.world.now + WARM_UP_S}
