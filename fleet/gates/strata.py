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
from numpy.typing import ArrayLike, NDArray

__all__ = ["LEAST_DEVICES", "draw_order", "number_strata"]

LEAST_DEVICES: Final = 8
"""A smaller stratum is joined to the rest of its hardware, and if that is small too, to all that are."""


def number_strata(places: Sequence[tuple[str, str]]) -> NDArray[np.int64]:
    """(n,) the stratum of each device, from 0; the same devices in any order have the same strata.

    `places`: hardware and site of each device, "" where one is not known.

    Example:
        >>> places = [("pi", "a")] * 10 + [("pi", "b")] * 10 + [("x86", "b")]
        >>> number_strata(places).tolist() == [1] * 10 + [2] * 10 + [0]
        True
    """
    sizes = Counter(places)
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
    return np.array([of_place[key] for key in places], dtype=np.int64)


def draw_order(lot: str, devices: Sequence[str], stratum: ArrayLike) -> NDArray[np.int64]:
    """(n,) rows of `devices` in the order in which they are given the release; reproducible, whatever order they come in.

    Args:
        lot: draws the order, as the id of a rollout; another lot has other canaries.
        devices: names, no two alike.
        stratum: (n,) of each (`number_strata`).

    Example:
        >>> devices = [f"press-{n}" for n in range(8)]
        >>> order = draw_order("ro-1", devices, [0, 0, 0, 0, 1, 1, 1, 1])
        >>> sorted(row // 4 for row in order[:4].tolist())
        [0, 0, 1, 1]
    """
    codes = np.asarray(stratum, dtype=np.int64)
    marks = _hash(lot, devices)
    order = np.lexsort((marks[:, 1], marks[:, 0], codes))
    names, starts, sizes = np.unique(codes[order], return_index=True, return_counts=True)
    # where in the first step a stratum begins is drawn too: small ones would never, or always, give the first canary
    begins = _hash(lot, [f"\n{code}" for code in names.tolist()])[:, 0] / 2.0**64
    within = np.arange(len(order)) - np.repeat(starts, sizes)
    place = (within + np.repeat(begins, sizes)) / np.repeat(sizes, sizes)
    return order[np.argsort(place, kind="stable")]


def _hash(lot: str, names: Sequence[str]) -> NDArray[np.uint64]:
    """(n, 2) the first half of SHA-256 over lot and name."""
    prefix = f"{lot}\n".encode()
    digests = b"".join([hashlib.sha256(prefix + name.encode()).digest() for name in names])
    return np.frombuffer(digests, dtype=">u8").reshape(-1, 4)[:, :2].astype(np.uint64)
