"""What the devices of the present group show, and what a rollout waits for, in words.

Pure, like `limits`, which it asks: here is only which devices, which figures, and how long anybody was waited for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from fleet.gates.looks import look_times
from fleet.rollouts.asking import foretell_asking, sizes_of
from fleet.rollouts.counts import Judgement, count_group, judge_counts
from fleet.rollouts.executions import Execution, Figures, Group, Mark
from fleet.rollouts.limits import judge_limits
from fleet.rollouts.plans import RolloutPlan
from fleet.rollouts.progress import Observations, Rollout
from fleet.rollouts.states import GroupState, RolloutState
from protocol.messages.kinds import InstallStatus
from protocol.names import DeviceId

__all__ = ["explain", "has_limits", "is_judged_by_limits", "is_overdue", "judge_shown"]

_WAITING_FOR_A_PERSON: Final = {
    RolloutState.WAITING_FOR_APPROVAL: "somebody other than its creator to approve it",
    RolloutState.READY: "a person to start it",
    RolloutState.PAUSED: "a person to resume, cancel or roll it back",
}
"""In these states nothing happens by itself."""


def has_limits(plan: RolloutPlan) -> bool:
    """Whether figures of devices decide anything under `plan`."""
    return bool(plan.limits)


def is_judged_by_limits(rollout: Rollout) -> bool:
    """Whether the present group soaks under limits: what it waits for is said of its devices."""
    group = rollout.present_group
    is_soaking = group is not None and group.state is GroupState.SOAKING
    return rollout.state is RolloutState.RUNNING and is_soaking and has_limits(rollout.plan)


def judge_shown(
    plan: RolloutPlan,
    treated: Sequence[Execution],
    figures: Mapping[DeviceId, Figures],
    *,
    is_overdue: bool = False,
) -> Judgement:
    """What `limits.judge_limits` says of `treated`, executions that committed the release and show `figures` since."""
    return judge_limits(plan.limits, plan.success, treated, figures, is_overdue=is_overdue)


def is_overdue(rollout: Rollout, group: Group, now: float) -> bool:
    """Whether `group` has soaked, and waited for health after that as long as its plan says."""
    is_soaking = group.state is GroupState.SOAKING
    return is_soaking and now >= rollout.soaked_at(group) + rollout.plan.timeout.health_s


def explain(  # noqa: PLR0911 - one return for each kind
    rollout: Rollout, observations: Observations, now: float
) -> str:
    """What `rollout` waits for, in words for a person; empty where it waits for nothing.

    Asked by whoever shows a rollout; it decides nothing. `now` is Unix seconds, for what is left of a soak.
    """
    group, index = rollout.present_group, rollout.index
    if index.late and rollout.state in {RolloutState.ROLLED_BACK, RolloutState.CANCELED}:
        return f"{index.late} devices to be heard again: they go back then"
    if rollout.state is RolloutState.ROLLING_BACK:
        late = f"; {index.late} are offline and go back when they are heard" if index.late else ""
        return f"{index.awaited} devices have not confirmed that they are back{late}"
    if rollout.state in _WAITING_FOR_A_PERSON:
        is_begun = rollout.state is RolloutState.PAUSED
        asked = () if is_begun else foretell_asking(rollout.plan, sizes_of(rollout))
        return ". ".join((_WAITING_FOR_A_PERSON[rollout.state], *asked))
    if rollout.state is not RolloutState.RUNNING:
        return ""
    if group is None:
        return _until_all_are_told(rollout, now)
    counts = judge_counts(count_group(index, group.number), rollout.plan.success)
    if group.state is GroupState.RUNNING:
        return f"{counts.reason}{_queue_in_words(rollout)}"
    treated = [e for e in rollout.of_group(group.number) if e.state is InstallStatus.SUCCEEDED]
    overdue = is_overdue(rollout, group, now)
    shown = observations.records.figures() if has_limits(rollout.plan) else {}
    limits = judge_shown(rollout.plan, treated, shown, is_overdue=overdue)
    left_s = rollout.soaked_at(group) - now
    soaking = f"{left_s:.0f} s more of its soak; " if left_s > 0 else ""
    return f"{soaking}{limits.reason}{_gates_in_words(rollout, now)}"


def _gates_in_words(rollout: Rollout, now: float) -> str:
    """When the gates look next, where they do."""
    at, group = rollout.next_look_at, rollout.present_group
    if at is None or group is None:
        return ""
    of = len(look_times(group.soak_s))
    name = (
        f"look {group.looks + 1} of {of}"
        if group.looks < of
        else f"a look after the soak ({group.looks + 1 - of})"
    )
    return f"; the gates: {name} in {at - now:.0f} s" if at > now else f"; the gates: {name} is due"


def _until_all_are_told(rollout: Rollout, now: float) -> str:
    start_at = rollout.plan.schedule.start_at or 0.0
    if now < start_at:
        return f"its time: it starts {datetime.fromtimestamp(start_at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return f"the last devices to be told{_queue_in_words(rollout)}"


def _queue_in_words(rollout: Rollout) -> str:
    """How many devices of the groups that have begun are yet to be told."""
    begun = {group.number for group in rollout.groups if group.state is not GroupState.SCHEDULED}
    waiting = sum(rollout.index.number(number, marks={Mark.WAITS}) for number in begun)
    return f"; {waiting} are yet to be told, as rate and windows allow" if waiting else ""
