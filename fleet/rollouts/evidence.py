"""What the devices of the present group show, and what a rollout waits for, in words.

Pure, like `limits`, which it asks: here is only which devices, which figures, and how long anybody was waited for.
"""

from __future__ import annotations

from typing import Final

from fleet.rollouts.limits import Judgement, judge_counts, judge_limits
from fleet.rollouts.plans import RolloutPlan
from fleet.rollouts.progress import Group, Observations, Rollout
from fleet.rollouts.states import GroupState, RolloutState
from protocol.messages.kinds import InstallStatus

__all__ = ["explain", "is_overdue", "judge_present_limits"]

_WAITING_FOR_A_PERSON: Final = {
    RolloutState.WAITING_FOR_APPROVAL: "somebody other than its creator to approve it",
    RolloutState.READY: "a person to start it",
    RolloutState.PAUSED: "a person to resume, cancel or roll it back",
}
"""In these states nothing happens by itself."""


def judge_present_limits(rollout: Rollout, group: Group, observations: Observations, now: float) -> Judgement:
    """What `limits.judge_limits` says of the devices of `group` that committed the release."""
    return judge_limits(
        rollout.plan.limits,
        rollout.plan.success,
        [e for e in rollout.of_group(group.number) if e.state is InstallStatus.SUCCEEDED],
        observations.figures,
        is_overdue=is_overdue(rollout.plan, group, now),
    )


def is_overdue(plan: RolloutPlan, group: Group, now: float) -> bool:
    """Whether `group` has soaked, and waited for health after that as long as its plan says."""
    return group.state is GroupState.SOAKING and now - group.since > group.soak_s + plan.timeout.health_s


def explain(rollout: Rollout, observations: Observations, now: float) -> str:
    """What `rollout` waits for, in words for a person; empty where it waits for nothing.

    Asked by whoever shows a rollout; it decides nothing. `now` is Unix seconds, for what is left of a soak.
    """
    group = rollout.present_group
    if rollout.state is RolloutState.ROLLING_BACK:
        waiting = sum(
            e.returned_at is not None and e.restored_at is None for e in rollout.executions.values()
        )
        return f"{waiting} devices have not confirmed that they are back"
    if rollout.state in _WAITING_FOR_A_PERSON:
        return _WAITING_FOR_A_PERSON[rollout.state]
    if rollout.state is not RolloutState.RUNNING or group is None:
        return ""
    executions = rollout.of_group(group.number)
    if group.state is GroupState.RUNNING:
        return judge_counts(executions, rollout.plan.success).reason
    limits = judge_present_limits(rollout, group, observations, now)
    left_s = group.since + group.soak_s - now
    soaking = f"{left_s:.0f} s more of its soak; " if left_s > 0 else ""
    return f"{soaking}{limits.reason}"
