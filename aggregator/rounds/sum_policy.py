"""How a family's secure rounds are run, and the terms that follow for one of them.

Pure values: settings in, terms out. Without noise the words have 32 bits and the sum is exact; with noise the family's
`bits`, one vote per device, and noise for at least the quorum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from protocol.questions import ASSESS, FIT, AnswerLayout
from protocol.secure_answers import suggested_clip
from protocol.secure_sum.server_role import ServerPolicy
from protocol.sum_terms import NoiseTerms, SumTerms

__all__ = ["NoisePolicy", "SumPolicy"]

EXACT_BITS = 32
"""Words of a sum without noise: the finest fixed point there is."""


@dataclass(frozen=True, kw_only=True)
class NoisePolicy:
    """Distributed differential privacy of a family; `clip` is an update's L2 norm, `bits` the size of a word.

    `assessment_noise_multiplier` is the evaluation's, whose histograms need a large cohort under strong noise.
    """

    noise_multiplier: float
    assessment_noise_multiplier: float
    clip: float
    bits: int
    mechanism: Literal["discrete-gaussian", "skellam"]
    colluders: int
    delta: float


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
    compares_survivors: bool = False

    def server_policy(self, quorum: int) -> ServerPolicy:
        """What the role plans for."""
        return ServerPolicy(
            minimum_cohort=quorum,
            corrupt_fraction=self.corrupt_fraction,
            dropout_fraction=self.dropout_fraction,
            split_view_safe=self.split_view_safe or self.compares_survivors,
        )

    def terms(
        self,
        *,
        run_id: str,
        kind: str,
        number: int,
        layout: AnswerLayout,
        devices: int,
        quorum: int,
        rotation_seed: str,
    ) -> SumTerms:
        """The terms of one round of `devices`, of which `quorum` must stay."""
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
        return SumTerms(
            run_id=run_id,
            question=FIT if kind == FIT else ASSESS,
            round_number=number,
            devices=devices,
            word_bits=EXACT_BITS if self.noise is None else self.noise.bits,
            norm_limit=self.norm_limit if self.noise is None else self.noise.clip,
            maximum_examples=self.maximum_examples,
            noise=noise,
            maximum_participations=self.maximum_participations,
            maximum_epsilon=self.maximum_epsilon,
        )
