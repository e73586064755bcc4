"""What a rollout does next: a pure state machine over plan, progress and news.

::

    reports ──► executions ──► abort rules ──► counts ──► limits, gates ──► soak ──► next group ──► slices
                                  │             │           │
                                  ▼             ▼           ▼
                              pause/cancel   ROLLING_BACK ◄─┘ ──► every device given the release is given back

Invariants (held fast by property tests):

* At most one group is RUNNING or SOAKING, and no device of a later one has the release.
* A device is given the release only while the rollout is RUNNING, or COMPLETED for who joins a dynamic one or is retried.
* When a rollback begins, every device that was given the release is given back, under a new counter, whatever it has
  reported so far: it may commit a moment later. Some hundred in one decision, and the next at once (`Rollout.is_unsent`).
* Deciding twice on the same observations at the same time changes nothing the second time, but for these.
* What a decision costs follows from the news. It walks over all executions only where all are concerned: a group starts,
  a soak ends, a rollback, a cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fleet.gates.answers import Finding
from fleet.rollouts.agenda import first
from fleet.rollouts.asking import why_it_goes_on
from fleet.rollouts.counts import Judgement, Outcome, aborting_rule, count_group, judge_counts
from fleet.rollouts.evidence import is_overdue, judge_shown
from fleet.rollouts.executions import Execution, Mark, deadline
from fleet.rollouts.giving import give_slice, next_slice_at, shut_out, take_in
from fleet.rollouts.plans import AbortAction, AbortRule
from fleet.rollouts.progress import NOBODY, Group, LookTaken, Observations, Rollout, Running
from fleet.rollouts.returning import begin_cancel, begin_rollback, next_check_at, send_back, settle
from fleet.rollouts.states import GroupState, RolloutState, may_follow
from fleet.rollouts.steps import Decision, Look, MoveExecution, MoveGroup, MoveRollout
from protocol.messages.kinds import InstallStatus

__all__ = ["decide", "go_on"]

CATCH_UP_S: Final = 0.1
"""Between looks of the gates of which several are overdue."""

_HEARS = frozenset(
    {RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.ROLLING_BACK, RolloutState.COMPLETED}
)
"""In these states what a device says of its installation is taken over."""


def decide(rollout: Rollout, observations: Observations, now: float) -> Decision:
    """What follows for `rollout` from `observations` at Unix second `now`.

    Pure: neither the rollout nor anything else is changed.

    Args:
        rollout: the plan and how far it has come, with its index (`Rollout.counted`).
        observations: news since the last decision, and whom to ask for more; `fleet.rollouts.progress` says which.
        now: Unix seconds; soaks and timeouts are measured against it.

    Returns:
        The decision; its `steps` are empty where nothing follows. Deciding again on its `rollout` adds none.

    Raises:
        ConflictError: a command that the state machine does not draw; that is a fault of ours, and nothing is stored.
    """
    decision = Decision(rollout, now)
    go_on(decision, observations)
    return decision


def go_on(decision: Decision, observations: Observations) -> None:
    """Add to `decision` all that follows from it and from `observations`.

    The order matters: first what devices said, then who is overdue, then the abort rules, the present group and who is told
    next, last whether a rollback is done. Later steps see what earlier ones did.
    """
    if decision.rollout.state in _HEARS:
        _hear(decision, observations)
    if decision.rollout.state in _HEARS - {RolloutState.ROLLING_BACK}:
        for device in sorted(observations.revoked):
            if device in decision.rollout.executions:
                shut_out(decision, device)
    if decision.was_unsent:
        send_back(decision, observations)
    take_in(decision, observations)
    if decision.rollout.state is RolloutState.RUNNING:
        _time_out(decision, observations)
        _abort(decision, observations)
    while True:
        _advance(decision, observations)
        if not give_slice(decision, observations):
            break
    settle(decision, observations)
    decision.rollout.index.due_at = _due_at(decision.rollout, decision.now)


def _hear(decision: Decision, observations: Observations) -> None:
    """Take over what each device last said about its present attempt, where the drawing has such an arrow.

    A device that was told to go back is no longer heard on the attempt that it was taken from.
    """
    for execution_id, report in observations.reports.items():
        execution = decision.rollout.execution_of(execution_id)
        if (
            execution is None
            or not execution.is_given
            or execution.returned_at is not None
            or execution.superseded_by is not None
            or decision.rollout.given_id(execution) != execution_id
            # only the fleet queues an execution again, and shuts a device out; a device that says so is behind
            or report.status is InstallStatus.QUEUED
            or (report.status is InstallStatus.CANCELED and execution.state is InstallStatus.SUCCEEDED)
        ):
            continue
        if report.status is not execution.state and may_follow(execution.state, report.status):
            decision.do(MoveExecution(device=execution.device, state=report.status, reason=report.reason))


def _time_out(decision: Decision, observations: Observations) -> None:
    """End executions that take too long by the plan's own limits; a late success still counts afterwards."""
    overdue = decision.take_overdue()
    if not overdue:
        return
    rollout, records = decision.rollout, observations.records
    words = records.last_words([rollout.given_id(execution) for execution in overdue])
    known = records.running([e.device for e in overdue if e.state is InstallStatus.DEFERRED])
    for execution in overdue:
        word_at = words.get(rollout.given_id(execution), 0.0)
        at, reason = _patience(decision, execution, word_at, known.get(execution.device, NOBODY))
        if at <= decision.now:
            decision.do(MoveExecution(device=execution.device, state=InstallStatus.TIMED_OUT, reason=reason))
        else:
            rollout.index.schedule([(at, execution.device)])


