"""What one noised sum costs a device in privacy, in the two numbers that add up over rounds.

A round is (ξ, ρ)-zero-concentrated DP: its Rényi divergence of order α is at most ξ + ρ·α. Costs add up over rounds,
so a device can keep its own account with two additions and aggregator and device must come to the same figure. That
is why this module is part of the protocol. It needs no accounting library; the tests hold it against one and against
divergences that are summed exactly.

It is not the mechanism (`protocol.privacy` adds the noise) and not the whole account: amplification by sampling is known to
the aggregator alone and never helps against it.

Sources: Kairouz, Liu, Steinke, "The Distributed Discrete Gaussian Mechanism", 2021, arXiv:2102.06387, Theorem 1;
Agarwal, Kairouz, Liu, "The Skellam Mechanism", 2021, arXiv:2110.04995, Theorem 3.5; Bun, Steinke, "Concentrated
Differential Privacy", 2016, arXiv:1605.02065; Canonne, Kamath, Steinke, "The Discrete Gaussian", 2020,
arXiv:2004.00010, Proposition 12; Andrew et al., 2021, arXiv:1905.03871, Theorem 1 (clip bits).
"""

from __future__ import annotations

import math
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from protocol.privacy.parameters import NoiseKind, PrivacyParameters

__all__ = [
    "ORDERS",
    "SAMPLER_DELTA",
    "PrivacyCost",
    "RoundNoise",
    "epsilon",
    "noise_of",
    "planned_cost",
    "realised_multiplier",
    "round_cost",
]

SAMPLER_DELTA: Final = 2.0**-50
"""Taken off every δ: what noise as it is drawn may add to it, over a family's whole life (`protocol.privacy.integer_tables`)."""

ORDERS: Final[tuple[int, ...]] = (*range(2, 129), 256, 512)
"""Rényi orders at which costs are turned into ε; integers, because the lattice bounds hold there."""

Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=0)]


class PrivacyCost(Struct, frozen=True, kw_only=True):
    """A zero-concentrated DP cost: order α costs at most `xi` + `rho`·α. Infinite `rho`: no protection at all."""

    rho: float
    xi: float = 0.0

    def __add__(self, other: PrivacyCost) -> PrivacyCost:
        """The cost of both."""
        return PrivacyCost(rho=self.rho + other.rho, xi=self.xi + other.xi)

    def times(self, count: int) -> PrivacyCost:
        """The cost of `count` rounds like this one; none cost nothing, even without noise."""
        return PrivacyCost(rho=self.rho * count, xi=self.xi * count) if count else PrivacyCost(rho=0.0)


