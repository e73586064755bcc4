"""What a run of a family will ask, as the privacy budget has to know it before anybody is asked.

Pure: the same encodings that the rounds will use, of cohorts as the family draws them. Not the arithmetic
(`aggregator.privacy`).
"""

from __future__ import annotations

import math

from aggregator.privacy.budget import PlannedQuestion
from aggregator.privacy.ledger_entries import FixedCohort, PoissonCohort, Sampling
from aggregator.privacy.poisson_draws import largest_draw
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.refit import refits
from aggregator.rounds.runs import TrainingRun
from models.bundles import ModelBundle
from protocol.names import DeviceId
from protocol.questions import (
    ASSESS,
    FIT,
    REFIT_KINDS,
    TRAINING_KINDS,
    Kind,
    answer_layout,
)
from protocol.secure_answers import make_encoding

__all__ = ["planned_questions"]


def planned_questions(
    run: TrainingRun, policy: FamilySettings, champion: ModelBundle, joined: frozenset[DeviceId]
) -> list[PlannedQuestion]:
    """Every question of the run, with its noise. A cohort drawn later may be smaller; its noise is planned for the quorum all the same.

    Raises:
        PrivacyPlanError: the quorum is too small for clip bits beside that noise.
        ProtocolError: noise that no words can carry; says what to change.
    """
    asked: dict[Kind, int] = {
        FIT: run.rounds,
        ASSESS: 1,
    }
    if refits(policy, champion):
        asked |= dict.fromkeys(REFIT_KINDS, 1)
    architecture, planned = champion.architecture, []
    for kind, rounds in asked.items():
        if not rounds:
            continue
        layout = answer_layout(
            kind,
            parameter_count=architecture.parameter_count,
            tensor_count=architecture.tensor_count,
            feature_count=architecture.feature_count,
        )
        sampling = _sampling(policy, kind, len(joined))
        size = sampling.size if isinstance(sampling, FixedCohort) else sampling.largest or sampling.population
        terms = policy.sum_policy.terms(
            run_id=run.id,
            kind=kind,
            number=1,
            layout=layout,
            devices=size,
            quorum=policy.cohort.minimum_devices,
            rotation_seed="0" * 32,
        )
        noise = make_encoding(layout, terms).noise
        planned.append(PlannedQuestion(question=kind, rounds=rounds, noise=noise, sampling=sampling))
    return planned


def _sampling(policy: FamilySettings, kind: str, joined: int) -> Sampling:
    if policy.cohort.sampling == "poisson":
        rate = policy.cohort.fraction
        largest = largest_draw(rate, joined, policy.cohort.minimum_devices)
        return PoissonCohort(rate=rate, population=joined, largest=largest)
    fraction = policy.cohort.fraction if kind in TRAINING_KINDS else 1.0
    goal = max(math.ceil(fraction * joined), policy.cohort.minimum_devices)
    size = min(math.ceil(goal * policy.cohort.over_selection), joined)
    return FixedCohort(size=size, population=joined)
