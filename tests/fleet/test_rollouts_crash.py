"""A service that is killed at the worst moment: the change is on disk, nobody was told."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rollout_world import RolloutWorld

from fleet.rollouts.states import RolloutState, Verb

pytestmark = pytest.mark.slow

# runs in a child: the publisher kills its own process when it is asked to announce
KILLED_BEFORE_PUBLISHING = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from rollout_world import RolloutWorld
from fleet.rollouts.states import Verb

class Killed:
    def announce(self, devices):
        os.kill(os.getpid(), signal.SIGKILL)

world = RolloutWorld(sys.argv[2])
rollout = world.create()
world.publisher = Killed()
world.say(rollout, Verb(sys.argv[3]))
"""


def test_a_kill_between_commit_and_publish_is_mended_at_the_next_start(database_url: str) -> None:
    arguments = [
        sys.executable,
        "-c",
        KILLED_BEFORE_PUBLISHING,
        str(Path(__file__).parent),
        database_url,
        "start",
    ]
    child = subprocess.run(arguments, check=False)
    assert child.returncode == -signal.SIGKILL
    world = RolloutWorld(database_url, fresh=False)
    try:
        view = world.view("ro-1")
        assert view.state is RolloutState.RUNNING
        assert world.publisher.announced == []
        world.engine.announce_all()
        assert world.publisher.announced == sorted(world.members("ro-1", 0))
        world.say("ro-1", Verb.ROLLBACK)
        counters = {row.counter for d in world.members("ro-1", 0) if (row := world.desired(d))}
        assert counters == {2}
    finally:
        world.close()


def test_a_decision_that_cannot_be_stored_whole_is_not_stored_at_all(database_url: str) -> None:
    world = RolloutWorld(database_url)
    try:
        rollout = world.create(release="pump/3", rollback_to="pump/2")
        world.say(rollout, Verb.START)
        with world.database.write() as session:
            session.delete(world.release(2))  # someone removed what the rollback needs
        canary = world.members(rollout, 0)
        for device in canary:
            world.health(device)
        world.install(canary)
        world.tick(0.25)
        for device in canary:
            world.health(device, rate=0.9, times=4)
        soaking = world.view(rollout)
        world.tick(0.25)  # logged by the engine, which goes on
        assert world.view(rollout) == soaking
        assert {row.release for d in canary if (row := world.desired(d))} == {"pump/3"}
    finally:
        world.close()
