"""Devices as scores: mid-ranks within strata, which is all that a permutation test looks at.

Left out is who cannot be compared: a device that told nothing, a canary without a control of its stratum, and the reverse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Scores", "exchange", "least_p", "log_choices", "score"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Devices that can be compared, sorted by stratum and value. Arrays of shape (n,), strata counted from 0 to S − 1.

    Attributes:
        score: mid-rank within the stratum ÷ (its size + 1), in (0, 1).
        is_canary: who has the release.
        stratum: of each.
        sizes: devices of each stratum, (S,).
        canaries: of them, (S,).
        has_ties: whether two devices of one stratum show the same.
    """

    score: Floats
    is_canary: Bools
    stratum: Ints
    sizes: Ints
    canaries: Ints
    has_ties: bool


def score(values: Floats, is_canary: Bools, stratum: Ints) -> Scores:
    """Rank `values` within strata. Left out are values that are not finite, and strata without a canary or without a control."""
    known = np.isfinite(values)
    values, is_canary, stratum = values[known], is_canary[known], stratum[known]
    _, stratum = np.unique(stratum, return_inverse=True)
    sizes = np.bincount(stratum)
    canaries = np.bincount(stratum, weights=is_canary).astype(np.int64)
    mixed = (canaries > 0) & (canaries < sizes)
    if not mixed.all():
        kept = mixed[stratum]
        values, is_canary, stratum = values[kept], is_canary[kept], stratum[kept]
        stratum = (np.cumsum(mixed) - 1)[stratum]
        sizes, canaries = sizes[mixed], canaries[mixed]
    order = np.lexsort((values, stratum)) if len(sizes) > 1 else np.argsort(values, kind="stable")
    values, is_canary, stratum = values[order], is_canary[order], stratum[order].astype(np.int64)
    starts_tie = np.ones(len(values), dtype=np.bool_)
    starts_tie[1:] = (values[1:] != values[:-1]) | (stratum[1:] != stratum[:-1])
    first = np.flatnonzero(starts_tie)
    lengths = np.diff(np.append(first, len(values)))
    offset = np.concatenate(([0], np.cumsum(sizes)))[:-1]
    mid_rank = np.repeat(first + (lengths + 1) / 2, lengths) - offset[stratum]
    return Scores(
        score=mid_rank / (sizes[stratum] + 1),
        is_canary=is_canary,
        stratum=stratum,
        sizes=sizes.astype(np.int64),
        canaries=canaries,
        has_ties=len(first) < len(values),
    )


def least_p(sizes: Ints, canaries: Ints) -> float:
    """The smallest p-value that any figures could give: one in as many draws as there are; 1 without a draw.

    Example:
        >>> round(least_p(np.array([40]), np.array([1])), 6)
        0.025
    """
    draws = sum(log_choices(int(size), int(drawn)) for size, drawn in zip(sizes, canaries, strict=True))
    return math.exp(-draws)


def log_choices(size: int, drawn: int) -> float:
    """The logarithm of how many ways there are to draw `drawn` of `size`."""
    return math.lgamma(size + 1) - math.lgamma(drawn + 1) - math.lgamma(size - drawn + 1)


def exchange(scores: Scores) -> Scores:
    """The same question asked of the controls: that they changed less."""
    return Scores(
        score=(1 - scores.score)[::-1],
        is_canary=~scores.is_canary[::-1],
        stratum=(len(scores.sizes) - 1 - scores.stratum)[::-1],
        sizes=scores.sizes[::-1],
        canaries=(scores.sizes - scores.canaries)[::-1],
        has_ties=scores.has_ties,
    )
