"""Whether the fleet keeps the past that a plan's gates compare with until the last group has been judged.

The past of all devices ends where the first of them got the release, so it is asked for until the last group has soaked. What
the settings prune before that cannot be compared with, and every look would end in NOT_SEEN: that is said before it begins.
"""

from __future__ import annotations

from fleet.errors import UnacceptableError
from fleet.rollouts.histories import SHORT_S
from fleet.rollouts.plans import RolloutPlan
from fleet.settings import RetentionSettings
from runtime.errors import Refused

__all__ = ["check_past_is_kept"]


def check_past_is_kept(plan: RolloutPlan, kept: RetentionSettings | None) -> None:
    """Raise UnacceptableError where the gates of `plan` look back further than is kept; `kept` None: nothing is pruned."""
    gates = plan.gates
    if gates is None or not plan.is_gated or kept is None:
        return
    judged = [group for group in plan.groups if group.soak_s]
    if not judged:
        return
    is_short = gates.baseline_s < SHORT_S  # then it is read from messages, else from blocks
    name, kept_s = ("health_s", kept.health_s) if is_short else ("blocks_s", kept.blocks_s)
    if not is_short and gates.baseline_s > kept.fine_blocks_s:
        allowed = f"at most {kept.fine_blocks_s:g} s, which is fine_blocks_s of [retention]"
        raise UnacceptableError(
            f"gates.baseline_s is {gates.baseline_s:g} s, and beyond {kept.fine_blocks_s:g} s the fleet keeps health by the hour"
            f" only, too coarse to compare with: {allowed}"
        ).about(Refused(field="gates.baseline_s", value=gates.baseline_s, allowed=allowed))
    watched_s = sum(gates.warm_up_s + group.soak_s for group in judged)
    if gates.baseline_s + watched_s > kept_s:
        left_s = max(0.0, kept_s - gates.baseline_s - gates.warm_up_s * len(judged))
        allowed = f"soaks of {left_s:g} s in all, or a greater {name} in [retention]"
        raise UnacceptableError(
            f"the groups warm up and soak for {watched_s:g} s in all after a baseline of {gates.baseline_s:g} s, and the fleet keeps"
            f" such a past for {kept_s:g} s ({name} of [retention]): it would be gone before the last group is judged; {allowed}"
        ).about(Refused(field="groups", value=watched_s, allowed=allowed))
