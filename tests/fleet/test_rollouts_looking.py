"""A look takes seconds of a large fleet: other rollouts go on meanwhile, and what came of it is taken if it still fits."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from rollout_world import RolloutWorld
from waiting import wait_until

from fleet.gates.answers import Finding, LookAnswer
from fleet.rollouts import looking
from fleet.rollouts.progress import LookTaken, Rollout
from fleet.rollouts.states import RolloutState, Verb

GATED: dict[str, Any] = {
    "groups": [{"percentage": 50, "soak_s": 10}, {"percentage": 100}],
    "gates": {"warm_up_s": 0},
    "limits": [],
}
ALONE: dict[str, Any] = {"groups": [{"percentage": 100}], "limits": [], "release": "pump/3"}


class Slow:
    """The gates, which stop the release as soon as the test lets them say so."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.begun, self.may_end, self.times = threading.Event(), threading.Event(), 0
        patch.setattr(looking, "look_if_due", self.look)

    def look(self, _session: object, rollout: Rollout, now: float, **_: float) -> LookTaken | None:
        number, group = rollout.due_look(now), rollout.present_group
        if number is None or group is None:
            return None
        self.times += 1
        self.begun.set()
        assert self.may_end.wait(60)
        answer = LookAnswer(finding=Finding.STOP, reason="it harms", number=1, of=1, is_last=True, answers=())
        return LookTaken(group=group.number, number=number, answer=answer)


async def run(world: RolloutWorld, story: Any) -> None:
    running = asyncio.create_task(world.engine.run())
    try:
        await asyncio.to_thread(story)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("happens", ["nothing", "a person rolls it back", "a person goes on"])
def test_other_rollouts_go_on_while_the_gates_look(
    world: RolloutWorld, monkeypatch: pytest.MonkeyPatch, happens: str
) -> None:
    slow = Slow(monkeypatch)
    watched = world.started(**GATED, target_query="id=in=(d00,d01,d02,d03)")
    other = world.started(**ALONE, target_query="id=in=(d08,d09)")

    def story() -> None:
        world.install(world.members(watched, 0))
        world.engine.wake()
        wait_until(lambda: world.view(watched).groups[0].state == "SOAKING", "the soak")
        world.now += 10
        world.engine.wake()
        assert slow.begun.wait(60)
        world.install(["d08", "d09"])
        world.engine.wake()
        wait_until(lambda: world.view(other).state is RolloutState.COMPLETED, "the other one to end")
        assert world.view(watched).groups[0].state == "SOAKING"
        if happens == "a person goes on":
            world.say(watched, Verb.TRIGGER_NEXT_GROUP)
        elif happens == "a person rolls it back":
            world.say(watched, Verb.ROLLBACK)
        slow.may_end.set()
        if happens == "a person goes on":
            wait_until(lambda: slow.times == 1 and not world.engine._looking._begun, "the look to end")
            assert world.view(watched).state is RolloutState.RUNNING, "it was about a group that is over"
        else:
            wait_until(lambda: world.view(watched).state is RolloutState.ROLLING_BACK, "the way back")
        assert slow.times == 1

    try:
        asyncio.run(run(world, story))
    finally:
        slow.may_end.set()
