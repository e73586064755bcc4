"""What differential privacy would cost a fleet of this size: ε of a training run, and how much of what is learnt its noise leaves.

ε is the aggregator's own account (`aggregator.privacy.accountant`), of the continuous Gaussian, which rounds on the lattice exceed by little. Every
machine is in every round, as in a fleet so small that nobody can be left out. What noise does to a mean over N machines: each of the P
parameters gets z·C/N, the whole vector √P·z/N times the longest update C that a machine may send.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from aggregator.privacy.accountant import idealised_server_epsilon
from aggregator.privacy.settings import FamilyBudget
from aggregator.rounds.round_settings import RoundSettings
from edge_agent.settings import LearnerSettings

__all__ = ["MULTIPLIERS", "PrivacyCost", "PrivacyOfFleet", "cost_of_privacy"]

MULTIPLIERS: Final = (0.5, 1.0, 2.0, 4.0)
_DROWNED: Final = 1.0
"""Noise as long as the longest update: the mean is more noise than knowledge."""


@dataclass(frozen=True, kw_only=True)
class PrivacyCost:
    """Of a noise `multiplier`: ε towards the aggregator of one run, and the noise in the mean, in longest updates."""

    multiplier: float
    epsilon: float
    noise: float


@dataclass(frozen=True, kw_only=True)
class PrivacyOfFleet:
    """Of a fleet of `devices` that share `parameters` numbers in `rounds` rounds.

    `enough`: with so many devices the noise of multiplier 1 is a tenth of the longest update.
    """

    devices: int
    parameters: int
    rounds: int
    delta: float
    costs: tuple[PrivacyCost, ...]
    smallest_sum: int

    @property
    def enough(self) -> int:
        """See above."""
        return math.ceil(10 * math.sqrt(self.parameters))

    @property
    def said(self) -> str:
        """One sentence for a person."""
        if self.devices < self.smallest_sum:
            return (
                f"{self.devices} machines cannot learn together: an agent takes part in no sum of fewer than {self.smallest_sum},"
                " because of two each would learn the other's"
            )
        one = next(cost for cost in self.costs if cost.multiplier == 1.0)
        begin = (
            f"without noise no number limits what a sum over {self.devices} machines says of one of them; with a noise multiplier of 1"
            f" a run of {self.rounds} rounds costs ε = {one.epsilon:.3g} (δ = {self.delta:g})"
        )
        if one.noise > _DROWNED:
            return (
                f"{begin}, and its noise is {one.noise:.2g} times the longest update that a machine may send: at this size it drowns what"
                f" is learnt; {self.enough:,} machines would bring it to a tenth"
            )
        return f"{begin}, and its noise is {one.noise:.2g} times the longest update that a machine may send"


def cost_of_privacy(devices: int, parameters: int) -> PrivacyOfFleet:
    """What a training run of the default length would cost so many devices."""
    rounds, delta = RoundSettings().count, FamilyBudget().delta
    return PrivacyOfFleet(
        devices=devices,
        parameters=parameters,
        rounds=rounds,
        delta=delta,
        smallest_sum=LearnerSettings().minimum_cohort,
        costs=tuple(
            PrivacyCost(
                multiplier=z,
                epsilon=idealised_server_epsilon(rounds / z**2, delta),
                noise=math.sqrt(parameters) * z / max(devices, 1),
            )
            for z in MULTIPLIERS
        ),
    )
