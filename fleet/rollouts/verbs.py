"""What a person (or the aggregator) may tell a rollout to do.

Pure, like `decisions`: a verb on a rollout in the wrong state is refused with the state and the verbs that would be
valid. Whether the devices are free, and who may say it, is `fleet.rollouts.operations`' question.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, assert_never

from fleet.errors import ConflictError
from fleet.rollouts.decisions import begin_cancel, begin_rollback, go_on
from fleet.rollouts.progress import Decision, MoveGroup, MoveRollout, Observations, Rollout
from fleet.rollouts.states import GroupState, RolloutState

__all__ = ["Verb", "carry_out", "valid_verbs"]


class Verb(StrEnum):
    """``POST /v1/rollouts/{id}:<verb>``."""

    APPROVE = "approve"
    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    ROLLBACK = "rollback"
    TRIGGER_NEXT_GROUP = "trigger-next-group"


_VALID_IN: Final[dict[Verb, frozenset[RolloutState]]] = {
    Verb.APPROVE: frozenset({RolloutState.WAITING_FOR_APPROVAL}),
    Verb.START: frozenset({RolloutState.READY}),
    Verb.PAUSE: frozenset({RolloutState.RUNNING}),
    Verb.RESUME: frozenset({RolloutState.PAUSED}),
    Verb.CANCEL: frozenset(
        {
            RolloutState.DRAFT,
            RolloutState.WAITING_FOR_APPROVAL,
            RolloutState.READY,
            RolloutState.RUNNING,
            RolloutState.PAUSED,
        }
    ),
    Verb.ROLLBACK: frozenset({RolloutState.RUNNING, RolloutState.PAUSED}),
    Verb.TRIGGER_NEXT_GROUP: frozenset({RolloutState.RUNNING}),
}


def valid_verbs(state: RolloutState) -> list[Verb]:
    """The verbs that a rollout in `state` obeys, for people to choose from.

    Examples:
        >>> [str(verb) for verb in valid_verbs(RolloutState.PAUSED)]
        ['resume', 'cancel', 'rollback']
    """
    return [verb for verb in Verb if state in _VALID_IN[verb]]


def carry_out(
    rollout: Rollout, verb: Verb, *, actor: str, observations: Observations, now: float
) -> Decision:
    """What `verb`, said by `actor` at Unix second `now`, does to `rollout`; includes what follows from it at once.

    Args:
        rollout: as it is stored now.
        verb: what is asked for.
        actor: who asks, as the audit log names them.
        observations: what is known of the devices: starting gives the release to the first group in the same decision.
        now: Unix seconds.

    Raises:
        ConflictError: the rollout's state does not allow it.
    """
    if rollout.state not in _VALID_IN[verb]:
        obeyed = ", ".join(valid_verbs(rollout.state)) or "no verb any more"
        hint = "; to undo it, create a rollout of the earlier release" if verb is Verb.ROLLBACK else ""
        raise ConflictError(
            f"rollout {rollout.id} is {rollout.state} and cannot {verb}; it obeys: {obeyed}{hint}"
        )
    decision = Decision(rollout, now)
    match verb:
        case Verb.APPROVE:
            decision.do(MoveRollout(state=RolloutState.READY, reason="approved", actor=actor))
        case Verb.START:
            decision.do(MoveRollout(state=RolloutState.RUNNING, reason="started", actor=actor))
        case Verb.PAUSE:
            decision.do(MoveRollout(state=RolloutState.PAUSED, reason="paused", actor=actor))
        case Verb.RESUME:
            decision.do(MoveRollout(state=RolloutState.RUNNING, reason="resumed", actor=actor))
        case Verb.CANCEL:
            begin_cancel(decision, "canceled", actor=actor)
        case Verb.ROLLBACK:
            begin_rollback(decision, "a person asked for it", actor=actor)
        case Verb.TRIGGER_NEXT_GROUP:
            _pass_present_group(decision, actor)
        case _:
            assert_never(verb)
    go_on(decision, observations)
    return decision


def _pass_present_group(decision: Decision, actor: str) -> None:
    present = decision.rollout.present_group
    if present is None:
        raise ConflictError(f"rollout {decision.rollout.id} has no running group to end")
    decision.do(
        MoveGroup(number=present.number, state=GroupState.PASSED, reason=f"{actor} did not wait for its end")
    )
