"""The tail of a sum of scores for a few canaries, by counting all draws that could have been made.

Without ties in one stratum the count is a coefficient of the Gaussian binomial Π (1 − q^{m+i}) / (1 − q^i) (Mann & Whitney 1947).
With ties or strata it is counted over the scores, put on a grid of 1/2000: any scores make a permutation test, so this one is exact
as well, and ties at zero cost nothing of the promise.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fleet.gates.scores import Scores

__all__ = ["count_draws", "gaussian_binomial_tail"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_GRID: Final = 2000


@lru_cache(maxsize=64)
def _box_partitions(drawn: int, others: int) -> tuple[Floats, float]:
    """Of all draws, the share whose number of wins is at most k, for k up to half of all pairs; and the number of draws."""
    length = drawn * others // 2 + 1
    counts = np.zeros(length)
    counts[0] = 1.0
    for step in range(1, drawn + 1):  # Π (1 − q^{m+i}) / (1 − q^i), numerator and denominator in turn
        if others + step < length:
            counts[others + step :] -= counts[: -(others + step)].copy()
        for start in range(min(step, length)):
            counts[start::step] = np.cumsum(counts[start::step])
    total = float(math.comb(drawn + others, drawn))
    return np.cumsum(counts) / total, total


def gaussian_binomial_tail(drawn: int, others: int, wins: int) -> float:
    """P(U ≥ `wins`) where `drawn` of `drawn + others` devices are drawn and none show the same; exact.

    Example:
        >>> gaussian_binomial_tail(2, 3, 6) * 10
        1.0
    """
    pairs = drawn * others
    least = 1.0 / math.comb(drawn + others, drawn)
    if wins <= 0:
        return 1.0
    shares, _ = _box_partitions(drawn, others)
    losses = pairs - wins
    if losses < len(shares):
        return max(least, float(shares[losses]))
    return 1.0 - float(shares[wins - 1])


def count_draws(scores: Scores) -> float:
    """Count, over the scores on a grid, the draws with a sum at least as large: strata one by one, then together; in (0, 1]."""
    whole = 2 * (int(scores.sizes[0]) + 1)  # at this resolution mid-ranks are integers
    resolution = whole if whole <= _GRID and (scores.sizes == scores.sizes[0]).all() else _GRID
    grid = np.rint(scores.score * resolution).astype(np.int64)
    sums = np.ones(1)
    deficit = 0
    parts: list[tuple[Ints, int]] = []
    for stratum, drawn in enumerate(scores.canaries):
        inside = scores.stratum == stratum
        missing = grid[inside].max() - grid[inside]
        deficit += int(missing[scores.is_canary[inside]].sum())
        parts.append((missing, int(drawn)))
    for missing, drawn in parts:
        counted = _subset_sums(missing, drawn, deficit + 1) / math.comb(len(missing), drawn)
        sums = np.convolve(sums, counted)[: deficit + 1]
    return min(1.0, float(sums.sum()))


def _subset_sums(values: Ints, drawn: int, length: int) -> Floats:
    """How many subsets of `drawn` of `values` (≥ 0) have the sum k, for k < `length`."""
    counts = np.zeros((drawn + 1, length))
    counts[0, 0] = 1.0
    for value, times in zip(*np.unique(values[values < length], return_counts=True), strict=True):
        before = counts.copy()
        for taken in range(1, min(int(times), drawn) + 1):
            shift = taken * int(value)
            if shift >= length:
                break
            counts[taken:, shift:] += (
                math.comb(int(times), taken) * before[: drawn + 1 - taken, : length - shift]
            )
    sums: Floats = counts[drawn]
    return sums
