"""Which device is in which group.

Pure and reproducible: the order is that of SHA-256 over rollout and device, so every rollout draws another
canary, and asking twice gives the same answer.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence

from protocol.names import DeviceId

__all__ = ["assign_groups"]


def assign_groups(
    rollout_id: str, devices: Iterable[DeviceId], percentages: Sequence[float]
) -> list[tuple[DeviceId, ...]]:
    """Split `devices` into one tuple per entry of `percentages` (cumulative, growing, in (0, 100], last 100).

    Group k ends at ceil(percentage_k % of all), so the first group holds at least one device where there is any;
    later groups of a small fleet may be empty.

    Args:
        rollout_id: draws the order; another rollout has another canary.
        devices: in any order, doubles count once.
        percentages: of all devices, cumulative.

    Examples:
        >>> devices = [DeviceId(f"press-{n}") for n in range(4)]
        >>> [len(group) for group in assign_groups("ro-1", devices, [5, 50, 100])]
        [1, 1, 2]
        >>> assign_groups("ro-1", devices, [5, 100])[0] == assign_groups("ro-2", devices, [5, 100])[0]
        False
    """
    ordered = sorted(set(devices), key=lambda device: (_rank(rollout_id, device), device))
    groups: list[tuple[DeviceId, ...]] = []
    start = 0
    for percentage in percentages:
        # the guard keeps 7 % of 100 at 7: 7.000000000000001 would round up to 8
        end = max(start, min(len(ordered), math.ceil(len(ordered) * percentage / 100 - 1e-9)))
        groups.append(tuple(ordered[start:end]))
        start = end
    return groups


def _rank(rollout_id: str, device: DeviceId) -> bytes:
    return hashlib.sha256(f"{rollout_id}\n{device}".encode()).digest()
