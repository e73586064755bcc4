"""What the gates of a plan would see, foretold from the fleet's own past: nothing is changed, and little is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from fleet.gates.arms import Arms
from fleet.gates.power import PowerLine, power
from fleet.gates.strata import number_strata
from fleet.rollouts.asking import foretell_asking
from fleet.rollouts.histories import SHORT_S, Histories
from fleet.rollouts.plans import RolloutPlan
from fleet.storage.block_tables import BLOCK_S
from fleet.storage.device_tables import Device
from protocol.names import DeviceId

__all__ = ["Foresight", "foresee"]

MOST: Final = 600
"""Devices whose past is read: as many as pretended canaries and controls are drawn from."""

LONGEST_S: Final = 86_400.0
"""Of a longer baseline the last day is read: of a week it would be most of the time that a preview takes, for little."""

DRAWS: Final = 200
"""Pretended releases of each kind of harm: the shares are good to seven points, in a fraction of a second."""


@dataclass(frozen=True, kw_only=True)
class Foresight:
    """What the canary of a plan would see of known harm, and in words what that means, or why nothing can be said."""

    lines: tuple[PowerLine, ...]
    words: tuple[str, ...]


def foresee(
    session: Session,
    plan: RolloutPlan,
    groups: Sequence[Sequence[DeviceId]],
    rollout_id: str,
    now: float,
    *,
    offline_after_s: float,
) -> Foresight:
    """The power of the first group of `plan` that the gates judge.

    Args:
        session: a snapshot.
        plan: what would be rolled out.
        groups: the devices of each of its groups.
        rollout_id: draws the devices whose past is read.
        now: Unix seconds.
        offline_after_s: silence after which a device counts as offline, seconds.
    """
    gates = plan.gates
    if gates is None or not plan.is_gated:
        return _nothing(
            "the plan has no gates: nothing compares the devices with those that do not have the release"
        )
    judged = [number for number, group in enumerate(plan.groups) if group.soak_s]
    unjudged = tuple(
        f"group {number} ({len(groups[number])} devices) does not soak: the gates do not judge it"
        for number, group in enumerate(plan.groups)
        if not group.soak_s
    )
    asking = foretell_asking(plan, [len(group) for group in groups])
    if not judged:
        return _nothing(*unjudged)
    first = judged[0]
    soak_s, canaries = plan.groups[first].soak_s, len(groups[first])
    if soak_s < BLOCK_S or gates.baseline_s < SHORT_S:
        shortest = f"{BLOCK_S / 60:.0f} minutes and a baseline of {SHORT_S / 3600:.0f} h"
        return _nothing(f"what a soak below {shortest} would see cannot be foretold", *unjudged, *asking)
    everyone = [device for group in groups for device in group]
    if not canaries:
        return _nothing(f"group {first} has no devices: nothing is seen by it", *unjudged, *asking)
    # the same plan under the same key foretells the same
    lot = np.random.default_rng(list(rollout_id.encode()))
    drawn = lot.choice(len(everyone), min(MOST, len(everyone)), replace=False)
    arms = _read_past(session, plan, [everyone[row] for row in drawn], soak_s, now, offline_after_s)
    lines = power(
        arms,
        gates,
        canaries=canaries,
        soak_s=soak_s,
        group=0,
        groups=len(judged),
        draws=DRAWS,
    )
    if not lines:
        return _nothing(
            f"the fleet's past is too short to foretell what group {first} would see:"
            f" {(gates.baseline_s + soak_s) / 3600:.3g} h of health are needed, of two devices at least",
            *unjudged,
            *asking,
        )
    return Foresight(lines=lines, words=(*(line.words for line in lines), *unjudged, *asking))


def _nothing(*words: str) -> Foresight:
    return Foresight(lines=(), words=words)


def _read_past(
    session: Session,
    plan: RolloutPlan,
    devices: Sequence[DeviceId],
    soak_s: float,
    now: float,
    offline_after_s: float,
) -> Arms:
    """The devices as they were lately: nobody is on the release."""
    gates = plan.gates
    assert gates is not None, "whose power is asked for"  # noqa: S101 - a fault of ours
    histories = Histories(session, plan.release, gates, offline_after_s=offline_after_s)
    lasted_s = soak_s // BLOCK_S * BLOCK_S
    # the last whole block may not have been rolled up yet
    began = (now // BLOCK_S - 1) * BLOCK_S - lasted_s
    before = histories.past(devices, began, min(gates.baseline_s, LONGEST_S))
    rows = {
        row.id: row
        for row in session.execute(
            select(Device.id, Device.hardware, Device.site).where(Device.id.in_(devices))
        )
    }
    found = [rows[device] for device in devices]
    return Arms(
        devices=tuple(devices),
        is_canary=np.zeros(len(devices), dtype=np.bool_),
        stratum=number_strata([(row.hardware, row.site) for row in found]),
        before=before,
        after=histories.past(devices, began + lasted_s, lasted_s),
        placebos=None,
        hazard_events=float(before.restarts.sum()),
        hazard_hours=float(before.hours.sum()),
    )
