"""The way back: rollbacks and cancels, who is told to go back, who is waited for, and who is back.

Pure, part of `decisions`. Nobody who is away holds up a rollback: the desired state of a device that is offline stands, it
goes back when it hears of it, and its confirmation is noted then, also when the rollout is ROLLED_BACK or CANCELED.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from fleet.rollouts.executions import Execution
from fleet.rollouts.progress import NOBODY, Observations, Report, Rollout, Running
from fleet.rollouts.states import OPEN, RolloutState, may_follow
from fleet.rollouts.steps import (
    ConfirmReturn,
    Decision,
    GiveBack,
    MoveExecution,
    MoveRollout,
    StopAwaiting,
    Withdraw,
)
from protocol.messages.kinds import InstallStatus
from protocol.names import DeviceId

__all__ = [
    "MAXIMUM_RETURNS",
    "SETTLE_S",
    "begin_cancel",
    "begin_rollback",
    "next_check_at",
    "send_back",
    "settle",
]

SETTLE_S: Final = 5.0
"""Health this long after a device was given back shows what it runs for good: the message has reached it by then."""

MAXIMUM_RETURNS: Final = 3
"""How often a device is told to go back; after that a person must look at it."""

_FIRST_CHECK_S: Final = 10.0
"""Who is awaited is looked at this long after a rollback began, and at twice that, and so on: nobody waits on one lost farewell."""

AT_ONCE: Final = 500
"""Devices that one decision tells to go back, or takes out: events wait a tenth of a second for such a transaction."""

_OFFLINE = "offline: it goes back when it hears of it"


def begin_rollback(
    decision: Decision, observations: Observations, reason: str, *, actor: str, rollback_to: str | None = None
) -> None:
    """Give back every device that was given the release (see `send_back`), and withdraw the release.

    Whatever a device has reported so far: it may commit a moment later. Devices that never got the release are canceled,
    those that a later rollout has are left alone. `reason` stands in the timeline and in the release's record; `actor` is a
    person's token, or the fleet; `rollback_to` a release that a person named for all, over what the plan says.
    """
    decision.do(
        MoveRollout(state=RolloutState.ROLLING_BACK, reason=reason, actor=actor, rollback_to=rollback_to)
    )
    decision.do(Withdraw(release=decision.rollout.plan.release, reason=reason))
    send_back(decision, observations)


def begin_cancel(decision: Decision, observations: Observations, reason: str, *, actor: str) -> None:
    """Stop here: who runs the release keeps it, who has not finished goes back to what it ran.

    The release is not withdrawn: canceling says nothing about it.
    """
    decision.do(MoveRollout(state=RolloutState.CANCELED, reason=reason, actor=actor))
    send_back(decision, observations)


def send_back(decision: Decision, observations: Observations) -> None:
    """Tell devices of a rollout that goes back or was canceled, `AT_ONCE` of them: the rest by the decisions after this one.

    Who is still to be told follows from what is stored, so nobody is left out where the engine dies in between.
    """
    is_canceled = decision.rollout.state is RolloutState.CANCELED
    concerned = [e for e in decision.rollout.executions.values() if _is_unsent(e, is_canceled=is_canceled)]
    decision.leave_unsent(len(concerned) > AT_ONCE)
    never = "the rollout was canceled" if is_canceled else "never given the release: the rollout went back"
    for execution in concerned[:AT_ONCE]:
        if execution.state in OPEN and (is_canceled or not execution.is_given):
            decision.do(MoveExecution(device=execution.device, state=InstallStatus.CANCELED, reason=never))
    _give_back(decision, observations, [e for e in concerned[:AT_ONCE] if e.is_given])


def _is_unsent(execution: Execution, *, is_canceled: bool) -> bool:
    if execution.superseded_by is not None or execution.returned_at is not None:
        return False
    stays = is_canceled and execution.state is InstallStatus.SUCCEEDED
    return execution.state in OPEN or (execution.is_given and not stays)


def _give_back(decision: Decision, observations: Observations, executions: Iterable[Execution]) -> None:
    """Tell devices to run again what they ran; one that ran nothing keeps what it has, and is done with."""
    devices = [execution.device for execution in executions]
    running = observations.records.running(devices)
    for device in devices:
        release = decision.rollout.back_to(decision.rollout.executions[device])
        known = running.get(device, NOBODY)
        awaited = known.is_online and decision.rollout.state is RolloutState.ROLLING_BACK
        decision.do(GiveBack(device=device, release=release, is_awaited=awaited))
        if release is None:
            _restored(decision, device, "it ran nothing before and keeps what it has")
        elif known.is_revoked:
            _restored(decision, device, "the device was revoked")


def settle(decision: Decision, observations: Observations) -> None:
    """See who is back, whenever that is heard. ROLLED_BACK when everyone is who is there, or after `timeout.rollback_s`.

    A return that failed is told again, `MAXIMUM_RETURNS` times in all; after that a person must look at the device.
    """
    rollout, due_at = decision.rollout, decision.rollout.index.due_at
    by_id = {}
    for execution_id, report in observations.reports.items():
        execution = rollout.execution_of(execution_id)
        if execution is not None and rollout.returned_id(execution) == execution_id:
            by_id[execution.device] = report
    heard = dict(observations.heard)
    if rollout.state is RolloutState.ROLLING_BACK and due_at is not None and due_at <= decision.now:
        awaited = [e.device for e in rollout.executions.values() if e.is_returning and e.is_awaited]
        heard |= observations.records.running(awaited)
    for device in sorted({*by_id, *heard, *observations.revoked}):
        known_execution = decision.rollout.executions.get(device)
        if known_execution is not None and known_execution.is_returning:
            is_revoked = device in observations.revoked
            _settle_one(
                decision, known_execution, by_id.get(device), heard.get(device), is_revoked=is_revoked
            )
    if decision.rollout.state is RolloutState.ROLLING_BACK:
        _end(decision)


def _settle_one(
    decision: Decision,
    execution: Execution,
    report: Report | None,
    known: Running | None,
    *,
    is_revoked: bool,
) -> None:
    device = execution.device
    if is_revoked or (known is not None and known.is_revoked):
        _restored(decision, device, "the device was revoked")
    elif _is_back(decision, execution, report, known):
        _restored(decision, device, f"back on {decision.rollout.back_to(execution)}")
    elif report is not None and report.status is InstallStatus.FAILED and execution.returns < MAXIMUM_RETURNS:
        release = decision.rollout.back_to(execution)
        decision.do(GiveBack(device=device, release=release, is_awaited=execution.is_awaited))
    elif execution.is_awaited and known is not None and not known.is_online:
        decision.do(StopAwaiting(device=device, reason=_OFFLINE))


def _is_back(decision: Decision, execution: Execution, report: Report | None, known: Running | None) -> bool:
    if report is not None:
        return report.status is InstallStatus.SUCCEEDED
    # a device that never left its release has nothing to install, and may have nothing to report
    return (
        known is not None
        and execution.returned_at is not None
        and known.release == decision.rollout.back_to(execution)
        and known.at > execution.returned_at + SETTLE_S
    )


def _end(decision: Decision) -> None:
    """ROLLED_BACK where nobody is waited for, naming those that are not back."""
    index = decision.rollout.index
    if decision.rollout.is_unsent:
        return
    if index.awaited and decision.now - decision.rollout.since < decision.rollout.plan.timeout.rollback_s:
        return
    away = (
        [e for e in decision.rollout.executions.values() if e.is_returning]
        if index.awaited + index.late
        else []
    )
    silent = sorted(e.device for e in away if e.is_awaited)
    offline = sorted(e.device for e in away if not e.is_awaited)
    said = []
    if silent:
        said.append(f"{len(silent)} online have not confirmed ({_named(silent)})")
    if offline:
        said.append(f"{len(offline)} offline: will go back when heard ({_named(offline)})")
    reason = f"every device is told to go back; {'; '.join(said)}" if said else "every device is back"
    decision.do(MoveRollout(state=RolloutState.ROLLED_BACK, reason=reason))


def _named(devices: list[DeviceId]) -> str:
    return ", ".join(devices[:5]) + (", …" if len(devices) > 5 else "")


def next_check_at(rollout: Rollout, now: float) -> float | None:
    """When to look, after Unix second `now`, which of the awaited devices are there; None where none is awaited."""
    if rollout.state is not RolloutState.ROLLING_BACK or not rollout.index.awaited:
        return None
    wait_s, end = _FIRST_CHECK_S, rollout.plan.timeout.rollback_s
    while wait_s < end and rollout.since + wait_s <= now:
        wait_s *= 2
    return rollout.since + min(wait_s, end)


def _restored(decision: Decision, device: DeviceId, reason: str) -> None:
    decision.do(ConfirmReturn(device=device, reason=reason))
    if may_follow(decision.rollout.executions[device].state, InstallStatus.ROLLED_BACK):
        decision.do(MoveExecution(device=device, state=InstallStatus.ROLLED_BACK, reason=reason))