def _patience(decision: Decision, execution: Execution, word_at: float, known: Running) -> tuple[float, str]:
    """Until when `execution` is waited for, Unix seconds, and why not longer. Two clocks: until it ends, and without a word.

    A device that has put the release off (busy, on battery, nothing to try it on) is neutral for as long as anything is
    heard of it: a deferral says nothing about the release, silence may.
    """
    limits = decision.rollout.plan.timeout
    match execution.state:
        case InstallStatus.DEFERRED:
            last = max(execution.since, known.at, word_at)
            return last + limits.queued_s, f"put off, and then silent for {limits.queued_s:g} s"
        case InstallStatus.IN_PROGRESS:
            whole = (
                execution.since + limits.in_progress_s,
                f"still installing after {limits.in_progress_s:g} s",
            )
            # also since it went on after a deferral, of which its last report knows nothing
            silent = max(word_at, execution.since) + limits.step_s, f"no progress for {limits.step_s:g} s"
            return min(whole, silent)
        case _:
            at = deadline(decision.rollout.plan, execution)
            return at or decision.now, f"not begun within {limits.queued_s:g} s"


def _abort(decision: Decision, observations: Observations) -> None:
    """Abort rules come before the present group: one that would pass cannot outrun a rule that strikes."""
    struck = aborting_rule(decision.rollout.index, _rules_in_force(decision.rollout))
    if struck is None:
        return
    rule, reason = struck
    match rule.action:
        case AbortAction.ROLLBACK:
            begin_rollback(decision, observations, reason, actor="fleet")
        case AbortAction.PAUSE:
            decision.do(MoveRollout(state=RolloutState.PAUSED, reason=reason))
        case AbortAction.CANCEL:
            begin_cancel(decision, observations, reason, actor="fleet")


def _rules_in_force(rollout: Rollout) -> list[AbortRule]:
    # who resumed knew of the failures so far: only another one pauses again
    news = rollout.index.failed_at >= rollout.since
    return [rule for rule in rollout.plan.abort if news or rule.action is not AbortAction.PAUSE]


def _advance(decision: Decision, observations: Observations) -> None:
    """Move the present group on, and start the next; each turn ends a group or returns."""
    while decision.rollout.state is RolloutState.RUNNING:
        group = decision.rollout.present_group
        if group is None:
            if not _start_next_group(decision):
                return
        elif not _pass_or_fail(decision, group, observations):
            return


def _start_next_group(decision: Decision) -> bool:
    """Start the first group that has not run, if its time has come; complete the rollout if there is none and nobody waits."""
    rollout = decision.rollout
    group = next((g for g in rollout.groups if g.state is GroupState.SCHEDULED), None)
    if group is None:
        if not rollout.index.number(marks={Mark.WAITS}):
            _complete(decision)
        return False
    if decision.now < (rollout.plan.schedule.start_at or 0.0):
        return False
    waiting = rollout.index.number(group.number, marks={Mark.WAITS, Mark.HELD})
    reason = f"{waiting} devices get the release"
    decision.do(MoveGroup(number=group.number, state=GroupState.RUNNING, reason=reason))
    return True


