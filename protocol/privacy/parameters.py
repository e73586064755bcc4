"""What a private sum is asked to be, and every number that follows from it. No data passes through here.

    asked        dimension, bits, clip c, noise multiplier z, cohort n, maximum dropouts, colluders, kind of noise
    follows      n_eff = n - dropouts - colluders        local noise σ_l = z·c/√n_eff      scale s (lattice steps a unit)
                 Δ2 (longest rounded update, in steps)    realised noise multiplier z_r = s·σ_l·√honest / Δ2

z_r is what an accountant counts; it is a little below z, because rounding may lengthen an update, and it is what
`realised` states for the devices that really took part.

How the scale is chosen. Rotated updates have no large coordinate, so words are sized for a typical coordinate of the
noisy sum, κ = 4 standard deviations, as the paper does. An update that is not rotated may have its whole norm in one
coordinate, and a fleet that agrees may have n·c there: words are then sized for that, and nothing can wrap around. (Sized
for a typical coordinate instead, 18 of 6634 coordinates of the first MNIST round of ``benchmarks/private_learning.py``
wrap in 20-bit words at z = 1, 45 at z = 0.5.) From 20 bits on this costs less than 1 % of noise unless cohort and
dimension are very large; where it would cost more, and always below 20 bits, the vector is rotated.

Source: Kairouz, Liu, Steinke, arXiv:2102.06387v4, sections 4 and 5; Agarwal, Kairouz, Liu, arXiv:2110.04995v1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from protocol.privacy.discrete_gaussian import MAX_STD
from protocol.privacy.errors import ParameterError, WordTooNarrowError
from protocol.privacy.rotation import padded_length
from protocol.privacy.rounding import norm_bound

__all__ = ["KAPPA", "NoiseKind", "PrivacyParameters", "RealisedNoise", "flat_scale", "spiked_scale"]

KAPPA: Final = 4.0
"""Standard deviations of a rotated coordinate that the words hold on each side."""

_TAIL_STDS: Final = 8.0
"""Standard deviations of noise that the words hold on each side beside an unrotated update: 1e-15 a coordinate."""
_ROTATION_BITS: Final = 20
"""Below this many bits the vector is always rotated."""
_TOLERATED_INFLATION: Final = 1.01
"""Δ2 over c·s from which on rotating is better than sizing the words for a spike."""


class NoiseKind(StrEnum):
    """Which integers a device adds."""

    DISCRETE_GAUSSIAN = "discrete-gaussian"
    SKELLAM = "skellam"


@dataclass(frozen=True, kw_only=True)
class RealisedNoise:
    """The noise that is really in a sum. `lattice_std` counts honest survivors only; `multiplier` is z_r."""

    survivors: int
    lattice_std: float
    multiplier: float
    is_as_planned: bool


@dataclass(frozen=True, kw_only=True)
class PrivacyParameters:
    """One private sum of one vector a device. Equal on every device and the server.

    Args:
        dimension: entries of an update, ≥ 1.
        clip: c, the L2 norm an update is clipped to.
        noise_multiplier: z; the sum's noise has standard deviation z·c per coordinate at the worst tolerated dropout.
        cohort: n, devices that encode.
        bits: width of a word of the secure sum, 2 to 32.
        maximum_dropouts: devices that may vanish after encoding without the noise falling below z.
        colluders: devices that may tell the server their own noise without the noise falling below z.
        noise: see `NoiseKind`.

    Raises:
        ParameterError: a value is out of its range.
        WordTooNarrowError: 2^{2·bits} ≤ 16·cohort: no scale fits.
    """

    dimension: int
    clip: float
    noise_multiplier: float
    cohort: int
    bits: int = 20
    maximum_dropouts: int = 0
    colluders: int = 0
    noise: NoiseKind = NoiseKind.DISCRETE_GAUSSIAN

    def __post_init__(self) -> None:
        if self.dimension < 1:
            raise ParameterError(f"dimension must be at least 1, got {self.dimension}")
        if not 2 <= self.bits <= 32:
            raise ParameterError(f"bits must be in 2..32, got {self.bits}")
        for name, value in (("clip", self.clip), ("noise_multiplier", self.noise_multiplier)):
            if not (math.isfinite(value) and value > 0):
                raise ParameterError(f"{name} must be positive and finite, got {value}")
        if self.cohort < 1 or self.maximum_dropouts < 0 or self.colluders < 0:
            raise ParameterError(
                "cohort must be at least 1, maximum_dropouts and colluders at least 0, got "
                f"{self.cohort}, {self.maximum_dropouts}, {self.colluders}"
            )
        if self.effective_cohort < 1:
            raise ParameterError(
                f"nobody honest is left to add noise: cohort {self.cohort} - maximum_dropouts {self.maximum_dropouts} "
                f"- colluders {self.colluders} = {self.effective_cohort} must be at least 1; "
                f"raise cohort to at least {self.maximum_dropouts + self.colluders + 1}"
            )
        require_word_fits(self.bits, self.cohort)

    @property
    def effective_cohort(self) -> int:
        """n_eff: honest survivors in the worst tolerated case."""
        return self.cohort - self.maximum_dropouts - self.colluders

    @property
    def minimum_survivors(self) -> int:
        """Fewer than this and the round is void."""
        return self.cohort - self.maximum_dropouts

    @property
    def local_std(self) -> float:
        """σ_l: one device's noise per coordinate, in the unit of the update."""
        return self.noise_multiplier * self.clip / math.sqrt(self.effective_cohort)

    @property
    def is_rotated(self) -> bool:
        """Whether vectors are rotated: always below 20 bits, else only where not rotating would cost noise."""
        if self.bits < _ROTATION_BITS:
            return True
        scale = self._spiked_scale()
        if scale <= 0:
            return True
        return norm_bound(self.clip * scale, self.dimension) > _TOLERATED_INFLATION * self.clip * scale

    @property
    def vector_length(self) -> int:
        """Entries of an encoded vector: the dimension, padded to a power of two if rotated."""
        return padded_length(self.dimension) if self.is_rotated else self.dimension

    @property
    def scale(self) -> float:
        """s: lattice steps for one unit of the update."""
        return min(self._fitting_scale(), MAX_STD / self.local_std)

    @property
    def local_lattice_std(self) -> float:
        """s·σ_l: one device's noise in lattice steps."""
        return min(self._fitting_scale() * self.local_std, MAX_STD)

    @property
    def norm_bound(self) -> float:
        """Δ2: L2 norm, in lattice steps, that no rounded update exceeds."""
        return norm_bound(self.clip * self.scale, self.vector_length)

    @property
    def realised_multiplier(self) -> float:
        """z_r at the worst tolerated case: what may be claimed before the round."""
        return self.local_lattice_std * math.sqrt(self.effective_cohort) / self.norm_bound

    def realised(self, survivors: int) -> RealisedNoise:
        """The noise in a sum over `survivors` devices, of which `colluders` are taken to be against us.

        Raises:
            ParameterError: `survivors` is more than the cohort, or leaves nobody honest.
        """
        honest = survivors - self.colluders
        if not 1 <= honest <= self.cohort - self.colluders:
            raise ParameterError(
                f"survivors must be in {self.colluders + 1}..{self.cohort} ({self.colluders} of them may collude), got {survivors}"
            )
        std = self.local_lattice_std * math.sqrt(honest)
        return RealisedNoise(
            survivors=survivors,
            lattice_std=std,
            multiplier=std / self.norm_bound,
            is_as_planned=survivors >= self.minimum_survivors,
        )

    def _fitting_scale(self) -> float:
        return self._flat_scale() if self.is_rotated else self._spiked_scale()

    def _flat_scale(self) -> float:
        return flat_scale(
            bits=self.bits,
            cohort=self.cohort,
            clip=self.clip,
            dimension=padded_length(self.dimension),
            local_std=self.local_std,
        )

    def _spiked_scale(self) -> float:
        return spiked_scale(bits=self.bits, cohort=self.cohort, clip=self.clip, local_std=self.local_std)


