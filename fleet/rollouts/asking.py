"""Where a soak ends and the gates can say nothing: whether a person is asked, and what is said to them before the start.

Nobody is asked what they could have been told before. A group may be too small to exclude harm, whatever it shows: the preview
says so, and a rollout that waits for its start does; whoever starts it has answered. Such a group is watched for harm all the
same. And who has let a group go on that the gates could say nothing of is not asked again by the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fleet.gates import words
from fleet.gates.answers import LookAnswer
from fleet.gates.looks import look_times
from fleet.gates.plan import Metric, OnNotSeen
from fleet.gates.too_few import cannot_pass
from fleet.rollouts.plans import RolloutPlan
from fleet.rollouts.progress import Group, Rollout
from fleet.rollouts.states import GroupState

_FOLLOWS: Final = {
    OnNotSeen.ASK_ONCE: "if that alone is open when they have soaked, the rollout goes on: to start it is to agree",
    OnNotSeen.PAUSE: "when they have soaked the rollout pauses for a person",
    OnNotSeen.CONTINUE: "when they have soaked the rollout goes on",
}

__all__ = ["foretell_asking", "sizes_of", "why_it_goes_on"]


def why_it_goes_on(rollout: Rollout, group: Group, look: LookAnswer) -> str:
    """Why a group goes on of which the gates could say nothing at the end of its soak, in words; empty: a person is asked."""
    gates = rollout.plan.gates
    if gates is None or gates.on_not_seen is OnNotSeen.PAUSE:
        return ""
    if gates.on_not_seen is OnNotSeen.CONTINUE:
        return "goes on by its plan (on_not_seen)"
    if any(_was_let_go(one) for one in rollout.groups):
        return "goes on, for a person went on without the gates before"
    too_few = cannot_pass(gates.metrics, *_arms(sizes_of(rollout), group.number))
    if look.open and set(look.open) <= set(too_few):
        return "goes on, for it was known before the start that so few devices cannot pass"
    return ""


def _was_let_go(group: Group) -> bool:
    """Whether a person did not wait for a group any longer whose soak had ended without a word of the gates."""
    has_soaked = group.soak_s > 0 and group.looks >= len(look_times(group.soak_s))
    return has_soaked and group.state is GroupState.PASSED and not group.is_cleared


def sizes_of(rollout: Rollout) -> list[int]:
    """How many devices each group of `rollout` has."""
    return [rollout.index.number(group.number) for group in rollout.groups]


def _arms(sizes: Sequence[int], number: int) -> tuple[int, int]:
    """How many have the release while group `number` soaks, and how many have not."""
    return sum(sizes[: number + 1]), sum(sizes[number + 1 :])


def foretell_asking(plan: RolloutPlan, sizes: Sequence[int]) -> tuple[str, ...]:
    """What the groups of `plan`, with so many devices each, cannot show whatever they show, and what follows: a sentence a group."""
    gates = plan.gates
    if gates is None or not plan.is_gated:
        return ()
    said = []
    for number, group in enumerate(plan.groups):
        canaries, controls = _arms(sizes, number)
        too_few = cannot_pass(gates.metrics, canaries, controls)
        if group.soak_s and sizes[number] and too_few:
            is_any = set(too_few) >= set(gates.metrics) - {Metric.VERDICTS}  # which are not asked for
            names = "any figure" if is_any else ", ".join(words.NAMES[metric] for metric in too_few)
            said.append(
                f"group {number}: {words.devices(canaries)} with the release and {controls} without are too few to exclude harm to"
                f" {names}, whatever they show; they are watched for it, and {_FOLLOWS[gates.on_not_seen]}"
            )
    return tuple(said)