def _complete(decision: Decision) -> None:
    """Every group passed. Who is in quarantine is left out, unless the rollout is dynamic and gives it the release later."""
    held = decision.rollout.index.number(states={InstallStatus.QUEUED}, marks={Mark.HELD})
    decision.do(MoveRollout(state=RolloutState.COMPLETED, reason="every group passed"))
    if not held or decision.rollout.plan.dynamic:
        return
    for execution in decision.rollout.executions.values():
        if execution.state is InstallStatus.QUEUED and not execution.is_given:
            decision.do(
                MoveExecution(
                    device=execution.device,
                    state=InstallStatus.CANCELED,
                    reason=f"left out: {execution.reason}",
                )
            )


def _pass_or_fail(decision: Decision, group: Group, observations: Observations) -> bool:
    """Move the present group on; whether it passed, so that the next may start."""
    judgement = _judge(decision, group, observations)
    match judgement.outcome:
        case Outcome.FAILS:
            decision.do(MoveGroup(number=group.number, state=GroupState.FAILED, reason=judgement.reason))
            label = f"group {group.number}" + (f" ({group.name})" if group.name else "")
            begin_rollback(decision, observations, f"{label} failed: {judgement.reason}", actor="fleet")
        case Outcome.HOLDS:
            decision.do(MoveGroup(number=group.number, state=GroupState.PASSED, reason=judgement.reason))
        case Outcome.NO_EVIDENCE:
            decision.do(MoveRollout(state=RolloutState.PAUSED, reason=judgement.reason))
        case Outcome.UNDECIDED | Outcome.BLIND:
            pass
    return judgement.outcome is Outcome.HOLDS


def _judge(decision: Decision, group: Group, observations: Observations) -> Judgement:
    """Whether the present group holds: harm is looked for at once, success is waited for.

    A group that has enough devices begins its soak here. After the soak a limit for which health is still missing
    has `timeout.health_s` more; then silence counts as harm. Blindness never does: it waits.
    """
    rollout, plan = decision.rollout, decision.rollout.plan
    counts = judge_counts(count_group(rollout.index, group.number), plan.success)
    for judgement in (_judge_news(rollout, group, observations), counts):
        if judgement.outcome in {Outcome.FAILS, Outcome.NO_EVIDENCE}:
            return judgement
    if group.state is GroupState.RUNNING:
        if counts.outcome is Outcome.UNDECIDED or not rollout.index.number(group.number):
            return counts
        decision.do(MoveGroup(number=group.number, state=GroupState.SOAKING, reason=counts.reason))
        group = decision.rollout.groups[group.number]
    gates = _judge_gates(decision, group, observations.look)
    if gates.outcome is not Outcome.HOLDS:
        return gates
    limits = _judge_all(decision, group, observations)
    if limits.outcome is not Outcome.HOLDS:
        return limits
    reasons = [counts.reason, limits.reason, *([gates.reason] if gates.reason else [])]
    return Judgement(outcome=Outcome.HOLDS, reason="; ".join(reasons))


def _judge_news(rollout: Rollout, group: Group, observations: Observations) -> Judgement:
    """Limits, of the devices that have just said something: one that is passed is acted upon at once."""
    treated = [
        execution
        for device in observations.figures
        if (execution := rollout.executions.get(device)) is not None and _is_treated(execution, group)
    ]
    return judge_shown(rollout.plan, treated, observations.figures)


def _is_treated(execution: Execution, group: Group) -> bool:
    return execution.group == group.number and execution.state is InstallStatus.SUCCEEDED


def _judge_all(decision: Decision, group: Group, observations: Observations) -> Judgement:
    """After the soak: whether anything at all was heard of the group on the release, and limits of all of it."""
    plan = decision.rollout.plan
    if decision.now < decision.rollout.soaked_at(group):
        return Judgement(outcome=Outcome.UNDECIDED, reason=f"soaking for {group.soak_s:g} s")
    treated = [e for e in decision.rollout.executions.values() if _is_treated(e, group)]
    overdue = is_overdue(decision.rollout, group, decision.now)
    limits = judge_shown(plan, treated, observations.records.figures(), is_overdue=overdue)
    # before silence counts as harm: where all are silent it is that of a power cut as well
    if limits.outcome is not Outcome.FAILS and group.soak_s:
        gone = _all_are_gone(treated, observations, is_overdue=overdue)
        if gone is not None:
            return gone
    if limits.outcome is Outcome.UNDECIDED and overdue:
        late = f"{plan.timeout.health_s:g} s after the soak, {limits.reason}"
        return Judgement(outcome=Outcome.FAILS, reason=late)
    return limits


