"""Skellam noise: the difference of two independent Poisson variables of equal mean.

Unlike the discrete Gaussian it is closed under sums: shares of it add up to exactly the planned distribution.

Source: Agarwal, Kairouz, Liu, "The Skellam Mechanism for Differentially Private Federated Learning",
arXiv:2110.04995v1, Definition 3.1: P(X = k) = e^{-μ} I_k(μ), variance μ, I_k the modified Bessel function.
"""

from __future__ import annotations

import functools
import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from protocol.privacy.discrete_gaussian import MAX_STD
from protocol.privacy.errors import ParameterError
from protocol.privacy.integer_tables import TAIL_BITS, IntegerTable, tabulate
from protocol.privacy.randomness import RandomStream

__all__ = ["draw_skellam", "skellam_table"]

_START_BITS: Final = 400


def draw_skellam(count: int, variance: float, stream: RandomStream) -> NDArray[np.int64]:
    """`count` samples of the given variance in squared lattice steps, shape (count,).

    Raises:
        ParameterError: `variance` is not in (0, MAX_STD²].
    """
    return skellam_table(variance).draw(count, stream)


@functools.lru_cache(maxsize=4)  # a round uses one variance; a table costs up to 1.5 s
def skellam_table(variance: float) -> IntegerTable:
    """The sampling table for `variance`; raises ParameterError as `draw_skellam`."""
    if not 0.0 < variance <= MAX_STD**2:
        raise ParameterError(f"the noise's lattice variance must be in (0, {MAX_STD**2:g}], got {variance:g}")
    return tabulate(functools.partial(_weights, variance))


def _weights(variance: float) -> list[int]:
    """I_k(μ) times a constant for k = 0, 1, ..."""
    largest = _quantile_bound(variance, (TAIL_BITS + 2) * math.log(2))
    # Miller's algorithm: started far outside with any value, I_{k-1} = I_{k+1} + (2k/μ) I_k converges to the true
    # ratios on the way in (Abramowitz & Stegun, 9.12, example 1). Integers keep all digits.
    numerator, denominator = variance.as_integer_ratio()
    above, here = 0, 1 << _START_BITS
    start = _quantile_bound(variance, 3 * TAIL_BITS * math.log(2)) + 2
    weights = [0] * (start + 1)
    weights[start] = here
    for k in range(start, 0, -1):
        above, here = here, above + 2 * k * denominator * here // numerator
        weights[k - 1] = here
    return weights[: largest + 1]


def _quantile_bound(variance: float, log_probability: float) -> int:
    """A magnitude k with P(X ≥ k) ≤ exp(-log_probability), by Chernoff's bound."""
    low, high = 0, 1
    while _chernoff(high, variance) < log_probability:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _chernoff(middle, variance) < log_probability else (low, middle)
    return high


def _chernoff(k: int, variance: float) -> float:
    """-log of the bound P(X ≥ k) ≤ exp(μ(cosh t - 1) - tk) at its best t, sinh t = k/μ."""
    # sqrt(k²+μ²) - μ without cancellation.
    return k * math.asinh(k / variance) - k * k / (math.hypot(k, variance) + variance)
