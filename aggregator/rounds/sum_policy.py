"""How a family's secure rounds are run, and the terms that follow for one of them.

Pure values: settings in, terms out. Without noise the sum is exact, in words as small as its counts allow; with noise they have
the family's `bits`, one vote per device, and noise for at least the quorum.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from aggregator.privacy.adaptive_clipping import AdaptiveClip, clip_bit_noise, update_noise_multiplier
from aggregator.privacy.settings import PrivacySettings
from protocol.questions import FIT, AnswerLayout, Kind
from protocol.secure_answers import exact_word_bits, suggested_clip
from protocol.secure_sum.server_role import ServerPolicy
from protocol.sum_terms import NoiseTerms, SumTerms

__all__ = ["SecureSumSettings", "SumPolicy"]


class SecureSumSettings(Struct, frozen=True, kw_only=True):
    """``[family.secure_sum]``: how devices add up under masks.

    Attributes:
        enabled: false shows this process every device's update: for experiments, with devices whose owners allow it
            (``learner.plain_answers``).
        stage_deadline_s: of every stage in which nobody trains.
        grace_s: how long stragglers of such a stage are waited for once enough have answered.
        corrupt_fraction: share of a cohort that may be in the aggregator's hand (`protocol.secure_sum.server_role.ServerPolicy`).
        dropout_fraction: share that may vanish.
        split_view_safe: thresholds so high that different stories told to different devices win nothing.
        requires_confirmation: adds a stage in which devices sign and compare who is in the sum.
    """

    enabled: bool = True
    stage_deadline_s: Annotated[float, Meta(gt=0)] = 10.0
    grace_s: Annotated[float, Meta(ge=0)] = 1.0
    corrupt_fraction: Annotated[float, Meta(ge=0, lt=1)] = 0.2
    dropout_fraction: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    split_view_safe: bool = True
    requires_confirmation: bool = False

    def server_policy(self, quorum: int) -> ServerPolicy:
        """What the server's role plans for."""
        return ServerPolicy(
            minimum_cohort=quorum,
            corrupt_fraction=self.corrupt_fraction,
            dropout_fraction=self.dropout_fraction,
            split_view_safe=self.split_view_safe or self.requires_confirmation,
        )


@dataclass(frozen=True, kw_only=True)
class SumPolicy:
    """Everything about a family's secure rounds but the question.

    `norm_limit` and `maximum_examples` are what devices clip to; with noise, its clip takes the place of `norm_limit`.
    """

    norm_limit: float
    maximum_examples: int
    stages: SecureSumSettings = field(default_factory=SecureSumSettings)
    privacy: PrivacySettings = field(default_factory=PrivacySettings)

    def at(self, clip: AdaptiveClip) -> SumPolicy:
        """The same for a round with that clip; without noise there is none to move."""
        if self.privacy.noise is None:
            return self
        noise = msgspec.structs.replace(self.privacy.noise, clip=clip.clip)
        return replace(self, privacy=msgspec.structs.replace(self.privacy, noise=noise))

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
        noise, terms = self.privacy.noise, None
        if noise is not None:
            is_fit = kind == FIT
            terms = NoiseTerms(
                mechanism=noise.mechanism,
                clip=suggested_clip(layout, noise.clip),
                noise_multiplier=noise.noise_multiplier
                if is_fit
                else noise.assessment_noise_multiplier or noise.noise_multiplier,
                maximum_dropouts=max(devices - quorum, 0),
                colluders=noise.colluders,
                rotation_seed=rotation_seed,
                delta=self.privacy.budget.delta,
            )
            if is_fit and noise.adaptive_clip:
                terms = _with_clip_bits(terms, min(quorum, devices))
        return SumTerms(
            run_id=run_id,
            question=kind,
            round_number=number,
            devices=devices,
            word_bits=noise.bits
            if noise is not None
            else exact_word_bits(layout, devices=devices, maximum_examples=self.maximum_examples),
            norm_limit=self.norm_limit if noise is None else noise.clip,
            maximum_examples=self.maximum_examples,
            noise=terms,
            maximum_participations=self.privacy.budget.maximum_participations,
            maximum_epsilon=self.privacy.budget.epsilon_server,
        )


def _with_clip_bits(noise: NoiseTerms, fewest: int) -> NoiseTerms:
    """The same noise over a norm that is wider by the bits' part, with at least `fewest` devices in the sum."""
    # Noise is planned for the fewest, so the bits' is measured by them as well; more devices only see it better.
    bit_noise = clip_bit_noise(fewest)
    multiplier = update_noise_multiplier(noise.noise_multiplier, bit_noise)
    return msgspec.structs.replace(
        noise, clip=noise.clip * multiplier / noise.noise_multiplier, clip_bit_noise=bit_noise
    )
