"""Who becomes a canary: by lot, within hardware and site.

What is compared later is canaries with controls of the same stratum, and the promise of the gates rests on the lot alone. The order
made here has every stratum evenly along it, so that any beginning of it (5 %, then 25 %) takes its share of every stratum, and within
a stratum nothing but a hash decides.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEAST_DEVICES", "draw_order", "number_strata"]

LEAST_DEVICES: Final = 8
"""A smaller stratum is joined to the rest of its hardware, and if that is small too, to all that are."""


def number_strata(hardware: Sequence[str], site: Sequence[str]) -> NDArray[np.int64]:
    """(n,) the stratum of each device, from 0; the same devices in any order have the same strata.

    Args:
        hardware: of each device, "" where it is not known.
        site: of each device.

    Example:
        >>> number_strata(["pi"] * 20 + ["x86"], ["a"] * 10 + ["b"] * 11).tolist() == [1] * 10 + [2] * 10 + [0]
        True
    """
    fine = list(zip(hardware, site, strict=True))
    of_fine = Counter(fine)
    left: Counter[str] = Counter()
    for (kind, _), count in of_fine.items():
        if count < LEAST_DEVICES:
            left[kind] += count
    names: list[tuple[str, ...]] = []
    for key in fine:
        if of_fine[key] >= LEAST_DEVICES:
            names.append(("site", *key))
        elif left[key[0]] >= LEAST_DEVICES:
            names.append(("hardware", key[0]))
        else:
            names.append(("all",))
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    return np.array([numbers[name] for name in names], dtype=np.int64)


def draw_order(lot: str, devices: Sequence[str], stratum: Sequence[int]) -> list[int]:
    """Rows of `devices` in the order in which they are given the release; reproducible.

    Args:
        lot: draws the order, as the id of a rollout; another lot has other canaries.
        devices: names, no two alike.
        stratum: of each (`number_strata`).

    Example:
        >>> devices = [f"press-{n}" for n in range(8)]
        >>> order = draw_order("ro-1", devices, [0, 0, 0, 0, 1, 1, 1, 1])
        >>> sorted(row // 4 for row in order[:4])
        [0, 0, 1, 1]
    """
    drawn: dict[int, list[tuple[bytes, str, int]]] = {}
    for row, (device, code) in enumerate(zip(devices, stratum, strict=True)):
        drawn.setdefault(int(code), []).append((_hash(lot, device), device, row))
    placed: list[tuple[float, bytes, int]] = []
    for code, members in drawn.items():
        members.sort()
        # where in the first step a stratum begins is drawn too: small ones would never, or always, give the first canary
        begin = int.from_bytes(_hash(lot, f"\n{code}")[:8], "big") / 2**64
        placed += [((at + begin) / len(members), mark, row) for at, (mark, _, row) in enumerate(members)]
    return [row for _, _, row in sorted(placed)]


def _hash(lot: str, name: str) -> bytes:
    return hashlib.sha256(f"{lot}\n{name}".encode()).digest()
