"""Whether canaries changed more than controls: the rank-sum within strata.

The canaries were drawn by lot within their stratum, so what is random is who they are, whatever the machines do. Each device
has one score, its mid-rank among its stratum ÷ (size of the stratum + 1), and the sum of the canaries' scores is van Elteren's
statistic: with one stratum it is the rank-sum. Its tail over all draws that could have been made is counted for up to eight
canaries or controls, and found by a saddlepoint for more: the normal tail is far too small where nearly all devices show nothing
(20 canaries of 220 devices, ten show one alarm each, five of them canaries: true 1e-3, normal 2e-6).

Sources: Wilcoxon, "Individual comparisons by ranking methods", 1945; Mann & Whitney, "On a test of whether one of two
random variables is stochastically larger than the other", 1947; van Elteren, "On the combination of independent two-sample
tests of Wilcoxon", 1960.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from fleet.gates.counted import count_draws, gaussian_binomial_tail
from fleet.gates.saddlepoint import saddlepoint_tail
from fleet.gates.scores import Scores, exchange

__all__ = ["rank_sum_p"]

_COUNTED: Final = 8
_PLAIN_P: Final = 0.2  # above it the normal tail is good enough for anybody


def rank_sum_p(scores: Scores) -> float:
    """How often a draw of other canaries would show at least as much harm as this one; in (0, 1], 1 without devices.

    One-sided: large values are harm. See the module's text for how the tail is found.
    """
    if not len(scores.score):
        return 1.0
    if int(scores.canaries.sum()) * 2 > len(scores.score):
        scores = exchange(scores)
    drawn = int(scores.canaries.sum())
    if drawn <= _COUNTED:
        if len(scores.sizes) == 1 and not scores.has_ties:
            size = len(scores.score)
            wins = round(float(scores.score[scores.is_canary].sum()) * (size + 1)) - drawn * (drawn + 1) // 2
            return gaussian_binomial_tail(drawn, size - drawn, wins)
        return count_draws(scores)
    rough = _normal_tail(scores)
    return rough if rough > _PLAIN_P else saddlepoint_tail(scores)


def _normal_tail(scores: Scores) -> float:
    sizes = scores.sizes
    centred = scores.score - 0.5  # every stratum's mean, ties or not
    squares = np.bincount(scores.stratum, weights=centred * centred)
    variance = float(
        (scores.canaries * (sizes - scores.canaries) * squares / (sizes * np.maximum(sizes - 1, 1))).sum()
    )
    if variance <= 0:
        return 1.0
    excess = float(centred[scores.is_canary].sum()) - 0.5 / (int(sizes.max()) + 1)
    return 0.5 * math.erfc(excess / math.sqrt(2 * variance))
