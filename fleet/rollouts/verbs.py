"""What a person (or the aggregator) may tell a rollout to do.

Pure, like `decisions`: a verb on a rollout in the wrong state is refused with the state and the verbs that would be
valid. Whether the devices are free, and who may say it, is `fleet.rollouts.saying`'s question.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fleet.errors import ConflictError
from fleet.rollouts.decisions import go_on
from fleet.rollouts.executions import RETRYABLE, Mark, mark_of
from fleet.rollouts.progress import Observations, Rollout
from fleet.rollouts.returning import begin_cancel, begin_rollback
from fleet.rollouts.states import GroupState, RolloutState, Verb
from fleet.rollouts.steps import AllowAttempts, Decision, MoveGroup, MoveRollout

__all__ = ["carry_out", "valid_verbs"]


_R = RolloutState
_VALID_IN: Final[dict[Verb, frozenset[RolloutState]]] = {
    Verb.APPROVE: frozenset({_R.WAITING_FOR_APPROVAL}),
    Verb.START: frozenset({_R.READY}),
    Verb.PAUSE: frozenset({_R.RUNNING}),
    Verb.RESUME: frozenset({_R.PAUSED}),
    # of a completed one only where it is dynamic: nobody joins it any more
    Verb.CANCEL: frozenset(
        {_R.DRAFT, _R.WAITING_FOR_APPROVAL, _R.READY, _R.RUNNING, _R.PAUSED, _R.COMPLETED}
    ),
    Verb.ROLLBACK: frozenset({_R.RUNNING, _R.PAUSED, _R.COMPLETED}),
    Verb.TRIGGER_NEXT_GROUP: frozenset({_R.RUNNING, _R.PAUSED}),
    Verb.RETRY_FAILED: frozenset({_R.RUNNING, _R.PAUSED, _R.COMPLETED}),
}


def valid_verbs(state: RolloutState, *, is_dynamic: bool = False) -> list[Verb]:
    """The verbs that a rollout in `state` obeys, for people to choose from.

    Examples:
        >>> [str(verb) for verb in valid_verbs(RolloutState.COMPLETED)]
        ['rollback', 'retry-failed']
    """
    return [
        verb
        for verb in Verb
        if state in _VALID_IN[verb] and (is_dynamic or (verb, state) != (Verb.CANCEL, _R.COMPLETED))
    ]


def carry_out(
    rollout: Rollout,
    verb: Verb,
    *,
    actor: str,
    observations: Observations,
    now: float,
    rollback_to: str | None = None,
) -> Decision:
    """What `verb`, said by `actor` at Unix second `now`, does to `rollout`; includes what follows from it at once.

    Args:
        rollout: as it is stored now.
        verb: what is asked for.
        actor: who asks, as the audit log names them.
        observations: what is known of the devices: starting gives the release to the first group in the same decision.
        now: Unix seconds.
        rollback_to: of a rollback: the release that everybody goes back to, over what the plan says.

    Raises:
        ConflictError: the rollout's state does not allow it, or it would change nothing.
    """
    obeyed = valid_verbs(rollout.state, is_dynamic=rollout.plan.dynamic)
    if verb not in obeyed:
        obeys = ", ".join(obeyed) or "no verb any more"
        raise ConflictError(f"rollout {rollout.id} is {rollout.state} and cannot {verb}; it obeys: {obeys}")
    decision = Decision(rollout, now)
    moves: dict[Verb, tuple[RolloutState, str]] = {
        Verb.APPROVE: (_R.READY, "approved"),
        Verb.START: (_R.RUNNING, "started"),
        Verb.PAUSE: (_R.PAUSED, "paused"),
        Verb.RESUME: (_R.RUNNING, "resumed"),
    }
    deeds: dict[Verb, Callable[[], None]] = {
        Verb.CANCEL: lambda: begin_cancel(decision, observations, "canceled", actor=actor),
        Verb.ROLLBACK: lambda: _roll_back(decision, observations, actor, rollback_to),
        Verb.TRIGGER_NEXT_GROUP: lambda: _pass_present_group(decision, actor),
        Verb.RETRY_FAILED: lambda: _retry_failed(decision, actor),
    }
    if verb in moves:
        state, reason = moves[verb]
        decision.do(MoveRollout(state=state, reason=reason, actor=actor))
    else:
        deeds[verb]()
    go_on(decision, observations)
    return decision


def _roll_back(decision: Decision, observations: Observations, actor: str, rollback_to: str | None) -> None:
    rollout = decision.rollout
    if rollback_to == rollout.plan.release:
        raise ConflictError(
            f"{rollback_to} is what the rollout takes back; name another release to go back to"
        )
    given = [e for e in rollout.executions.values() if e.is_given]
    if given and all(e.superseded_by is not None for e in given):
        others = ", ".join(sorted({e.superseded_by for e in given if e.superseded_by}))
        raise ConflictError(
            f"later rollouts ({others}) have all devices of {rollout.id}: roll those back, or create a rollout of"
            " the earlier release"
        )
    aim = f"a person asked for it: back to {rollback_to}" if rollback_to else "a person asked for it"
    begin_rollback(decision, observations, aim, actor=actor, rollback_to=rollback_to)


def _pass_present_group(decision: Decision, actor: str) -> None:
    present = decision.rollout.present_group
    if present is None:
        raise ConflictError(f"rollout {decision.rollout.id} has no running group to end")
    reason = f"{actor} did not wait for its end"
    if decision.rollout.state is RolloutState.PAUSED:
        decision.do(MoveRollout(state=RolloutState.RUNNING, reason=reason, actor=actor))
    decision.do(MoveGroup(number=present.number, state=GroupState.PASSED, reason=reason))


def _retry_failed(decision: Decision, actor: str) -> None:
    """Grant each execution that failed or timed out one more attempt; the queue gives it, as rate and windows allow."""
    rollout = decision.rollout
    failed = [
        e
        for e in rollout.executions.values()
        if e.state in RETRYABLE
        and e.is_given
        and e.returned_at is None
        and e.superseded_by is None
        and mark_of(rollout.plan, e) not in {Mark.WAITS, Mark.HELD}
    ]
    if not failed:
        raise ConflictError(
            f"rollout {rollout.id} has no execution that is FAILED or TIMED_OUT: nothing to retry"
        )
    for execution in failed:
        attempts = execution.attempt + 1
        decision.do(AllowAttempts(device=execution.device, attempts=attempts, reason=f"{actor} asked for it"))
