"""Which device is in which group.

Pure and reproducible: the order is that of SHA-256 over rollout and device, within hardware and site (`fleet.gates.strata`), so every
rollout draws another canary, and asking twice gives the same answer.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fleet.gates.strata import draw_order, number_strata
from fleet.rollouts.plans import GroupPlan, share_of
from protocol.names import DeviceId

__all__ = ["Meant", "assign_groups", "group_of_joiner", "rank_device"]

_RANKS: Final = 2**64

HELD_OUT_SHARE: Final = 0.05
"""Of a large fleet so many are held out: the last group has most devices, and sees little without a share of controls."""


@dataclass(frozen=True, kw_only=True)
class Meant:
    """Devices that a plan means, column by column, as a database answers: a large fleet is drawn in a fraction of a second.

    `devices`: names, no two alike, in any order. `places`: hardware and site of each; each group has its share of every one.
    `is_unheard`: (n,) bool, of each whether it never said anything.
    """

    devices: Sequence[DeviceId]
    places: Sequence[tuple[str, str]]
    is_unheard: NDArray[np.bool_]

    @classmethod
    def alike(cls, devices: Sequence[DeviceId]) -> Meant:
        """Devices that were all heard, of one hardware at one site."""
        count = len(devices)
        return cls(devices=devices, places=[("", "")] * count, is_unheard=np.zeros(count, dtype=np.bool_))


def assign_groups(
    rollout_id: str, meant: Meant, groups: Sequence[GroupPlan], *, held_out: int = 0
) -> list[tuple[DeviceId, ...]]:
    """Split devices into one tuple per group of a plan.

    Group k ends at its `count`, or at ceil(`percentage` % of all), and never before the one in front of it. So the first
    group holds at least one device where there is any; later groups of a small fleet may be empty. Devices that never said
    anything come last: a canary of them would show nothing.

    Args:
        rollout_id: draws the order; another rollout has another canary.
        meant: the devices.
        groups: the plan's; the last reaches all.
        held_out: controls: so many of the last group, or five percent of all, whichever is more, and at most half of those of it that
            were ever heard, become a group of their own behind it. 0: there is no such group.

    Examples:
        >>> devices = Meant.alike([DeviceId(f"press-{n}") for n in range(4)])
        >>> groups = [GroupPlan(count=1), GroupPlan(percentage=50), GroupPlan(percentage=100)]
        >>> [len(group) for group in assign_groups("ro-1", devices, groups)]
        [1, 1, 2]
        >>> [len(group) for group in assign_groups("ro-1", devices, groups, held_out=20)]
        [1, 1, 1, 1]
        >>> assign_groups("ro-1", devices, groups)[0] == assign_groups("ro-2", devices, groups)[0]
        False
    """
    names = _in_order(rollout_id, meant)
    drawn: list[tuple[DeviceId, ...]] = []
    start = 0
    for group in groups:
        end = max(start, min(len(names), _end(group, len(names))))
        drawn.append(tuple(names[start:end]))
        start = end
    if not held_out:
        return drawn
    last = drawn.pop()
    heard = max(0, len(last) - int(meant.is_unheard.sum()))
    count = min(max(held_out, math.ceil(len(names) * HELD_OUT_SHARE)), heard // 2)
    return [*drawn, last[: heard - count] + last[heard:], last[heard - count : heard]]


def _in_order(rollout_id: str, meant: Meant) -> list[DeviceId]:
    """All devices in the order in which they are given the release."""
    names: list[DeviceId] = []
    for is_drawn in (~meant.is_unheard, meant.is_unheard):
        some = list(compress(meant.devices, is_drawn))
        order = draw_order(rollout_id, some, number_strata(list(compress(meant.places, is_drawn))))
        names += np.array(some, dtype=object)[order].tolist()
    return names


def _end(group: GroupPlan, devices: int) -> int:
    if group.percentage is None:
        return group.count or 0
    return share_of(group.percentage, devices)


def group_of_joiner(
    rollout_id: str, device: DeviceId, groups: Sequence[GroupPlan], sizes: Sequence[int]
) -> int:
    """The number of the group that a device joins which comes later.

    By percentage: where its rank falls, as if it had been there from the beginning. A group by count takes in devices only
    while it is not full.

    Args:
        rollout_id: of the rollout.
        device: who joins.
        groups: the plan's.
        sizes: how many devices each has.

    Examples:
        >>> groups = [GroupPlan(count=2), GroupPlan(percentage=100)]
        >>> [group_of_joiner("ro-1", DeviceId("press-9"), groups, sizes) for sizes in ([1, 0], [2, 0])]
        [0, 1]
    """
    share = rank_device(rollout_id, device) / _RANKS * 100
    for number, group in enumerate(groups):
        if group.percentage is None:
            if sum(sizes[: number + 1]) < (group.count or 0):
                return number
        elif share < group.percentage:
            return number
    return len(groups) - 1


def rank_device(rollout_id: str, device: DeviceId) -> int:
    """Where `device` stands in the draw of a rollout, in [0, 2^64)."""
    return int.from_bytes(hashlib.sha256(f"{rollout_id}\n{device}".encode()).digest()[:8], "big")
