"""Rollouts over a real database: the stories that operators live through."""

from __future__ import annotations

import pytest
from rollout_world import RolloutWorld, make_device
from sqlalchemy import delete, update

from fleet.errors import ConflictError, NotFoundError, UnacceptableError
from fleet.rollouts.states import RolloutState, Verb
from fleet.storage.device_tables import Device, DeviceState
from fleet.storage.rollout_tables import DesiredCounter, RolloutRecord
from protocol.messages.kinds import InstallStatus
from service.errors import ForbiddenError


def run_group(world: RolloutWorld, rollout: str, number: int, seconds: float = 11.0) -> None:
    devices = world.members(rollout, number)
    world.install(devices)
    world.tick(0.25)
    for device in devices:
        world.health(device, times=4)
    world.tick(seconds)


def test_a_good_release_reaches_everyone_group_by_group(world: RolloutWorld) -> None:
    rollout = world.started()
    groups = [world.members(rollout, number) for number in range(3)]
    assert [len(group) for group in groups] == [2, 4, 6]
    assert sorted(world.publisher.announced) == sorted(groups[0])
    for number in range(3):
        run_group(world, rollout, number)
    view = world.view(rollout)
    assert view.state is RolloutState.COMPLETED
    assert view.counts == {"SUCCEEDED": 12}
    assert {world.desired(device).release for device in world.devices} == {"pump/2"}  # type: ignore[union-attr]
    assert sorted(world.publisher.announced) == world.devices


def test_the_next_group_waits_for_the_soak(world: RolloutWorld) -> None:
    rollout = world.started()
    run_group(world, rollout, 0, seconds=9.0)
    assert [group.state for group in world.view(rollout).groups] == ["SOAKING", "SCHEDULED", "SCHEDULED"]
    assert world.view(rollout).waiting_for == "1 s more of its soak; anomaly_rate <= 0.3"
    world.tick(1.1)
    assert world.view(rollout).waiting_for == "0 of 4 devices needed run the release"
    assert [group.state for group in world.view(rollout).groups] == ["PASSED", "RUNNING", "SCHEDULED"]


def test_a_harmful_release_is_undone_within_the_soak_and_withdrawn(world: RolloutWorld) -> None:
    rollout = world.started(groups=[{"percentage": 10, "soak_s": 3600}, {"percentage": 100}])
    canary = world.members(rollout, 0)
    world.install(canary)
    world.tick(0.25)
    counters = {device: world.desired(device).counter for device in canary}  # type: ignore[union-attr]
    world.health(canary[0], rate=0.9, times=4)
    world.tick(0.25)
    view = world.view(rollout)
    assert view.state is RolloutState.ROLLING_BACK
    assert f"anomaly_rate <= 0.3 fails on {canary[0]}: 0.9" in view.groups[0].reason
    for device in canary:
        desired = world.desired(device)
        assert desired is not None
        assert (desired.release, desired.counter) == ("pump/1", counters[device] + 1)
        assert desired.bundle_sha256 == f"{1:064x}"
    assert all(world.desired(d) is None for d in set(world.devices) - set(canary))
    world.install(canary)
    world.tick(0.25)
    view = world.view(rollout)
    assert view.state is RolloutState.ROLLED_BACK
    assert view.counts == {"ROLLED_BACK": 2, "CANCELED": 10}
    assert world.release(2).withdrawn_at is not None
    with pytest.raises(ConflictError, match=r"pump/2 was withdrawn .* set force"):
        world.create()
    assert world.create(force=True)


def test_health_from_before_the_commit_does_not_count(world: RolloutWorld) -> None:
    rollout = world.started()
    canary = world.members(rollout, 0)
    for device in canary:
        world.health(device, rate=1.0, times=4)  # still on pump/1
        world.health(device, rate=1.0, times=4, release="pump/2")  # in trial, not committed
    world.install(canary)
    for device in canary:
        world.health(device, rate=1.0, windows=400)  # its interval began before the commit
        world.health(device, rate=0.0, times=3)
    world.tick(0.25)
    world.tick(11)
    assert world.view(rollout).groups[0].state == "PASSED"


