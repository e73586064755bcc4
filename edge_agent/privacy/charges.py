"""What this device has given so far, what the next answer costs, and when that is too much: participations and ε.

Costs are what the device computes from the noise that it adds itself, never what a server says of it. They stay for ever and
add up over runs, models and versions of the agent; no clock has a part in it.
"""

from __future__ import annotations

import math
import sqlite3
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import msgspec

from edge_agent.errors import PrivacyRefusedError
from edge_agent.privacy.limits import ChargeLimits, OwnerLimits
from protocol.privacy_cost import PrivacyCost, RoundNoise, epsilon, realised_multiplier, round_cost
from protocol.refusals import RefusalCode

__all__ = [
    "Cover",
    "NoiseOffered",
    "Spending",
    "cover_of",
    "offered",
    "read_spending",
    "refuse_excess",
    "revealed_cost",
]

_ROUNDING: Final = 1.01
"""Rounding widens the sensitivity by at most 1 % (`protocol.privacy.parameters`): a multiplier of 1 that is planned is .99 at least."""


@dataclass(frozen=True, kw_only=True)
class Spending:
    """What was given so far: answers, how many of them without noise, when the last (Unix seconds).

    `cost` is the sum over the noised answers; `epsilon` its ε, or infinity once an answer without noise has left;
    `noised_epsilon` leaves those out.
    """

    participations: int
    noiseless: int
    cost: PrivacyCost
    epsilon: float
    noised_epsilon: float
    last_at_s: float | None


class Cover(IntEnum):
    """How far noise alone hides this device in one sum; `query_policy` says what it is spared then."""

    NONE = 0
    NOISE = 1
    """Enough noise, and no ε that would end it: over enough rounds it is averaged away."""
    EPSILON = 2
    """Enough noise, within a finite ε over all rounds."""


@dataclass(frozen=True, kw_only=True)
class NoiseOffered:
    """The noise of a round as this device believes in it: with the fewest survivors, and its own idea of colluders."""

    multiplier: float
    cost: PrivacyCost

    @property
    def is_noised(self) -> bool:
        """Whether any ε describes the round."""
        return math.isfinite(self.cost.rho) and math.isfinite(self.cost.xi)


def offered(noise: RoundNoise, limits: OwnerLimits) -> NoiseOffered:
    """What devices really get of a round's noise: with the fewest survivors that they unmask for, colluders' shares left out."""
    fewest = noise.noise_shares + noise.colluders
    against = max(noise.colluders, math.floor(limits.colluding_share * fewest))
    return _left_of(msgspec.structs.replace(noise, colluders=against), fewest)


def revealed_cost(noise: RoundNoise, survivors: int) -> PrivacyCost | None:
    """What a sum over just so many devices costs, as the aggregator has to count it; None without noise."""
    found = _left_of(noise, survivors)
    return found.cost if found.is_noised else None


def _left_of(noise: RoundNoise, survivors: int) -> NoiseOffered:
    try:
        multiplier, cost = realised_multiplier(noise, survivors), round_cost(noise, survivors)
    except (ArithmeticError, ValueError):  # figures beyond what floats hold describe no noise
        multiplier, cost = 0.0, PrivacyCost(rho=math.inf)
    # NaN fails the comparison too: a cost that cannot be read must not pass as a small one.
    if not (multiplier >= 0 and cost.rho >= 0 and cost.xi >= 0):
        multiplier, cost = 0.0, PrivacyCost(rho=math.inf)
    return NoiseOffered(multiplier=multiplier, cost=cost)


def cover_of(noise: NoiseOffered, limits: OwnerLimits) -> Cover:
    """How far a round's noise hides this device, once `refuse_excess` has let it pass."""
    if not noise.is_noised or not noise.multiplier * _ROUNDING >= limits.minimum_noise_multiplier:
        return Cover.NONE
    return Cover.NOISE if limits.epsilon_cap is None else Cover.EPSILON


def read_spending(db: sqlite3.Connection, limits: OwnerLimits) -> Spending:
    """What was given so far, at the owner's δ."""
    count, noiseless, rho, xi, last = db.execute(
        "SELECT count(*), coalesce(sum(NOT noised), 0), total(rho), total(xi), max(at) FROM charges"
    ).fetchone()
    cost = PrivacyCost(rho=rho, xi=xi)
    noised_epsilon = epsilon(cost, limits.delta)
    return Spending(
        participations=count,
        noiseless=noiseless,
        cost=cost,
        epsilon=math.inf if noiseless else noised_epsilon,
        noised_epsilon=noised_epsilon,
        last_at_s=last,
    )


def refuse_excess(
    noise: NoiseOffered, spent: Spending, limits: OwnerLimits, announced: ChargeLimits | None
) -> None:
    """Raise PrivacyRefusedError (BUDGET or NOISE) where this answer is more than the owner, or the run, allows."""
    least = limits.minimum_noise_multiplier
    if limits.require_noise and not noise.multiplier * _ROUNDING >= least:
        raise PrivacyRefusedError(
            RefusalCode.NOISE,
            f"this device answers only rounds with noise of {least:g} times the clip or more (privacy.require_noise, "
            f"privacy.minimum_noise_multiplier); of this one {noise.multiplier:.3g} is left with its fewest survivors",
        )
    _refuse_excess(limits, limits.epsilon_cap, noise, spent)
    if announced is not None:
        _refuse_excess(announced, announced.maximum_epsilon, noise, spent)


def _refuse_excess(
    limits: ChargeLimits, epsilon_cap: float | None, noise: NoiseOffered, spent: Spending
) -> None:
    cap = limits.maximum_participations
    if cap is not None and spent.participations >= cap:
        raise PrivacyRefusedError(
            RefusalCode.BUDGET,
            f"this device has given {spent.participations} answers, {cap} are allowed (privacy.maximum_participations)",
        )
    if not noise.is_noised and (limits.require_noise or epsilon_cap is not None):
        raise PrivacyRefusedError(
            RefusalCode.NOISE,
            "this device answers only rounds with noise (privacy.require_noise, or a privacy.maximum_epsilon that no sum without "
            "noise fits into); this round has none",
        )
    if epsilon_cap is None:
        return
    if spent.noiseless and limits.maximum_epsilon is not None:
        raise PrivacyRefusedError(
            RefusalCode.BUDGET,
            f"this device has given {spent.noiseless} answers without noise before; no epsilon budget of {epsilon_cap:g} can hold any more",
        )
    after = epsilon(spent.cost + noise.cost, limits.delta)
    if not after <= epsilon_cap:
        raise PrivacyRefusedError(
            RefusalCode.BUDGET,
            f"this answer would bring the device's epsilon to {after:.4g}, {epsilon_cap:g} is allowed at delta {limits.delta:g} "
            f"(privacy.maximum_epsilon; {epsilon(spent.cost, limits.delta):.4g} is spent)",
        )
