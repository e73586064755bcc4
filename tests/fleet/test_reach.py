"""How many devices a word to a rollout reaches, why devices failed, and what became of a release: counted by either database."""

from __future__ import annotations

from rollout_world import RolloutWorld

from fleet.lookups.release_lineage import read_lineage
from fleet.rollouts.reach import count_failures, read_reach
from fleet.rollouts.states import Verb
from fleet.storage.release_tables import Release
from protocol.messages.kinds import InstallStatus


def test_a_word_reaches_who_waits_who_has_it_and_who_may_be_tried_again(world: RolloutWorld) -> None:
    rollout = world.started(
        groups=[{"count": 6}, {"percentage": 100}], success={"threshold_pct": 10, "min_devices": 6}
    )
    first = world.members(rollout, 0)
    world.report(first[0], InstallStatus.SUCCEEDED)
    world.report(first[1], InstallStatus.IN_PROGRESS)
    for device in first[2:4]:
        world.report(device, InstallStatus.FAILED, reason="disk full")
    world.report(first[4], InstallStatus.FAILED, reason="no power")
    world.say(rollout, Verb.PAUSE)
    with world.database.read() as session:
        reach, failures = read_reach(session, rollout), count_failures(session, rollout)
        nobody = read_reach(session, "ro-nothing")
    assert (reach.all, reach.waiting, reach.holding) == (12, 6, 6)
    assert (reach.under_way, reach.retryable, reach.waiting_in) == (1, 3, {0: 0, 1: 6})
    assert [(one.state, one.reason, one.devices) for one in failures] == [
        ("FAILED", "disk full", 2),
        ("FAILED", "no power", 1),
    ]
    assert failures[0].example in first[2:4]
    assert (nobody.all, nobody.waiting_in) == (0, {})
    world.now += 1
    world.say(rollout, Verb.ROLLBACK)
    with world.database.read() as session:
        assert read_reach(session, rollout).holding == 0, "who was told to go back is no more to be reached"


def test_a_release_knows_its_rollouts_its_devices_and_its_children(world: RolloutWorld) -> None:
    rollout = world.started()
    with world.database.write() as session:
        child = session.get_one(Release, ("pump", 3))
        child.manifest = {"provenance": {"parent": "pump/2"}}
    with world.database.read() as session:
        before, found = read_lineage(session, "pump", 1), read_lineage(session, "pump", 2)
        nothing = read_lineage(session, "pump", 99)
    assert (before.running, before.rollouts, before.verdicts) == (12, [], None)
    assert [one.id for one in found.rollouts] == [rollout]
    assert found.children == ["pump/3"]
    assert (nothing.running, nothing.children) == (0, [])
