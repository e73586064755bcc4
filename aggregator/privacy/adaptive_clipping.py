"""A clip that follows a quantile of the update norms, learned from noisy counts alone.

::

    bits of the round (1: my update was within C) ──sum + noise──► b̄ ──► C ← C·exp(-0.2·(b̄ - γ))

The bits travel as one more masked coordinate of the same vector, counted as ±1/2, so a device moves their sum by 1/2. Their
noise is paid for out of the same multiplier z: updates get the slightly larger z_Δ, so that both together cost what z
alone would.

Source: Andrew, Thakkar, McMahan, Ramaswamy, "Differentially Private Learning with Adaptive Clipping", 2021,
arXiv:1905.03871v5, Algorithm 1 and Theorem 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from aggregator.errors import PrivacyPlanError

__all__ = ["AdaptiveClip", "clip_bit_noise", "update_noise_multiplier"]


@dataclass(frozen=True, kw_only=True)
class AdaptiveClip:
    """A clip and where it is heading: `quantile` of the devices shall be within it (γ); the median unless said otherwise.

    `rate` is the geometric step; `minimum` and `maximum` bound the clip, because noise alone makes it wander.
    """

    clip: float
    quantile: float = 0.5
    rate: float = 0.2
    minimum: float = 1e-6
    maximum: float = 1e6

    def __post_init__(self) -> None:
        """Refuse what would never settle."""
        if (
            not (0 < self.minimum <= self.clip <= self.maximum)
            or not 0 < self.quantile < 1
            or not 0 < self.rate <= 1
        ):
            raise PrivacyPlanError(
                f"adaptive clipping needs 0 < minimum <= clip <= maximum, 0 < quantile < 1 and 0 < rate <= 1, got clip {self.clip} in "
                f"[{self.minimum}, {self.maximum}], quantile {self.quantile}, rate {self.rate}"
            )

    def at(self, clip: float) -> AdaptiveClip:
        """The same rule with the clip where earlier rounds have taken it, within the bounds."""
        return replace(self, clip=min(max(clip, self.minimum), self.maximum))

    def next_clip(self, bits: float, participants: int) -> float:
        """C for the next round.

        Args:
            bits: noisy number of participants whose update was within the clip; noise may take it below 0 or above all.
            participants: how many are in the sum.
        """
        within = bits / participants
        # Algorithm 1, line 12: C ← C·exp(-η(b̄ - γ)).
        moved = self.clip * math.exp(-self.rate * (within - self.quantile))
        return min(max(moved, self.minimum), self.maximum)


def clip_bit_noise(devices: int) -> float:
    """σ_b = n/20 devices: the paper's choice, noisy enough to be nearly free and calm enough to follow."""
    return devices / 20


def update_noise_multiplier(noise_multiplier: float, bit_noise: float) -> float:
    """z_Δ for the updates, so that updates and bits together cost what `noise_multiplier` alone would.

    Raises:
        PrivacyPlanError: the bits alone cost more than that; says from which cohort or multiplier on it works.
    """
    # Theorem 1: z_Δ = (z⁻² - (2σ_b)⁻²)^(-1/2).
    left = noise_multiplier**-2 - (2 * bit_noise) ** -2
    if left <= 0:
        raise PrivacyPlanError(
            f"adaptive clipping with bit noise {bit_noise:g} costs more than noise_multiplier {noise_multiplier:g} allows: raise the cohort above "
            f"{math.floor(10 * noise_multiplier) + 1} devices, lower noise_multiplier below {2 * bit_noise:g}, or fix the clip"
        )
    return float(left**-0.5)
