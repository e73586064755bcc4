"""Who becomes a canary: by lot, within hardware and site.

What is compared later is canaries with controls of the same stratum, and the promise of the gates rests on the lot alone. The order
made here has every stratum evenly along it, so that any beginning of it (5 %, then 25 %) takes its share of every stratum, and within
a stratum nothing but a hash decides.
"""

from __future__ import annotations

import hashlib
import itertools
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
    sizes = Counter(fine)
    left: Counter[str] = Counter()
    for (kind, _), count in sizes.items():
        if count < LEAST_DEVICES:
            left[kind] += count
    names: dict[tuple[str, str], tuple[str, ...]] = {}
    for (kind, place), count in sizes.items():
        if count >= LEAST_DEVICES:
            names[kind, place] = ("site", kind, place)
        else:
            names[kind, place] = ("hardware", kind) if left[kind] >= LEAST_DEVICES else ("all",)
    numbers = {name: number for number, name in enumerate(sorted(set(names.values())))}
    of_place = {key: numbers[name] for key, name in names.items()}
    return np.array([of_place[key] for key in fine], dtype=np.int64)


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
    marks = [_hash(lot, device) for device in devices]
    order = sorted(range(len(devices)), key=lambda row: (stratum[row], marks[row], devices[row]))
    place = np.empty(len(devices))
    start = 0
    for code, members in itertools.groupby(order, key=stratum.__getitem__):
        rows = list(members)
        # where in the first step a stratum begins is drawn too: small ones would never, or always, give the first canary
        begin = int.from_bytes(_hash(lot, f"\n{code}")[:8], "big") / 2**64
        place[start : start + len(rows)] = (np.arange(len(rows)) + begin) / len(rows)
        start += len(rows)
    return [order[at] for at in np.argsort(place, kind="stable").tolist()]


def _hash(lot: str, name: str) -> bytes:
    return hashlib.sha256(f"{lot}\n{name}".encode()).digest()
