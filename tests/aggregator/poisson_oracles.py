"""What the account of Poisson cohorts is compared with: the true laws of small sums, integrated, and privacy loss distributions."""

from __future__ import annotations

import itertools
import math
from typing import Any, Final

import numpy as np
from dp_accounting.pld import pld_pmf, privacy_loss_distribution
from numpy.typing import NDArray
from scipy import integrate, stats

Density = NDArray[np.float64]

STEP: Final = 1e-3
"""Of privacy losses."""


def laws_by_enumeration(
    *, rate: float, others: tuple[float, ...], own: float, quorum: int, largest: int, std: float, x: Density
) -> tuple[Density, Density]:
    """Densities at `x` of a sum that came about, with the device's own value and with zero in its place: every draw, one by one."""
    real, blank, came_about = np.zeros_like(x), np.zeros_like(x), 0.0
    for drawn in itertools.product((False, True), repeat=len(others) + 1):
        size = sum(drawn)
        if not quorum <= size <= largest:
            continue
        chance = rate**size * (1 - rate) ** (len(drawn) - size)
        rest = sum(value for value, is_in in zip(others, drawn[1:], strict=True) if is_in)
        came_about += chance
        real += chance * stats.norm.pdf(x, rest + own * drawn[0], std)
        blank += chance * stats.norm.pdf(x, rest, std)
    return real / came_about, blank / came_about


def renyi(p: Density, q: Density, order: int, x: Density) -> float:
    """Rényi divergence of order `order` by Simpson's rule."""
    both = (p > 1e-300) & (q > 1e-300)
    values = np.where(
        both, np.exp(order * np.log(np.where(both, p, 1)) - (order - 1) * np.log(np.where(both, q, 1))), 0
    )
    return float(math.log(integrate.simpson(values, x=x))) / (order - 1)


def hockey_stick(p: Density, q: Density, epsilon: float, x: Density) -> float:
    """δ(ε) between two densities."""
    return float(integrate.simpson(np.maximum(p - math.exp(epsilon) * q, 0), x=x))


def pld_epsilon(*, rate: float, forced: float, multiplier: float, rounds: int, delta: float) -> float:
    """ε of `rounds` sums, each a fair coin's with chance 1 - η and everybody's with chance η, from privacy loss distributions.

    It is told which of the two a sum was, as the account takes it.
    """
    fair = _loss_distribution(multiplier, rate)
    sure = _loss_distribution(multiplier, 1.0)
    mixed = privacy_loss_distribution.PrivacyLossDistribution(
        *(_mixed(getattr(fair, side), getattr(sure, side), forced) for side in ("_pmf_remove", "_pmf_add"))
    )
    return float(mixed.self_compose(rounds).get_epsilon_for_delta(delta))


def _loss_distribution(multiplier: float, rate: float) -> Any:
    return privacy_loss_distribution.from_gaussian_mechanism(
        multiplier, sampling_prob=rate, value_discretization_interval=STEP, use_connect_dots=True
    )


def _mixed(fair: Any, sure: Any, forced: float) -> Any:
    """The loss of a mixture of which the branch is told is the mixture of the losses."""
    fair, sure = fair.to_dense_pmf(), sure.to_dense_pmf()
    lowest = min(fair._lower_loss, sure._lower_loss)
    highest = max(one._lower_loss + one.size for one in (fair, sure))
    mass = np.zeros(highest - lowest)
    for one, share in ((fair, 1 - forced), (sure, forced)):
        at = one._lower_loss - lowest
        mass[at : at + one.size] += share * one._probs
    infinite = (1 - forced) * fair._infinity_mass + forced * sure._infinity_mass
    return pld_pmf.DensePLDPmf(STEP, lowest, mass, infinite, True)
