"""What a rollout does next: a pure state machine over plan, progress and observations.

::

    reports ──► executions ──► abort rules ──► counts ──► limits ──► soak ──► next group
                                  │             │           │
                                  ▼             ▼           ▼
                              pause/cancel   ROLLING_BACK ◄─┘ ──► every device given the release is given back

Invariants (held fast by property tests):

* At most one group is RUNNING or SOAKING.
* A device is given the release only while the rollout is RUNNING.
* When a rollback begins, every device that was given the release is given back in the same decision, under a new
  counter, whatever it has reported so far: it may commit a moment later.
* Deciding twice on the same observations at the same time changes nothing the second time.
"""

from __future__ import annotations

from typing import Final

from fleet.rollouts.evidence import is_overdue, judge_present_limits
from fleet.rollouts.limits import Judgement, Outcome, aborting_rule, judge_counts
from fleet.rollouts.plans import AbortAction, AbortRule
from fleet.rollouts.progress import (
    ConfirmReturn,
    Decision,
    Execution,
    GiveBack,
    GiveRelease,
    Group,
    MoveExecution,
    MoveGroup,
    MoveRollout,
    Observations,
    Report,
    Rollout,
    Withdraw,
)
from fleet.rollouts.states import FAILURES, OCCUPYING, OPEN, GroupState, RolloutState, may_follow
from protocol.messages.kinds import InstallStatus
from protocol.names import DeviceId

__all__ = ["begin_cancel", "begin_rollback", "decide", "go_on", "start_next_group"]

SETTLE_S: Final = 5.0
"""Health this long after a device was given back shows what it runs for good: the message has reached it by then."""

MAXIMUM_RETURNS: Final = 3
"""How often a device is told to go back; after that a person must look at it."""


def decide(rollout: Rollout, observations: Observations, now: float) -> Decision:
    """What follows for `rollout` from `observations` at Unix second `now`.

    Pure: the engine asks this on a snapshot first, and once more inside the transaction that stores the answer.

    Args:
        rollout: the plan and how far it has come.
        observations: everything that may be known of its devices.
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

    The order matters: first what devices said, then who is overdue or tried again, then the present group, then
    whether a rollback is done. Later steps see what earlier ones did.
    """
    if decision.rollout.state in OCCUPYING or decision.rollout.state is RolloutState.COMPLETED:
        _hear(decision, observations)
    if decision.rollout.state is RolloutState.RUNNING:
        _drop_revoked(decision, observations)
        _time_out(decision, observations)
        _retry(decision, observations)
        _advance(decision, observations)
    if decision.rollout.state is RolloutState.ROLLING_BACK:
        _settle(decision, observations)


def _hear(decision: Decision, observations: Observations) -> None:
    """Take over what each device last said about its present attempt, where the drawing has such an arrow.

    A device that was told to go back is no longer heard on the attempt that it was taken from.
    """
    for execution in decision.rollout.executions.values():
        report = observations.reports.get(decision.rollout.given_id(execution))
        if report is None or execution.returned_at is not None:
            continue
        # only the fleet queues an execution again; a device that says so is behind
        if report.status is InstallStatus.QUEUED:
            continue
        if report.status is not execution.state and may_follow(execution.state, report.status):
            decision.do(MoveExecution(device=execution.device, state=report.status, reason=report.reason))


def _drop_revoked(decision: Decision, observations: Observations) -> None:
    """Cancel the open executions of devices that were shut out: a group must not wait for them."""
    for execution in decision.rollout.executions.values():
        if execution.device in observations.revoked and execution.state in OPEN:
            decision.do(
                MoveExecution(
                    device=execution.device, state=InstallStatus.CANCELED, reason="the device was revoked"
                )
            )


def _time_out(decision: Decision, observations: Observations) -> None:
    """End executions that take too long by the plan's own limits; a late success still counts afterwards."""
    for execution in decision.rollout.executions.values():
        report = observations.reports.get(decision.rollout.given_id(execution))
        running = observations.running.get(execution.device)
        reason = _overdue(decision, execution, report, heard_at=running.at if running else 0.0)
        if reason is not None:
            decision.do(MoveExecution(device=execution.device, state=InstallStatus.TIMED_OUT, reason=reason))


def _overdue(
    decision: Decision, execution: Execution, report: Report | None, *, heard_at: float
) -> str | None:
    """Why `execution` is overdue, in words; None while it is not. Two clocks: until it ends, and without a word.

    A device that has put the release off (busy, on battery, nothing to try it on) is neutral for as long as anything is
    heard of it, and `heard_at` (Unix seconds) is when its last health came: a deferral says nothing about the release,
    silence may.
    """
    if execution.given_at is None:
        return None
    limits, age = decision.rollout.plan.timeout, decision.now - execution.given_at
    match execution.state:
        case InstallStatus.QUEUED if age > limits.queued_s:
            return f"not begun within {limits.queued_s:g} s"
        case InstallStatus.DEFERRED if (
            decision.now - max(execution.since, heard_at, report.at if report else 0.0) > limits.queued_s
        ):
            return f"put off, and then silent for {limits.queued_s:g} s"
        case InstallStatus.IN_PROGRESS if decision.now - execution.since > limits.in_progress_s:
            return f"still installing after {limits.in_progress_s:g} s"
        # also since it went on after a deferral, of which its last report knows nothing
        case InstallStatus.IN_PROGRESS if (
            report is not None and decision.now - max(report.at, execution.since) > limits.step_s
        ):
            return f"no progress for {limits.step_s:g} s"
        case _:
            return None