def require_word_fits(bits: int, cohort: int) -> None:
    """Raise WordTooNarrowError unless 2^{2·bits} > κ²·cohort: the rounding of n devices alone must fit the words."""
    if 4**bits <= KAPPA**2 * cohort:
        enough = next(b for b in range(bits, 65) if 4**b > KAPPA**2 * cohort)
        feasible = math.ceil(4**bits / KAPPA**2) - 1
        raise WordTooNarrowError(
            f"bits={bits} cannot carry a cohort of {cohort}: 2^(2·bits) = {4**bits} must exceed "
            f"{KAPPA**2:g}·cohort = {KAPPA**2 * cohort:g}; raise bits to at least {enough}"
            + (f" or lower cohort to at most {feasible}" if feasible >= 1 else "")
        )


def flat_scale(*, bits: int, cohort: int, clip: float, dimension: int, local_std: float) -> float:
    """Scale for rotated updates of (padded) length `dimension`: κ deviations of a noisy sum's coordinate fill the words.

    Raises:
        WordTooNarrowError: no scale fits.
    """
    require_word_fits(bits, cohort)
    # Eq. (10) of arXiv:2102.06387v4: the sum's coordinate has variance ≤ s²(c²n²/d + nσ_l²) + n/4.
    deviation = math.sqrt(clip**2 * cohort**2 / dimension + cohort * local_std**2)
    return math.sqrt(4.0**bits - cohort * KAPPA**2) / (2.0 * KAPPA * deviation)


def spiked_scale(*, bits: int, cohort: int, clip: float, local_std: float) -> float:
    """Scale for updates that are not rotated: n·c in one coordinate fits beside 8 deviations of noise; ≤ 0 if none does."""
    return (2.0 ** (bits - 1) - cohort) / (cohort * clip + _TAIL_STDS * math.sqrt(cohort) * local_std)
