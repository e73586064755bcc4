"""The tail of a sum of scores over all draws that could have been made, for samples too large to count them.

Drawing n of N devices is N coin flips given that n fell heads. So the tail of the sum of the drawn scores is a conditional
one, and the double saddlepoint finds it within a few percent also where it is skewed: one flip rate u for each
stratum, one tilt v for the sum,

    K(u, v) = Σ log(1 + exp(u_stratum + v·score)),   ∂K/∂u = canaries,   ∂K/∂v = sum of their scores.

In the form for lattices, with the widest gap between two neighbouring scores as the lattice: on the safe side where gaps differ.
Sources: Robinson, "Saddlepoint approximations for permutation tests and confidence intervals", JRSS B 44, 1982; Skovgaard,
"Saddlepoint expansions for conditional distributions", 1987; Butler, "Saddlepoint Approximations with Applications", 2007.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fleet.gates.scores import Scores, log_choices

__all__ = ["saddlepoint_tail"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_STEPS: Final = 60
_NEAR: Final = 1e-9  # of a sum of scores, each below 1


def saddlepoint_tail(scores: Scores) -> float:
    """P(sum of the drawn scores ≥ that of the canaries), in (0, 1]; for sums well above the mean, elsewhere 0.5 or so."""
    target = float(scores.score[scores.is_canary].sum())
    value, stratum, times = _distinct(scores)
    strata = len(scores.sizes)
    if target >= _largest_sum(scores) - _NEAR:
        return _extreme_tail(scores)

    def by_stratum(weights: Floats) -> Floats:
        return np.bincount(stratum, weights=weights, minlength=strata).astype(np.float64)

    drawn = scores.canaries.astype(np.float64)
    others = (scores.sizes - scores.canaries).astype(np.float64)
    rest = np.log(drawn / others)
    rate, tilt = rest.copy(), 0.0
    flat_variance = drawn * others / scores.sizes
    schur = 1.0
    variance = flat_variance
    for _ in range(_STEPS):
        share = 1 / (1 + np.exp(-(rate[stratum] + tilt * value)))
        spread = times * share * (1 - share)
        variance = by_stratum(spread)
        cross = by_stratum(spread * value)
        schur = float((spread * value * value).sum() - (cross * cross / variance).sum())
        short = drawn - by_stratum(times * share)
        gap = target - float((times * share * value).sum())
        if abs(gap) < _NEAR and float(np.abs(short).max()) < _NEAR:
            break
        step = (gap - float((cross / variance * short).sum())) / schur
        step = max(-4.0, min(4.0, step))
        tilt += step
        rate += np.clip((short - cross * step) / variance, -4.0, 4.0)
    exponent = _log_partition(value, stratum, times, rate, tilt) - float((rate * drawn).sum()) - tilt * target
    at_rest = float((scores.sizes * np.log1p(drawn / others)).sum() - (rest * drawn).sum())
    depth = 2 * (at_rest - exponent)
    if depth < 1e-6 or tilt <= 0:
        return 0.5  # at the mean; nobody acts on it
    width = _widest_gap(value, stratum, strata)
    signed_root = math.sqrt(depth)
    curvature = math.exp(0.5 * float(np.log(variance / flat_variance).sum())) * math.sqrt(schur)
    slope = -math.expm1(-width * tilt) / width * curvature
    tail = 0.5 * math.erfc(signed_root / math.sqrt(2)) + math.exp(-depth / 2) / math.sqrt(2 * math.pi) * (
        1 / slope - 1 / signed_root
    )
    return min(1.0, max(tail, 1e-300))


def _log_partition(value: Floats, stratum: Ints, times: Floats, rate: Floats, tilt: float) -> float:
    return float((times * np.logaddexp(0, rate[stratum] + tilt * value)).sum())


def _distinct(scores: Scores) -> tuple[Floats, Ints, Floats]:
    """Value, stratum and number of the scores that differ; scores are sorted."""
    starts = np.ones(len(scores.score), dtype=np.bool_)
    starts[1:] = (scores.score[1:] != scores.score[:-1]) | (scores.stratum[1:] != scores.stratum[:-1])
    first = np.flatnonzero(starts)
    times = np.diff(np.append(first, len(starts))).astype(np.float64)
    return scores.score[first], scores.stratum[first], times


def _widest_gap(value: Floats, stratum: Ints, strata: int) -> float:
    """Of the stratum with the finest scores: its draws fill what those of the others leave open."""
    gaps = np.diff(value)
    inside = stratum[1:] == stratum[:-1]
    widest = np.full(strata, -np.inf)
    np.maximum.at(widest, stratum[1:][inside], gaps[inside])
    return float(widest[widest > 0].min())


def _largest_sum(scores: Scores) -> float:
    ends = np.cumsum(scores.sizes)
    return sum(
        float(scores.score[end - drawn : end].sum()) for end, drawn in zip(ends, scores.canaries, strict=True)
    )


def _extreme_tail(scores: Scores) -> float:
    """Where no draw has more: how many have as much, which are more than one where the last of them is tied."""
    log_share = 0.0
    ends = np.cumsum(scores.sizes)
    for end, size, drawn in zip(ends, scores.sizes, scores.canaries, strict=True):
        own = scores.score[end - size : end]
        last = own[size - drawn]
        tied, needed = int((own == last).sum()), int((own[size - drawn :] == last).sum())
        log_share += log_choices(tied, needed) - log_choices(int(size), int(drawn))
    return math.exp(log_share)