def _retry(decision: Decision, observations: Observations) -> None:
    """Give the release once more to devices whose way of failing the plan tries again, under a new counter.

    A device that was shut out meanwhile is not told anything any more.
    """
    for execution in decision.rollout.executions.values():
        if execution.device in observations.revoked:
            continue
        if execution.attempt and execution.attempt <= decision.rollout.plan.retries(execution.state):
            # what it ran before is what it ran before the first attempt, never the release that failed
            decision.do(
                GiveRelease(device=execution.device, previous=execution.previous, before=execution.before)
            )


def _advance(decision: Decision, observations: Observations) -> None:
    """Abort rules first, then the present group: a group that would pass cannot outrun a rule that strikes."""
    struck = aborting_rule(decision.rollout.executions.values(), _rules_in_force(decision.rollout))
    if struck is not None:
        rule, reason = struck
        match rule.action:
            case AbortAction.ROLLBACK:
                begin_rollback(decision, reason, actor="fleet")
            case AbortAction.PAUSE:
                decision.do(MoveRollout(state=RolloutState.PAUSED, reason=reason))
            case AbortAction.CANCEL:
                begin_cancel(decision, reason, actor="fleet")
        return
    # each turn ends the present group or returns: empty groups of a small fleet pass in the same decision
    while decision.rollout.state is RolloutState.RUNNING:
        group = decision.rollout.present_group
        if group is None:
            if not start_next_group(decision, observations):
                return
        elif not _pass_or_fail(decision, group, observations):
            return


def _rules_in_force(rollout: Rollout) -> list[AbortRule]:
    # who resumed knew of the failures so far: only another one pauses again
    news = any(e.state in FAILURES and e.since >= rollout.since for e in rollout.executions.values())
    return [rule for rule in rollout.plan.abort if news or rule.action is not AbortAction.PAUSE]


def start_next_group(decision: Decision, observations: Observations) -> bool:
    """Start the first group that has not run, giving its devices the release; complete the rollout if there is none.

    Each device's execution remembers what it ran and what it showed until now: that is what it goes back to, and
    what it is held to where it was beyond a limit already.

    Returns:
        Whether a group was started.
    """
    group = next((g for g in decision.rollout.groups if g.state is GroupState.SCHEDULED), None)
    if group is None:
        decision.do(MoveRollout(state=RolloutState.COMPLETED, reason="every group passed"))
        return False
    waiting = [e for e in decision.rollout.of_group(group.number) if e.state is InstallStatus.QUEUED]
    decision.do(
        MoveGroup(
            number=group.number, state=GroupState.RUNNING, reason=f"{len(waiting)} devices get the release"
        )
    )
    for execution in waiting:
        running = observations.running.get(execution.device)
        previous = running.returnable if running else None
        decision.do(
            GiveRelease(
                device=execution.device,
                # going back to the release itself would be no way out of it
                previous=previous if previous != decision.rollout.plan.release else None,
                before=observations.recent.get(execution.device),
            )
        )
    return True


def _pass_or_fail(decision: Decision, group: Group, observations: Observations) -> bool:
    """Move the present group on; whether it passed, so that the next may start."""
    judgement = _judge(decision, group, observations)
    match judgement.outcome:
        case Outcome.FAILS:
            _fail(decision, group, judgement.reason)
        case Outcome.HOLDS:
            decision.do(MoveGroup(number=group.number, state=GroupState.PASSED, reason=judgement.reason))
        case Outcome.UNDECIDED | Outcome.BLIND:
            pass
    return judgement.outcome is Outcome.HOLDS


def _judge(decision: Decision, group: Group, observations: Observations) -> Judgement:
    """Whether the present group holds: harm is looked for at once, success is waited for.

    A group that has enough devices begins its soak here. After the soak a limit for which health is still missing
    has `timeout.health_s` more; then silence counts as harm. Blindness never does: it waits.
    """
    plan, executions = decision.rollout.plan, decision.rollout.of_group(group.number)
    treated = [e for e in executions if e.state is InstallStatus.SUCCEEDED]
    limits = judge_present_limits(decision.rollout, group, observations, decision.now)
    counts = judge_counts(executions, plan.success)
    for judgement in (limits, counts):
        if judgement.outcome is Outcome.FAILS:
            return judgement
    if group.state is GroupState.RUNNING:
        if counts.outcome is Outcome.UNDECIDED or not treated:
            return counts
        decision.do(MoveGroup(number=group.number, state=GroupState.SOAKING, reason=counts.reason))
        group = decision.rollout.groups[group.number]
    soaked_for = decision.now - group.since
    if soaked_for < group.soak_s:
        return Judgement(outcome=Outcome.UNDECIDED, reason=f"soaking for {group.soak_s:g} s")
    if limits.outcome is Outcome.UNDECIDED and is_overdue(plan, group, decision.now):
        late = f"{plan.timeout.health_s:g} s after the soak, {limits.reason}"
        return Judgement(outcome=Outcome.FAILS, reason=late)
    if limits.outcome is not Outcome.HOLDS:
        return limits
    return Judgement(outcome=Outcome.HOLDS, reason=f"{counts.reason}; {limits.reason}")


