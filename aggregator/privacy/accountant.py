"""What the rounds of a family cost: ε towards the server, and ε towards an outsider who sees only released models.

* **ε_server**: the server knows who took part, so sampling hides nobody. Per device the costs of the sums it is in add up;
  the device with the largest ε counts. Adjacency: one device's contributions are there, or nothing is in their place.
* **ε_release**: an outsider does not know who took part. Cohorts drawn by secret, independent coins (Poisson) amplify, under the
  same adjacency, as far as they came about by coins alone (`aggregator.privacy.poisson_draws`). Cohorts of fixed size, drawn in secret, do so only under replacement of one device by another, which doubles
  what it can change: half the multiplier. Never a Poisson figure for a cohort that was not Poisson-sampled.
  An outsider sees less than the server, so the figure without amplification holds too and the smaller one counts.

Everything goes through dp-accounting's Rényi accountant at integer orders, where the bounds of the discrete mechanisms hold.
What the sampler of the noise is off by is taken off δ first.
Noise may depend on earlier releases (adaptive clipping, realised survivors): Rényi costs add up all the same.

Sources: Mironov, Talwar, Zhang, "Rényi Differential Privacy of the Sampled Gaussian Mechanism", 2019, arXiv:1908.10530;
Wang, Balle, Kasiviswanathan, "Subsampled Rényi DP and Analytical Moments Accountant", 2019, arXiv:1808.00087 (fixed size);
Feldman, Zrnic, "Individual Privacy Accounting via a Rényi Filter", 2021, arXiv:2008.11193 (adaptive noise, per-person costs).
"""

from __future__ import annotations

import importlib.metadata
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aggregator.privacy.dp_library import dp
from aggregator.privacy.ledger_entries import FixedCohort
from aggregator.privacy.poisson_draws import CoinDraw
from protocol.privacy_cost import ORDERS, SAMPLER_DELTA, PrivacyCost

__all__ = [
    "DeviceCosts",
    "UsedSum",
    "accountant_name",
    "add_up",
    "idealised_release_epsilon",
    "idealised_server_epsilon",
    "is_poisson",
    "release_epsilon",
    "server_epsilon",
]

DeviceCosts = Mapping[Hashable, PrivacyCost]
"""By device: the total of the sums it is in."""

_GRAIN: Final = 1000
"""Multipliers are rounded down to 1/1000 before sampled rounds are grouped: at worst ε grows by its per mille."""


_FAINT: Final = 0.3
"""Below this multiplier one round is ε = 20 and more, and its loss distribution takes seconds, then minutes: no figure to compare with."""


@dataclass(frozen=True, kw_only=True)
class UsedSum:
    """A sum that outsiders may have seen something of; `is_gaussian` where the amplification theorems apply.

    `cost` is that of a device of which an outsider knows that it took part.
    """

    cost: PrivacyCost
    sampling: CoinDraw | FixedCohort
    is_gaussian: bool


def accountant_name() -> str:
    """Accountant and version, for claims."""
    return f"RDP at {len(ORDERS)} integer orders, dp-accounting {importlib.metadata.version('dp-accounting')}"


def add_up(rounds: Iterable[tuple[PrivacyCost, Iterable[Hashable]]]) -> dict[Hashable, PrivacyCost]:
    """Per device the total over the rounds it is in; `rounds` are (cost, participants), the oldest first."""
    totals: dict[Hashable, PrivacyCost] = {}
    for cost, participants in rounds:
        for device in participants:
            totals[device] = totals[device] + cost if device in totals else cost
    return totals


def server_epsilon(costs: DeviceCosts, delta: float) -> float:
    """ε_server at `delta`: that of the device that gave most; 0 where nobody gave, infinite where a sum had no noise."""
    return max((_concentrated_epsilon(cost, delta) for cost in _worst(costs.values())), default=0.0)


def release_epsilon(sums: Iterable[UsedSum], costs: DeviceCosts, delta: float) -> float:
    """ε_release at `delta`.

    Args:
        sums: every sum that outsiders may have seen something of.
        costs: per device, over exactly these sums.
        delta: of the figure.
    """
    sums = tuple(sums)
    if is_poisson(sums):
        return min(server_epsilon(costs, delta), _amplified(sums, delta))
    replaced = {device: _replaced(cost) for device, cost in costs.items()}
    return min(server_epsilon(replaced, delta), _amplified(sums, delta))


def is_poisson(sums: Iterable[UsedSum]) -> bool:
    """Whether every sum's cohort was Poisson-sampled: then the adjacency is presence or absence, otherwise replacement."""
    return all(isinstance(one.sampling, CoinDraw) for one in sums)


def idealised_server_epsilon(inverse_squares: float, delta: float) -> float:
    """ε of a device in rounds of a continuous Gaussian, exactly (analytic Gaussian mechanism); the argument is Σ z⁻² over its rounds."""
    if not inverse_squares:
        return 0.0
    if math.isinf(inverse_squares):
        return math.inf
    return float(dp().get_epsilon_gaussian(inverse_squares**-0.5, delta))


