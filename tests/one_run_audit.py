"""A lower bound on ε from guesses: many canaries at once, each there or not by its own fair coin.

An attacker guesses for some canaries whether they were there and says nothing of the others. Under (ε, δ)-DP it is right no
more often than a biased coin would be, up to δ; so many right guesses prove that ε is larger. Written without a look at the accountants.

Source: Steinke, Nasr, Jagielski, "Privacy Auditing with One (1) Training Run", 2023, arXiv:2305.08846v1, Theorem 5.2 and
Appendix D.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95


def proven_epsilon(
    scores: NDArray[np.float64], was_there: NDArray[np.bool_], delta: float, confidence: float = CONFIDENCE
) -> float:
    """The largest ε that is refuted by guessing "there" for the highest scores and "not there" for the lowest.

    Args:
        scores: of each canary; higher, the surer that it was there.
        was_there: each by a fair coin.
        delta: goes with ε.
        confidence: the bound is right with at least this probability; all numbers of guesses that are tried share what is left.
    """
    order, count = np.argsort(-scores, kind="stable"), len(scores)
    tried = (
        [(k, 0) for k in _steps(count)]
        + [(0, k) for k in _steps(count)]
        + [(k, k) for k in _steps(count // 2)]
    )
    error, best = (1 - confidence) / len(tried), 0.0
    for above, below in tried:
        right = int(was_there[order[:above]].sum()) + int((~was_there[order[count - below :]]).sum())
        best = max(best, _refuted(count, above + below, right, delta, error))
    return best


def _steps(most: int) -> list[int]:
    return [int(k) for k in np.unique(np.geomspace(10, most, 12).astype(int))]


def _refuted(count: int, guesses: int, right: int, delta: float, error: float) -> float:
    low, high = 0.0, 20.0
    if p_value(count, guesses, right, low, delta) > error:
        return 0.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (
            (middle, high) if p_value(count, guesses, right, middle, delta) <= error else (low, middle)
        )
    return low


def p_value(count: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """P[at least `right` of `guesses` are right] at most, under (ε, δ)-DP of each of `count` canaries."""
    chance = 1 / (1 + np.exp(-epsilon))
    fair = float(stats.binom.sf(right - 1, guesses, chance))
    fewer = np.arange(1, right + 1)
    # Theorem 5.2: δ buys i more right guesses for the price of 2m/i.
    mass = np.cumsum(stats.binom.pmf(right - fewer, guesses, chance))
    return min(1.0, fair + 2 * count * delta * float(np.max(mass / fewer, initial=0.0)))