class RoundNoise(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The noise of one question as it was agreed, in the units of the integer lattice unless said otherwise.

    `noise_multiplier` is the planned z: central noise over `clip` (both in the units of the update). `sensitivity` is Δ2,
    the largest L2 norm of one device's rounded vector; `local_noise` the standard deviation that one device adds to each of
    `dimension` coordinates; `noise_shares` is n_eff: how many honest devices' noise makes the planned noise.
    `colluders` devices may know their own noise and subtract it. `is_exact` is false in every ledger there is and will stay so:
    what could take noise out of a sum again never served a round. `clip_bit_noise` is the central standard deviation
    added to the number of devices whose update was within the clip, in devices, where that number is a sum of its own; None where the
    clip is fixed, and where the bits are a coordinate of the vector (`protocol.secure_answers`): `sensitivity` has them then.
    """

    mechanism: Literal["none", "discrete-gaussian", "skellam"]
    bits: Annotated[int, Meta(ge=1, le=32)] = 32
    dimension: Annotated[int, Meta(ge=1)] = 1
    clip: Positive | None = None
    noise_multiplier: Annotated[float, Meta(ge=0)] = 0.0
    sensitivity: Positive | None = None
    local_noise: Positive | None = None
    noise_shares: Annotated[int, Meta(ge=1)] = 1
    colluders: Count = 0
    is_exact: bool = False
    clip_bit_noise: Positive | None = None

    def __post_init__(self) -> None:
        """Refuse a noised question without its noise."""
        if self.mechanism != "none" and None in (self.clip, self.sensitivity, self.local_noise):
            raise ValueError(
                f"mechanism {self.mechanism!r} needs clip, sensitivity and local_noise, got {self.clip}, "
                f"{self.sensitivity}, {self.local_noise}; a sum without noise has mechanism 'none'"
            )
        if self.is_exact:
            raise ValueError(
                "is_exact is false in every round that was ever asked; nothing takes noise out of a sum"
            )


def noise_of(parameters: PrivacyParameters, *, clip_bit_noise: float | None = None) -> RoundNoise:
    """The noise of a private sum as it is charged and written down, from its parameters."""
    is_gaussian = parameters.noise is NoiseKind.DISCRETE_GAUSSIAN
    return RoundNoise(
        mechanism="discrete-gaussian" if is_gaussian else "skellam",
        bits=parameters.bits,
        dimension=parameters.vector_length,
        clip=parameters.clip,
        noise_multiplier=parameters.noise_multiplier,
        sensitivity=parameters.norm_bound,
        local_noise=parameters.local_lattice_std,
        noise_shares=parameters.effective_cohort,
        colluders=parameters.colluders,
        clip_bit_noise=clip_bit_noise,
    )


def realised_multiplier(noise: RoundNoise, survivors: int) -> float:
    """Noise over sensitivity that a sum of `survivors` devices really carries: z_r; 0 where nothing protects.

    It lies a little under the planned multiplier even when all is well, because rounding widens the sensitivity.
    """
    if noise.local_noise is None or noise.sensitivity is None:
        return 0.0
    return math.sqrt(max(survivors - noise.colluders, 0)) * noise.local_noise / noise.sensitivity


def round_cost(noise: RoundNoise, survivors: int) -> PrivacyCost:
    """What a sum over `survivors` devices costs each of them, towards somebody who knows that it took part."""
    z = realised_multiplier(noise, survivors)
    if not z or noise.local_noise is None or noise.sensitivity is None:
        return PrivacyCost(rho=math.inf)
    match noise.mechanism:
        case "none":
            return PrivacyCost(rho=math.inf)
        case "discrete-gaussian":
            parts = max(survivors - noise.colluders, 1)
            cost = PrivacyCost(rho=0.5 / z**2, xi=noise.dimension * _sum_gap(noise.local_noise, parts))
        case "skellam":
            cost = _skellam_cost(noise.sensitivity, (z * noise.sensitivity) ** 2, noise.dimension)
    return cost + _clip_bit_cost(noise, survivors)


def planned_cost(noise: RoundNoise) -> PrivacyCost:
    """What a sum costs at worst: with the fewest survivors that devices agree to unmask for."""
    return round_cost(noise, noise.noise_shares + noise.colluders)


def epsilon(cost: PrivacyCost, delta: float) -> float:
    """ε of (ε, δ)-DP for a total cost: the smallest over `ORDERS`; infinite where a sum had no noise, or δ is below `SAMPLER_DELTA`.

    Raises:
        ValueError: `delta` is not between 0 and 1.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must be between 0 and 1, got {delta}")
    if cost.rho == 0 and cost.xi == 0:
        return 0.0
    left = delta - SAMPLER_DELTA
    if left <= 0:
        return math.inf
    # Proposition 12 of arXiv:2004.00010: ε = R(α) + log(1 - 1/α) - log(δα)/(α - 1).
    return max(
        0.0,
        min(
            cost.xi + cost.rho * order + math.log1p(-1 / order) - math.log(left * order) / (order - 1)
            for order in ORDERS
        ),
    )


def _sum_gap(local_noise: float, parts: int) -> float:
    """τ: how far, per coordinate, a sum of discrete Gaussians is from one discrete Gaussian (Theorem 1)."""
    return 10.0 * sum(math.exp(-2 * math.pi**2 * local_noise**2 * j / (j + 1)) for j in range(1, parts))


def _skellam_cost(sensitivity: float, variance: float, dimension: int) -> PrivacyCost:
    squared = sensitivity**2
    # An integer vector of L2 norm Δ has L1 norm at most Δ² and at most √d·Δ.
    l1 = min(squared, math.sqrt(dimension) * sensitivity)
    # Theorem 3.5: αΔ²/2μ + min(((2α-1)Δ² + 6Δ1)/4μ², 3Δ1/2μ). Each bound is linear in α and holds at every order.
    fine = PrivacyCost(
        rho=squared / (2 * variance) + squared / (2 * variance**2),
        xi=max(0.0, 6 * l1 - squared) / (4 * variance**2),
    )
    coarse = PrivacyCost(rho=squared / (2 * variance), xi=3 * l1 / (2 * variance))
    return min(fine, coarse, key=lambda cost: cost.xi + 8 * cost.rho)


def _clip_bit_cost(noise: RoundNoise, survivors: int) -> PrivacyCost:
    if noise.clip_bit_noise is None:
        return PrivacyCost(rho=0.0)
    # A bit is counted as ±1/2, so one device moves the sum by 1/2: ρ = (1/2)²/2σ² (Theorem 1 of arXiv:1905.03871).
    return PrivacyCost(
        rho=0.125 * noise.noise_shares / (noise.clip_bit_noise**2 * (survivors - noise.colluders))
    )