def idealised_release_epsilon(rate: float, multiplier: float, rounds: int, delta: float) -> float:
    """ε of `rounds` Poisson-sampled continuous Gaussians from privacy loss distributions: what the discrete account is compared with."""
    if not rounds:
        return 0.0
    if multiplier < _FAINT:
        return math.inf
    event = dp().SelfComposedDpEvent(
        dp().PoissonSampledDpEvent(rate, dp().GaussianDpEvent(multiplier)), rounds
    )
    return float(dp().pld.PLDAccountant().compose(event).get_epsilon(delta))


def _worst(costs: Iterable[PrivacyCost]) -> list[PrivacyCost]:
    """The costs that no other one exceeds in both numbers: few, however many devices there are."""
    worst: list[PrivacyCost] = []
    for cost in sorted(set(costs), key=lambda cost: (-cost.rho, -cost.xi)):
        if not worst or cost.xi > worst[-1].xi:
            worst.append(cost)
    return worst


@lru_cache(maxsize=4096)
def _concentrated_epsilon(cost: PrivacyCost, delta: float) -> float:
    if math.isinf(cost.rho) or math.isinf(cost.xi):
        return math.inf
    accountant = dp().rdp.RdpAccountant(list(ORDERS))
    left = delta - SAMPLER_DELTA
    return (
        float(accountant.compose(dp().ZCDpEvent(cost.rho, cost.xi)).get_epsilon(left))
        if left > 0
        else math.inf
    )


def _replaced(cost: PrivacyCost) -> PrivacyCost:
    """The cost under replacement: twice the distance, four times its square (ξ grows by no more)."""
    return PrivacyCost(rho=4 * cost.rho, xi=4 * cost.xi)


def _amplified(sums: tuple[UsedSum, ...], delta: float) -> float:
    """ε with amplification by sampling; infinite where a sum was not noised, or not by a Gaussian."""
    if any(math.isinf(one.cost.rho) or not one.is_gaussian for one in sums):
        return math.inf
    poisson = is_poisson(sums)
    # The gap between a sum of lattice Gaussians and one lattice Gaussian bounds the log ratio of densities, sampled or not.
    xi = sum(one.cost.xi for one in sums) * (1 if poisson else 4)
    groups = Counter((one.sampling, _multiplier(one.cost)) for one in sums)
    if any(not multiplier for _, multiplier in groups):
        return math.inf
    curve = np.full(len(ORDERS), xi)
    for (sampling, multiplier), count in groups.items():
        curve += count * _curve(sampling, multiplier, poisson=poisson)
    left = delta - SAMPLER_DELTA
    return float(dp().rdp.compute_epsilon(ORDERS, curve, left)[0]) if left > 0 else math.inf


def _curve(sampling: CoinDraw | FixedCohort, multiplier: float, *, poisson: bool) -> NDArray[np.float64]:
    """Rényi divergence of one round at each of `ORDERS`."""
    if not poisson:
        return _fixed_curve(sampling, multiplier / 2)
    assert isinstance(sampling, CoinDraw)  # noqa: S101 - narrows the type; `is_poisson` has just said so
    by_coin = _poisson_curve(sampling.rate, multiplier)
    if not sampling.forced:
        return by_coin
    above = np.array(ORDERS) - 1.0
    forced = np.array(ORDERS) / (2 * multiplier**2)
    # log of (1 - η)·e^{(α-1)A} + η·e^{(α-1)B}, over α - 1.
    with np.errstate(divide="ignore"):
        fair = np.log1p(-sampling.forced) + above * by_coin
    return np.asarray(np.logaddexp(fair, math.log(sampling.forced) + above * forced) / above, np.float64)


@lru_cache(maxsize=4096)
def _poisson_curve(rate: float, multiplier: float) -> NDArray[np.float64]:
    event = dp().PoissonSampledDpEvent(rate, dp().GaussianDpEvent(multiplier))
    return _curve_of(event, dp().NeighboringRelation.ADD_OR_REMOVE_ONE)


@lru_cache(maxsize=4096)
def _fixed_curve(sampling: CoinDraw | FixedCohort, multiplier: float) -> NDArray[np.float64]:
    event = dp().GaussianDpEvent(multiplier)
    # Everybody was asked, the draw was no secret, or coins stand among fixed cohorts: no amplification.
    if isinstance(sampling, FixedCohort) and sampling.is_secret and sampling.size < sampling.population:
        event = dp().SampledWithoutReplacementDpEvent(sampling.population, sampling.size, event)
    return _curve_of(event, dp().NeighboringRelation.REPLACE_ONE)


def _curve_of(event: Any, relation: Any) -> NDArray[np.float64]:
    """Tens of milliseconds, and rounds repeat."""
    accountant = dp().rdp.RdpAccountant(list(ORDERS), relation)
    accountant.compose(event)
    # The library hands out ε only; adding curves up ourselves is what keeps a thousand rounds quick.
    return np.asarray(accountant._rdp, np.float64)  # noqa: SLF001 - no public way to the curve in 0.6, which is pinned


def _multiplier(cost: PrivacyCost) -> float:
    """The Gaussian multiplier with this ρ, rounded down."""
    return math.floor(_GRAIN / math.sqrt(2 * cost.rho)) / _GRAIN if cost.rho else math.inf
