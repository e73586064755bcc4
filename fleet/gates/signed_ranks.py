"""Whether canaries changed for the worse where nobody is left to compare them with: Wilcoxon's signed ranks.

Before and after only: whatever else changed in between (weather, load, season) is taken for the release. It assumes that
without an effect a change is as likely up as down, which is why the spans must be equally long.

Source: Wilcoxon, "Individual comparisons by ranking methods", 1945.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["least_signed_p", "signed_rank_p"]

Floats = NDArray[np.float64]

_COUNTED: Final = 60


def least_signed_p(devices: int) -> float:
    """The smallest p-value that any figures of so many devices could give."""
    return 0.5 ** min(devices, 1000)


def signed_rank_p(changes: Floats) -> float:
    """P(sum of the ranks of positive changes as large or larger), in (0, 1]; zeros and what is not finite are left out.

    Example:
        >>> signed_rank_p(np.array([1.0, 2.0, 3.0]))
        0.125
    """
    known = changes[np.isfinite(changes) & (changes != 0)]
    count = len(known)
    if not count:
        return 1.0
    size, times = np.unique(np.abs(known), return_inverse=True, return_counts=True)[1:]
    mid_rank = (np.cumsum(times) - (times - 1) / 2)[size]
    reached = float(mid_rank[known > 0].sum())
    if count <= _COUNTED:
        doubled = np.rint(2 * mid_rank).astype(np.int64)
        shares = np.zeros(int(doubled.sum()) + 1)
        shares[0] = 1.0
        for rank in doubled:  # each as likely up as down
            shares[rank:] = (shares[rank:] + shares[:-rank]) / 2
            shares[:rank] /= 2
        return min(1.0, float(shares[round(2 * reached) :].sum()))
    excess = reached - float(mid_rank.sum()) / 2 - 0.5
    return 0.5 * math.erfc(excess / math.sqrt(float((mid_rank * mid_rank).sum()) / 2))
