"""How a family's secure rounds are run, and the terms that follow for one of them.

Pure values: settings in, terms out. Without noise the words have 32 bits and the sum is exact; with noise the family's
`bits`, one vote per device, and noise for at least the quorum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from aggregator.privacy.adaptive_clipping import AdaptiveClip, clip_bit_noise, update_noise_multiplier
from protocol.questions import FIT, AnswerLayout, Kind
from protocol.secure_answers import suggested_clip
from protocol.secure_sum.server_role import ServerPolicy
from protocol.sum_terms import NoiseTerms, SumTerms

__all__ = ["NoisePolicy", "SumPolicy"]

EXACT_BITS = 32
"""Words of a sum without noise: the finest fixed point there is."""


@dataclass(frozen=True, kw_only=True)
class NoisePolicy:
    """Distributed differential privacy of a family; `clip` is an update's L2 norm, `bits` the size of a word.

    `assessment_noise_multiplier` is the evaluation's, whose histograms need a large cohort under strong noise. With `adaptive`
    devices say whether their update was within the clip, and the clip follows; `clip` is then the one of the round at hand.
    """

    noise_multiplier: float
    assessment_noise_multiplier: float
    clip: float
    bits: int
    mechanism: Literal["discrete-gaussian", "skellam"]
    colluders: int
    delta: float
    adaptive: AdaptiveClip | None = None


@dataclass(frozen=True, kw_only=True)
class SumPolicy:
    """Everything about a family's secure rounds but the question.

    `norm_limit` and `maximum_examples` are what devices clip to. `stage_deadline_s` holds for every stage in which nobody trains;
    `grace_s` is how long stragglers of such a stage are waited for once enough have answered. The rest as
    `protocol.secure_sum.server_role.ServerPolicy`.
    """

    norm_limit: float
    maximum_examples: int
    noise: NoisePolicy | None = None
    maximum_participations: int | None = None
    maximum_epsilon: float | None = None
    stage_deadline_s: float = 10.0
    grace_s: float = 1.0
    corrupt_fraction: float = 0.2
    dropout_fraction: float = 0.1
    split_view_safe: bool = True
    requires_confirmation: bool = False

    def at(self, clip: AdaptiveClip) -> SumPolicy:
        """The same for a round with that clip; without noise there is none to move."""
        if self.noise is None:
            return self
        return replace(self, noise=replace(self.noise, clip=clip.clip, adaptive=clip))

    def server_policy(self, quorum: int) -> ServerPolicy:
        """What the role plans for."""
        return ServerPolicy(
            minimum_cohort=quorum,
            corrupt_fraction=self.corrupt_fraction,
            dropout_fraction=self.dropout_fraction,
            split_view_safe=self.split_view_safe or self.requires_confirmation,
        )

    def terms(
        self,
        *,
        run_id: str,
        kind: Kind,
        number: int,
        layout: AnswerLayout,
        devices: int,
        quorum: int,
        rotation_seed: str,
    ) -> SumTerms:
        """The terms of one round of `devices`, of which `quorum` must stay.

        Raises:
            PrivacyPlanError: the quorum is too small for clip bits beside that noise.
        """
        noise = None
        if self.noise is not None:
            is_fit = kind == FIT
            noise = NoiseTerms(
                mechanism=self.noise.mechanism,
                clip=suggested_clip(layout, self.noise.clip),
                noise_multiplier=self.noise.noise_multiplier
                if is_fit
                else self.noise.assessment_noise_multiplier,
                maximum_dropouts=max(devices - quorum, 0),
                colluders=self.noise.colluders,
                rotation_seed=rotation_seed,
                delta=self.noise.delta,
            )
            if is_fit and self.noise.adaptive is not None:
                noise = _with_clip_bits(noise, min(quorum, devices))
        return SumTerms(
            run_id=run_id,
            question=kind,
            round_number=number,
            devices=devices,
            word_bits=EXACT_BITS if self.noise is None else self.noise.bits,
            norm_limit=self.norm_limit if self.noise is None else self.noise.clip,
            maximum_examples=self.maximum_examples,
            noise=noise,
            maximum_participations=self.maximum_participations,
            maximum_epsilon=self.maximum_epsilon,
        )


def _with_clip_bits(noise: NoiseTerms, fewest: int) -> NoiseTerms:
    """The same noise over a norm that is wider by the bits' part, with at least `fewest` devices in the sum."""
    # Noise is planned for the fewest, so the bits' is measured by them as well; more devices only see it better.
    bit_noise = clip_bit_noise(fewest)
    multiplier = update_noise_multiplier(noise.noise_multiplier, bit_noise)
    return msgspec.structs.replace(
        noise, clip=noise.clip * multiplier / noise.noise_multiplier, clip_bit_noise=bit_noise
    )