def _all_are_gone(
    treated: Sequence[Execution], observations: Observations, *, is_overdue: bool
) -> Judgement | None:
    """What follows where none of the devices is online; None where one is."""
    known = observations.records.running([execution.device for execution in treated])
    states = [(known.get(execution.device, NOBODY), execution) for execution in treated]
    if any(one.is_online for one, _ in states):
        return None
    heard = any(one.at > execution.since for one, execution in states)
    if heard and not is_overdue:  # they may come back
        return Judgement(
            outcome=Outcome.UNDECIDED, reason=f"none of the group's {len(treated)} devices is online"
        )
    gone = (
        "is heard of the group's {} devices any more"
        if heard
        else "was heard of the group's {} devices since they got the release"
    )
    return Judgement(
        outcome=Outcome.NO_EVIDENCE, reason=f"nothing {gone.format(len(treated))}, so nothing is known of it"
    )


def _judge_gates(decision: Decision, group: Group, taken: LookTaken | None) -> Judgement:
    """What the gates say of the group so far; a new look is taken down first. They act before the soak is over."""
    rollout, gates = decision.rollout, decision.rollout.plan.gates
    if gates is None or not gates.metrics:
        return Judgement(outcome=Outcome.HOLDS, reason="")
    if group.is_cleared:
        return Judgement(outcome=Outcome.HOLDS, reason="the gates let it pass, or nobody waits for them")
    if not group.soak_s:
        return Judgement(outcome=Outcome.HOLDS, reason="not judged by the gates: it does not soak")
    if taken is None or not _is_due(rollout, group, taken, decision.now):
        return Judgement(outcome=Outcome.UNDECIDED, reason="the gates are asked until the end of the soak")
    look = taken.answer
    goes_on = (
        why_it_goes_on(rollout, group, look) if look.finding is Finding.NOT_SEEN and look.is_last else ""
    )
    clears = look.is_last and (look.finding is Finding.PASS or bool(goes_on))
    decision.do(Look(number=group.number, look=taken.number, answer=look, clears=clears))
    # who resumed a rollout after this look was due knew that nothing had been seen by then
    is_known = taken.number > look.of and rollout.look_at(group, taken.number) <= rollout.since
    if look.finding is Finding.STOP:
        outcome = Outcome.FAILS
    elif clears:
        outcome = Outcome.HOLDS
    elif (look.finding is Finding.PAUSE or look.is_last) and not is_known:
        outcome = Outcome.NO_EVIDENCE
    else:
        outcome = Outcome.UNDECIDED
    return Judgement(outcome=outcome, reason=f"{goes_on}: {look.reason}" if goes_on else look.reason)


def _is_due(rollout: Rollout, group: Group, taken: LookTaken, now: float) -> bool:
    """Whether an answer is about the present group and no earlier look than its next: it may come when these have moved on."""
    due = rollout.due_look(now)
    return taken.group == group.number and due is not None and group.looks < taken.number <= due


def _due_at(rollout: Rollout, now: float) -> float | None:
    """When something may follow by time alone, after Unix second `now`, or at once; None: never."""
    if rollout.is_unsent:
        return now
    times: list[float | None] = [next_slice_at(rollout, now), next_check_at(rollout, now)]
    if rollout.state is RolloutState.RUNNING:
        overdue, group = first(rollout.index.deadlines), rollout.present_group
        look_at = rollout.next_look_at
        # who was away for several looks takes them one after the other
        times += [rollout.plan.schedule.start_at, look_at and max(look_at, now + CATCH_UP_S)]
        times.append(overdue.at if overdue else None)
        if group is not None and group.state is GroupState.SOAKING:
            soaked_at = rollout.soaked_at(group)
            times += [soaked_at, soaked_at + rollout.plan.timeout.health_s]
    return min((at for at in times if at is not None and at > now), default=None)
