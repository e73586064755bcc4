"""Reports that come late: what a fleet that died did not acknowledge, and the outbox of an earlier boot, unsay nothing."""

from __future__ import annotations

from rollout_world import RolloutWorld

from fleet.api.rollout_views import view_executions
from protocol.messages.kinds import InstallStatus, InstallStep


def test_what_a_fleet_that_died_did_not_acknowledge_comes_late_and_unsays_nothing(
    world: RolloutWorld,
) -> None:
    rollout = world.started()
    canary = world.members(rollout, 0)
    world.install(canary)
    for device in canary:
        world.report(device, InstallStatus.IN_PROGRESS, step=InstallStep.TRIAL, sequence=0)
        world.health(device, times=4)
    world.tick(0.25)
    with world.database.read() as session:
        shown = view_executions(session, rollout, 0, after="", limit=10)
    assert {(one.state, one.step) for one in shown} == {(InstallStatus.SUCCEEDED, InstallStep.COMMITTED)}
    world.tick(11)
    assert world.view(rollout).groups[0].state == "PASSED"


def test_a_report_of_an_earlier_boot_that_comes_late_unsays_nothing(world: RolloutWorld) -> None:
    rollout = world.started(groups=[{"percentage": 100}])
    world.install(world.devices)
    world.report("d00", InstallStatus.IN_PROGRESS, boot_id="boot-0")
    world.tick()
    assert world.view(rollout).counts == {"SUCCEEDED": 12}