def test_a_repeated_success_does_not_make_the_evidence_start_anew(world: RolloutWorld) -> None:
    rollout = world.started()
    canary = world.members(rollout, 0)
    world.install(canary)
    world.tick(0.25)
    for device in canary:
        world.health(device, rate=0.9, times=4)
    world.install(canary)
    world.tick(0.25)
    assert world.view(rollout).state is RolloutState.ROLLING_BACK


def test_a_device_cannot_report_for_another(world: RolloutWorld) -> None:
    rollout = world.started()
    canary = world.members(rollout, 0)
    outsider = next(d for d in world.devices if d not in canary)
    desired = world.desired(canary[0])
    assert desired is not None
    world.report(outsider, InstallStatus.REJECTED, execution=desired.execution)
    world.tick(1)
    assert world.view(rollout).counts == {"QUEUED": 12}


def test_silence_after_the_soak_is_harm(world: RolloutWorld) -> None:
    rollout = world.started(timeout={"health_s": 60})
    world.install(world.members(rollout, 0))
    world.tick(0.25)
    world.tick(50)
    assert world.view(rollout).groups[0].state == "SOAKING"
    world.tick(30)
    view = world.view(rollout)
    assert view.state is RolloutState.ROLLING_BACK
    assert "have not shown enough health" in view.groups[0].reason


def test_the_second_rollout_over_a_device_names_the_first(world: RolloutWorld) -> None:
    first = world.started()
    second = world.create(release="pump/3")
    with pytest.raises(ConflictError, match=rf"12 devices of rollout {second}, among them d00, .*{first}"):
        world.say(second, Verb.START)
    world.say(first, Verb.CANCEL)
    world.say(second, Verb.START)
    assert world.view(second).state is RolloutState.RUNNING


def test_cancel_keeps_what_succeeded_and_returns_the_rest(world: RolloutWorld) -> None:
    rollout = world.started()
    done, open_ = world.members(rollout, 0)
    world.install([done])
    world.tick(0.25)
    world.say(rollout, Verb.CANCEL)
    kept, returned = world.desired(done), world.desired(open_)
    assert kept is not None
    assert returned is not None
    assert (kept.release, returned.release, returned.counter) == ("pump/2", "pump/1", 2)
    assert world.view(rollout).counts == {"SUCCEEDED": 1, "CANCELED": 11}


def test_nothing_is_given_while_paused(world: RolloutWorld) -> None:
    rollout = world.started()
    canary = world.members(rollout, 0)
    world.say(rollout, Verb.PAUSE)
    world.install(canary)
    for device in canary:
        world.health(device, times=4)
    world.tick(60)
    assert world.view(rollout).counts == {"SUCCEEDED": 2, "QUEUED": 10}
    assert sorted(world.publisher.announced) == sorted(canary)
    world.say(rollout, Verb.RESUME)
    world.tick(11)
    assert world.view(rollout).groups[1].state == "RUNNING"


def test_a_device_that_ran_nothing_keeps_what_it_has_and_its_counter_never_comes_again(
    world: RolloutWorld,
) -> None:
    with world.database.write() as session:
        for name in world.devices:
            row = session.get(Device, name)
            assert row is not None
            row.release = None
    rollout = world.started(groups=[{"percentage": 100}])
    world.say(rollout, Verb.ROLLBACK)
    assert all(world.desired(device) is None for device in world.devices)
    assert world.view(rollout).state is RolloutState.ROLLED_BACK
    world.started(release="pump/3", groups=[{"percentage": 100}])
    assert {world.desired(device).counter for device in world.devices} == {3}  # type: ignore[union-attr]


def test_a_fleet_that_lost_its_database_is_ahead_of_every_counter_it_gave_before(world: RolloutWorld) -> None:
    world.now = 1_800_000_000.0
    world.started(groups=[{"percentage": 100}])
    before = world.desired("d00")
    assert before is not None
    with world.database.write() as session:
        session.execute(delete(DesiredCounter))
        session.execute(update(RolloutRecord).values(state="CANCELED"))
    world.now += 60
    world.started(release="pump/3", groups=[{"percentage": 100}])
    after = world.desired("d00")
    assert after is not None
    assert before.counter < after.counter < 2**31
    with world.database.write() as session:
        session.execute(update(RolloutRecord).values(state="CANCELED"))
    world.now -= 86400 * 365  # a clock that falls back takes no counter with it
    world.started(release="pump/2", groups=[{"percentage": 100}], force=True)
    again = world.desired("d00")
    assert again is not None
    assert again.counter == after.counter + 1