def _fail(decision: Decision, group: Group, reason: str) -> None:
    decision.do(MoveGroup(number=group.number, state=GroupState.FAILED, reason=reason))
    label = f"group {group.number}" + (f" ({group.name})" if group.name else "")
    begin_rollback(decision, f"{label} failed: {reason}", actor="fleet")


def begin_rollback(decision: Decision, reason: str, *, actor: str) -> None:
    """Give back every device that was given the release, and withdraw the release.

    Whatever a device has reported so far: it may commit a moment later. Devices that never got the release are
    canceled. `reason` stands in the timeline and in the release's record; `actor` is a person's token, or the fleet.
    """
    decision.do(MoveRollout(state=RolloutState.ROLLING_BACK, reason=reason, actor=actor))
    decision.do(Withdraw(release=decision.rollout.plan.release, reason=reason))
    for execution in decision.rollout.executions.values():
        if execution.is_given:
            _give_back(decision, execution)
        elif execution.state in OPEN:
            decision.do(
                MoveExecution(
                    device=execution.device,
                    state=InstallStatus.CANCELED,
                    reason="never given the release: the rollout went back",
                )
            )


def begin_cancel(decision: Decision, reason: str, *, actor: str) -> None:
    """Stop here: who runs the release keeps it, who has not finished goes back to what it ran.

    The release is not withdrawn: canceling says nothing about it.
    """
    decision.do(MoveRollout(state=RolloutState.CANCELED, reason=reason, actor=actor))
    for execution in decision.rollout.executions.values():
        if execution.state in OPEN:
            decision.do(
                MoveExecution(
                    device=execution.device, state=InstallStatus.CANCELED, reason="the rollout was canceled"
                )
            )
        if execution.is_given and execution.state is not InstallStatus.SUCCEEDED:
            _give_back(decision, execution)


def _give_back(decision: Decision, execution: Execution) -> None:
    """Tell a device to run again what it ran; one that ran nothing keeps what it has, and is done with."""
    release = decision.rollout.back_to(execution)
    decision.do(GiveBack(device=execution.device, release=release))
    if release is None:
        _restored(decision, execution.device, "it ran nothing before and keeps what it has")


def _settle(decision: Decision, observations: Observations) -> None:
    """See who is back. ROLLED_BACK when everyone is, or after `timeout.rollback_s`, naming those that are not.

    A return that failed is told again, `MAXIMUM_RETURNS` times in all; after that a person must look at the device.
    """
    waiting: list[DeviceId] = []
    for execution in list(decision.rollout.executions.values()):
        if execution.returned_at is None or execution.restored_at is not None:
            continue
        if execution.device in observations.revoked:
            _restored(decision, execution.device, "the device was revoked")
            continue
        report = observations.reports.get(decision.rollout.returned_id(execution))
        if _is_back(decision, execution, report, observations):
            _restored(decision, execution.device, f"back on {decision.rollout.back_to(execution)}")
            continue
        if (
            report is not None
            and report.status is InstallStatus.FAILED
            and execution.returns < MAXIMUM_RETURNS
        ):
            decision.do(GiveBack(device=execution.device, release=decision.rollout.back_to(execution)))
        waiting.append(execution.device)
    if not waiting:
        decision.do(MoveRollout(state=RolloutState.ROLLED_BACK, reason="every device is back"))
    elif decision.now - decision.rollout.since > decision.rollout.plan.timeout.rollback_s:
        named = ", ".join(sorted(waiting)[:5]) + (", …" if len(waiting) > 5 else "")
        decision.do(
            MoveRollout(
                state=RolloutState.ROLLED_BACK,
                reason=f"every device is told to go back; {len(waiting)} have not confirmed: {named}",
            )
        )


def _is_back(
    decision: Decision, execution: Execution, report: Report | None, observations: Observations
) -> bool:
    if report is not None:
        return report.status is InstallStatus.SUCCEEDED
    # a device that never left its release has nothing to install, and may have nothing to report
    running = observations.running.get(execution.device)
    return (
        running is not None
        and execution.returned_at is not None
        and running.release == decision.rollout.back_to(execution)
        and running.at > execution.returned_at + SETTLE_S
    )


def _restored(decision: Decision, device: DeviceId, reason: str) -> None:
    decision.do(ConfirmReturn(device=device, reason=reason))
    if may_follow(decision.rollout.executions[device].state, InstallStatus.ROLLED_BACK):
        decision.do(MoveExecution(device=device, state=InstallStatus.ROLLED_BACK, reason=reason))
