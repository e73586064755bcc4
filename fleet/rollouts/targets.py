"""Which device is in which group.

Pure and reproducible: the order is that of SHA-256 over rollout and device, within hardware and site (`fleet.gates.strata`), so every
rollout draws another canary, and asking twice gives the same answer.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from fleet.gates.strata import draw_order, number_strata
from fleet.rollouts.plans import GroupPlan, share_of
from protocol.names import DeviceId

__all__ = ["assign_groups", "group_of_joiner", "hold_out", "rank_device"]

_RANKS: Final = 2**64

HELD_OUT_SHARE: Final = 0.05
"""Of a large fleet so many are held out: the last group has most devices, and sees little without a share of controls."""


def assign_groups(
    rollout_id: str,
    devices: Iterable[DeviceId],
    groups: Sequence[GroupPlan],
    *,
    unheard: Collection[DeviceId] = frozenset(),
    places: Mapping[DeviceId, tuple[str, str]] | None = None,
) -> list[tuple[DeviceId, ...]]:
    """Split `devices` into one tuple per group of a plan.

    Group k ends at its `count`, or at ceil(`percentage` % of all), and never before the one in front of it. So the first
    group holds at least one device where there is any; later groups of a small fleet may be empty.

    Args:
        rollout_id: draws the order; another rollout has another canary.
        devices: in any order, doubles count once.
        groups: the plan's; the last reaches all.
        unheard: devices that never said anything. They come last: a canary of them would show nothing.
        places: hardware and site of devices; each group has its share of every one. None: of no device is it known.

    Examples:
        >>> devices = [DeviceId(f"press-{n}") for n in range(4)]
        >>> groups = [GroupPlan(count=1), GroupPlan(percentage=50), GroupPlan(percentage=100)]
        >>> [len(group) for group in assign_groups("ro-1", devices, groups)]
        [1, 1, 2]
        >>> assign_groups("ro-1", devices, groups)[0] == assign_groups("ro-2", devices, groups)[0]
        False
    """
    known = places or {}
    ordered: list[DeviceId] = []
    for members in (set(devices).difference(unheard), set(devices).intersection(unheard)):
        names = sorted(members)
        hardware, site = (
            zip(*(known.get(name, ("", "")) for name in names), strict=True) if names else ((), ())
        )
        ordered += [
            names[row] for row in draw_order(rollout_id, names, number_strata(hardware, site).tolist())
        ]
    drawn: list[tuple[DeviceId, ...]] = []
    start = 0
    for group in groups:
        end = max(start, min(len(ordered), _end(group, len(ordered))))
        drawn.append(tuple(ordered[start:end]))
        start = end
    return drawn


def hold_out(
    last: Sequence[DeviceId], most: int, devices: int, *, unheard: Collection[DeviceId] = frozenset()
) -> tuple[tuple[DeviceId, ...], tuple[DeviceId, ...]]:
    """The last group of a draw, and who of it is left without the release until it has soaked: its controls.

    Args:
        last: in the order of the draw.
        most: so many, or five percent of all, whichever is more; at most half of the group.
        devices: of all groups.
        unheard: devices that never said anything: no controls.

    Example:
        >>> hold_out([DeviceId(f"press-{n}") for n in range(4)], 20, 4)
        (('press-0', 'press-1'), ('press-2', 'press-3'))
    """
    heard = [device for device in last if device not in unheard]
    count = min(max(most, math.ceil(devices * HELD_OUT_SHARE)), len(heard) // 2)
    held = set(heard[len(heard) - count :])
    return tuple(d for d in last if d not in held), tuple(d for d in last if d in held)


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