def test_the_refusal_of_a_replayed_desired_state_does_not_unsay_how_an_execution_ended(
    world: RolloutWorld,
) -> None:
    rollout = world.started(groups=[{"percentage": 100}], limits=[])
    world.install(world.devices)
    world.tick()
    assert world.view(rollout).state is RolloutState.COMPLETED
    world.report("d00", InstallStatus.REJECTED, reason="not newer")
    world.tick()
    undone = world.started(release="pump/3", groups=[{"percentage": 100}])
    world.say(undone, Verb.ROLLBACK)
    world.install(world.devices)
    world.report("d00", InstallStatus.REJECTED, reason="not newer")
    world.tick()
    assert world.view(undone).state is RolloutState.ROLLED_BACK


def test_a_device_never_goes_back_to_the_release_that_is_undone(world: RolloutWorld) -> None:
    rollout = world.create(groups=[{"percentage": 100}])
    with world.database.write() as session:
        row = session.get(Device, "d00")
        assert row is not None
        row.release = "pump/2"  # it got there by itself between create and start
    world.say(rollout, Verb.START)
    world.say(rollout, Verb.ROLLBACK)
    assert world.desired("d00") is None
    other = world.desired("d01")
    assert other is not None
    assert other.release == "pump/1"


def test_rollback_to_names_the_release_for_everyone(world: RolloutWorld) -> None:
    rollout = world.started(release="pump/3", rollback_to="pump/2")
    canary = world.members(rollout, 0)
    world.say(rollout, Verb.ROLLBACK)
    assert {world.desired(device).release for device in canary} == {"pump/2"}  # type: ignore[union-attr]


def test_a_failed_device_is_tried_again_under_a_new_counter(world: RolloutWorld) -> None:
    rollout = world.started(retry={"FAILED": 1})
    device, other = world.members(rollout, 0)
    world.report(device, InstallStatus.FAILED, reason="disk full")
    world.tick(0.25)
    desired = world.desired(device)
    assert desired is not None
    assert (desired.release, desired.counter, desired.execution) == ("pump/2", 2, f"{rollout}:{device}:2")
    world.install([other])
    world.report(device, InstallStatus.FAILED, reason="disk full")
    world.tick(0.25)
    assert world.view(rollout).state is RolloutState.ROLLING_BACK


def test_a_revoked_device_is_left_out(world: RolloutWorld) -> None:
    rollout = world.started()
    gone, stays = world.members(rollout, 0)
    with world.database.write() as session:
        row = session.get(Device, gone)
        assert row is not None
        row.state = DeviceState.REVOKED
    world.install([stays])
    world.tick(0.25)
    view = world.view(rollout)
    assert view.groups[0].state == "SOAKING"
    assert view.groups[0].counts == {"SUCCEEDED": 1, "CANCELED": 1}


def test_unconfirmed_devices_do_not_hold_up_the_end_of_a_rollback(world: RolloutWorld) -> None:
    rollout = world.started(timeout={"rollback_s": 60})
    device, other = world.members(rollout, 0)
    world.install([device, other])
    world.tick(0.25)
    world.say(rollout, Verb.ROLLBACK)
    world.install([device])
    world.tick(61)
    view = world.view(rollout)
    assert view.state is RolloutState.ROLLED_BACK
    assert f"1 online have not confirmed ({other})" in view.timeline[-1].reason


def test_a_device_that_never_left_its_release_confirms_by_its_health(world: RolloutWorld) -> None:
    rollout = world.started()
    canary = world.members(rollout, 0)
    world.say(rollout, Verb.ROLLBACK)
    world.tick(4)
    for device in canary:
        world.health(device)
    world.tick(0)
    assert world.view(rollout).state is RolloutState.ROLLING_BACK
    world.now += 2
    for device in canary:
        world.health(device)
    world.tick(0)
    assert world.view(rollout).state is RolloutState.ROLLED_BACK


