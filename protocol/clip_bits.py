"""How a device says, within the clip of its one noised vector, whether its update was short enough: what adapts the clip.

The vector gets one coordinate more: +1/2 if the device's update was within its clip, -1/2 if not,
times a weight w. One noise σ = z·T hides a vector of norm T² = C² + (w/2)²; so the updates (norm C) have the multiplier z_Δ = σ/C, the bits
the noise σ_b = σ/w, and z⁻² = z_Δ⁻² + (2σ_b)⁻² holds by construction: both together cost what z says, counted once.

Source: Andrew, Thakkar, McMahan, Ramaswamy, "Differentially Private Learning with Adaptive Clipping", arXiv:1905.03871v5, Theorem 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec

from protocol.errors import QuestionError
from protocol.questions import AnswerLayout
from protocol.sum_terms import NoiseTerms

__all__ = ["ClipBit"]


@dataclass(frozen=True, kw_only=True)
class ClipBit:
    """How the clip of a whole answer is divided: ±`weight`/2 for the bit, `others_clip` for the update."""

    weight: float
    others_clip: float

    @classmethod
    def of(cls, layout: AnswerLayout, noise: NoiseTerms) -> ClipBit:
        """By these terms; raises QuestionError for an answer without an update, or bits that take all of the clip."""
        if noise.clip_bit_noise is msgspec.UNSET or "update" not in layout.sizes:
            raise QuestionError(
                f"clip bits are for answers with an update, this one has {', '.join(layout.sizes)}: ask without clip_bit_noise"
            )
        # The bit's part of the norm, (w/2)/T.
        part = noise.noise_multiplier / (2 * noise.clip_bit_noise)
        if part >= 1:
            raise QuestionError(
                f"clip_bit_noise {noise.clip_bit_noise:g} leaves nothing of the clip for the update: it must be above"
                f" {noise.noise_multiplier / 2:g}, half the noise_multiplier"
            )
        others = noise.clip * math.sqrt(1 - part**2)
        return cls(weight=2 * part * noise.clip, others_clip=others)
