"""Both arms handled alike: controls install what they run once more when the canaries have their release.

A fresh start takes memory and time. What canaries show of that is the start, and not the release; where controls start
afresh too, it is in both arms. An option of a plan (`GatePlan.reactivate_controls`), by the command `reactivate`.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from fleet.device_commands import AT_ONCE, Order, give_commands
from fleet.rollouts.gate_evidence import draw_arms
from fleet.rollouts.states import GroupState
from fleet.rollouts.steps import Decision, MoveGroup
from protocol.messages.kinds import CommandAction
from protocol.names import DeviceId

__all__ = ["reactivate_controls"]

LEAST_TIME_S = 300.0
"""For a control to hear of it; who does not in the warm-up, or in this time, is not told any more."""


def reactivate_controls(session: Session, decision: Decision) -> list[DeviceId]:
    """Tell the controls of a group that begins to soak in `decision` to reactivate; a device is told once a group.

    Args:
        session: the transaction in which the decision is stored.
        decision: as it is stored.

    Returns:
        Whom to announce a new word to (`Kind.COMMANDS`) once the transaction has committed.
    """
    rollout, gates = decision.rollout, decision.rollout.plan.gates
    begun = [
        command.number
        for command in decision.commands
        if isinstance(command, MoveGroup) and command.state is GroupState.SOAKING
    ]
    group = rollout.present_group
    if gates is None or not gates.reactivate_controls or group is None or group.number not in begun:
        return []
    if not rollout.plan.is_gated or not group.soak_s:
        return []
    arms = draw_arms(session, rollout)
    order = Order(
        action=CommandAction.REACTIVATE,
        expires_at=decision.now + max(gates.warm_up_s, LEAST_TIME_S),
        request_key=f"{rollout.id}:{group.number}",
    )
    told: list[DeviceId] = []
    for first in range(0, len(arms.controls), AT_ONCE):
        some = arms.controls[first : first + AT_ONCE]
        given = give_commands(session, some, order, actor="fleet", now=decision.now)
        told += [DeviceId(device) for device in given.numbers]
    return told