def test_a_straggler_may_still_finish_after_the_rollout_completed(world: RolloutWorld) -> None:
    rollout = world.started(groups=[{"percentage": 100}], success={"threshold_pct": 50}, limits=[])
    world.install(world.devices[:6])
    world.tick(0.25)
    assert world.view(rollout).state is RolloutState.COMPLETED
    world.install(world.devices[6:7])
    world.tick(0.25)
    assert world.view(rollout).counts == {"SUCCEEDED": 7, "QUEUED": 5}
    world.started(release="pump/3", groups=[{"percentage": 100}])
    assert world.view(rollout).counts == {"SUCCEEDED": 7, "CANCELED": 5}


def test_approval_needs_a_second_person(world: RolloutWorld) -> None:
    rollout = world.create(require_approval=True)
    with pytest.raises(
        ConflictError, match=r"WAITING_FOR_APPROVAL and cannot start; it obeys: approve, cancel"
    ):
        world.say(rollout, Verb.START)
    with pytest.raises(ForbiddenError, match="a second person must approve"):
        world.say(rollout, Verb.APPROVE)
    world.say(rollout, Verb.APPROVE, actor="operator:bob")
    world.say(rollout, Verb.START)
    assert world.view(rollout).state is RolloutState.RUNNING


def test_trigger_next_group_does_not_wait_for_the_soak(world: RolloutWorld) -> None:
    rollout = world.started()
    world.say(rollout, Verb.TRIGGER_NEXT_GROUP)
    assert [group.state for group in world.view(rollout).groups] == ["PASSED", "RUNNING", "SCHEDULED"]


def test_a_rollout_needs_devices_and_releases_that_exist(world: RolloutWorld) -> None:
    with pytest.raises(
        UnacceptableError, match=r"'hardware==cray' selects no enrolled device of family 'pump'"
    ):
        world.create(target_query="hardware==cray")
    with pytest.raises(NotFoundError, match="no release pump/9"):
        world.create(release="pump/9")
    with pytest.raises(UnacceptableError, match=r"all 12 targeted devices run pump/1 already"):
        world.create(release="pump/1")
    with pytest.raises(NotFoundError, match="there is no rollout 'ro-x'"):
        world.view("ro-x")


def test_devices_of_another_family_are_never_targeted(world: RolloutWorld) -> None:
    with world.database.write() as session:
        stranger = make_device("stranger", world.now)
        stranger.family = "fan"
        session.add(stranger)
    rollout = world.create()
    assert "stranger" not in {d for number in range(3) for d in world.members(rollout, number)}


def test_the_timeline_tells_the_whole_story(world: RolloutWorld) -> None:
    rollout = world.started(groups=[{"name": "canary", "percentage": 100}])
    world.say(rollout, Verb.ROLLBACK, actor="operator:bob")
    lines = world.view(rollout).timeline
    rollout_lines = [(line.was, line.state) for line in lines if line.subject == "rollout"]
    assert rollout_lines == [
        (None, "DRAFT"),
        ("DRAFT", "READY"),
        ("READY", "RUNNING"),
        ("RUNNING", "ROLLING_BACK"),
    ]
    assert [line.actor for line in lines if line.state == "ROLLING_BACK"] == ["operator:bob"]
    assert sum(line.state == "GIVEN_BACK" for line in lines) == 12
    assert any(line.subject == "release" and line.state == "WITHDRAWN" for line in lines)
    assert all(line.reason for line in lines if line.subject != "device")


def test_deciding_again_changes_nothing(world: RolloutWorld) -> None:
    rollout = world.started()
    before = world.view(rollout)
    world.tick(0)
    assert world.view(rollout) == before


def test_every_desired_state_is_announced_at_the_start(world: RolloutWorld) -> None:
    rollout = world.started()
    canary = sorted(world.members(rollout, 0))
    world.publisher.announced.clear()  # killed after the commit, before the announcement was sent
    world.engine.announce_all()
    assert world.publisher.announced == canary
