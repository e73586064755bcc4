"""What the privacy tests compare with: slow, exact, and written without a look at the code they judge."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import accumulate
from random import Random

import numpy as np
from numpy.typing import NDArray


def seeded_bytes(seed: int) -> Callable[[int], bytes]:
    return np.random.default_rng(seed).bytes


def gaussian_pmf(std: float, largest: int) -> NDArray[np.float64]:
    """P(X = k) for k = -largest..largest."""
    k = np.arange(-largest, largest + 1)
    weights = np.exp(-(k**2) / (2 * std**2))
    return weights / weights.sum()


def skellam_pmf(variance: float, largest: int) -> NDArray[np.float64]:
    """P(X = k) for k = -largest..largest, as the difference of two Poisson variables says."""
    mean = variance / 2
    counts = np.arange(int(mean + 40 * math.sqrt(mean) + 60))
    poisson = np.exp([c * math.log(mean) - mean - math.lgamma(c + 1) for c in counts])
    difference = np.convolve(poisson, poisson[::-1])
    centre = len(counts) - 1
    return difference[centre - largest : centre + largest + 1]


def chi_square_deviations(
    samples: NDArray[np.int64], pmf: NDArray[np.float64], *, expected_in_bin: float = 20.0
) -> float:
    """How many standard deviations the χ² statistic is above its mean (Wilson-Hilferty), bins merged in the tails."""
    largest = len(pmf) // 2
    observed = np.bincount(np.clip(samples, -largest, largest) + largest, minlength=len(pmf))
    expected = pmf * len(samples)
    bins_observed, bins_expected, o, e = [], [], 0.0, 0.0
    for count, mean in zip(observed, expected, strict=True):
        o, e = o + count, e + mean
        if e >= expected_in_bin:
            bins_observed.append(o)
            bins_expected.append(e)
            o = e = 0.0
    bins_observed[-1] += o
    bins_expected[-1] += e
    got, want = np.array(bins_observed), np.array(bins_expected)
    statistic, freedom = float(((got - want) ** 2 / want).sum()), len(want) - 1
    return ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))


def invert_exactly(weights: Sequence[Decimal], words: Sequence[int]) -> list[int]:
    """The sample that each 64-bit word stands for: lowest bit the sign, the others a quantile of the magnitude."""
    cumulative = list(accumulate([weights[0], *(2 * w for w in weights[1:])]))
    thresholds = [int(c / cumulative[-1] * (1 << 63)) for c in cumulative[:-1]]
    return [bisect_right(thresholds, w >> 1) * (-1 if w & 1 else 1) for w in words]


def gaussian_weights(std: str, count: int) -> list[Decimal]:
    with localcontext() as context:
        context.prec = 60
        return [(-Decimal(k * k) / (2 * Decimal(std) ** 2)).exp() for k in range(count)]


def bessel_weights(variance: str, count: int) -> list[Decimal]:
    """I_k(μ) by its power series Σ (μ/2)^{2j+k} / (j! (j+k)!)."""
    with localcontext() as context:
        context.prec = 60
        half = Decimal(variance) / 2
        return [
            sum(
                (half ** (2 * j + k) / (math.factorial(j) * math.factorial(j + k)) for j in range(120)),
                Decimal(0),
            )
            for k in range(count)
        ]


def draw_by_rejection(variance: Fraction, rng: Random) -> int:
    """One exact discrete Gaussian sample: Canonne, Kamath, Steinke, arXiv:2004.00010v5, Algorithms 1 to 3."""
    t = math.isqrt(math.floor(variance)) + 1
    while True:
        u = rng.randrange(t)
        if not _bernoulli_exp(Fraction(u, t), rng):
            continue
        v = 0
        while _bernoulli_exp(Fraction(1), rng):
            v += 1
        magnitude, negative = u + t * v, rng.randrange(2) == 1
        if negative and magnitude == 0:
            continue
        distance = abs(magnitude - variance / t)
        if _bernoulli_exp(distance**2 / (2 * variance), rng):
            return -magnitude if negative else magnitude


def _bernoulli_exp(gamma: Fraction, rng: Random) -> bool:
    """True with probability e^-γ."""
    while gamma > 1:
        if not _bernoulli_exp(Fraction(1), rng):
            return False
        gamma -= 1
    k = 1
    while rng.randrange(gamma.denominator * k) < gamma.numerator:
        k += 1
    return k % 2 == 1


def gaussian_epsilon(multiplier: float, delta: float) -> float:
    """The exact ε of one Gaussian release: Balle & Wang, arXiv:1805.06530v2, Theorem 8."""

    def phi(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    def delta_at(epsilon: float) -> float:
        shift, slope = 1 / (2 * multiplier), epsilon * multiplier
        return phi(shift - slope) - math.exp(epsilon) * phi(-shift - slope)

    low, high = 0.0, 200.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_at(middle) > delta else (low, middle)
    return high


def proportion_bounds(successes: int, trials: int, error: float) -> tuple[float, float]:
    """Clopper-Pearson interval: each side wrong with probability at most `error`."""

    log_choose = np.array(
        [
            math.lgamma(trials + 1) - math.lgamma(i + 1) - math.lgamma(trials - i + 1)
            for i in range(trials + 1)
        ]
    )

    def at_most(k: int, p: float) -> float:
        i = np.arange(k + 1)
        return min(
            1.0, float(np.exp(log_choose[: k + 1] + i * math.log(p) + (trials - i) * math.log1p(-p)).sum())
        )

    def solve(is_too_small: Callable[[float], bool]) -> float:
        low, high = 1e-12, 1 - 1e-12
        for _ in range(45):
            middle = (low + high) / 2
            low, high = (middle, high) if is_too_small(middle) else (low, middle)
        return low

    lower = 0.0 if successes == 0 else solve(lambda p: 1 - at_most(successes - 1, p) < error)
    upper = 1.0 if successes == trials else solve(lambda p: at_most(successes, p) > error)
    return lower, upper
