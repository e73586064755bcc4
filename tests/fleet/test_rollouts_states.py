"""The drawings of `fleet.rollouts.states`, and the verbs that work in each state."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rollout_decisions_world import World, make_rollout

from fleet.errors import ConflictError
from fleet.rollouts.progress import Observations
from fleet.rollouts.states import GroupState, RolloutState, Verb, check_follows, may_follow
from fleet.rollouts.steps import Command
from fleet.rollouts.verbs import carry_out, valid_verbs
from protocol.messages.kinds import InstallStatus

# The drawing of `fleet.rollouts.states` written out once more, arrow by arrow: whoever adds one there says it here too.
ROLLOUT_ARROWS = """
DRAFT → WAITING_FOR_APPROVAL READY CANCELED
WAITING_FOR_APPROVAL → READY CANCELED
READY → RUNNING CANCELED
RUNNING → PAUSED COMPLETED CANCELED ROLLING_BACK
PAUSED → RUNNING CANCELED ROLLING_BACK
ROLLING_BACK → ROLLED_BACK
COMPLETED → ROLLING_BACK CANCELED
"""
GROUP_ARROWS = """
SCHEDULED → RUNNING
RUNNING → SOAKING PASSED FAILED
SOAKING → PASSED FAILED
"""
EXECUTION_ARROWS = """
QUEUED → IN_PROGRESS DEFERRED SUCCEEDED FAILED REJECTED TIMED_OUT CANCELED ROLLED_BACK
IN_PROGRESS → DEFERRED SUCCEEDED FAILED REJECTED TIMED_OUT CANCELED ROLLED_BACK
DEFERRED → IN_PROGRESS SUCCEEDED FAILED REJECTED TIMED_OUT CANCELED ROLLED_BACK
SUCCEEDED → FAILED ROLLED_BACK CANCELED
FAILED → QUEUED SUCCEEDED ROLLED_BACK
TIMED_OUT → QUEUED SUCCEEDED FAILED REJECTED ROLLED_BACK
REJECTED → ROLLED_BACK
"""


@pytest.mark.parametrize(
    ("states", "drawn"),
    [(RolloutState, ROLLOUT_ARROWS), (GroupState, GROUP_ARROWS), (InstallStatus, EXECUTION_ARROWS)],
    ids=["rollout", "group", "execution"],
)
def test_every_state_of_the_drawing_is_reached_only_by_its_arrows(
    states: type[RolloutState | GroupState | InstallStatus], drawn: str
) -> None:
    arrows = {
        (source, target)
        for source, _, *targets in map(str.split, drawn.strip().splitlines())
        for target in targets
    }
    assert {(a.value, b.value) for a in states for b in states if may_follow(a, b)} == arrows


def test_no_arrow_leads_from_one_drawing_into_another() -> None:
    assert not may_follow(RolloutState.READY, GroupState.RUNNING)
    assert not may_follow(GroupState.RUNNING, InstallStatus.FAILED)


def test_a_transition_that_the_drawing_does_not_have_is_refused_by_name() -> None:
    with pytest.raises(ConflictError, match="rollout ro-1 is ROLLED_BACK and cannot become RUNNING"):
        check_follows("rollout ro-1", RolloutState.ROLLED_BACK, RolloutState.RUNNING)


@pytest.mark.parametrize("state", list(RolloutState))
@pytest.mark.parametrize("verb", list(Verb))
def test_a_verb_works_where_it_is_listed_and_is_refused_with_the_list_elsewhere(
    state: RolloutState, verb: Verb
) -> None:
    rollout = replace(make_rollout(), state=state)
    if state in {RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.COMPLETED}:
        started = make_rollout(20, success={"threshold_pct": 50})
        world = World(started)
        world.say(Verb.START)
        first = next(e.device for e in world.rollout.executions.values() if e.is_given)
        world.report(first, InstallStatus.FAILED)
        world.tick()
        rollout = replace(world.rollout, state=state)

    def said() -> list[Command]:
        return carry_out(rollout, verb, actor="bob", observations=Observations(), now=1.0).commands

    if verb in valid_verbs(state):
        assert said()
    else:
        with pytest.raises(ConflictError, match=rf"rollout ro-1 is {state} and cannot {verb}; it obeys: "):
            said()
