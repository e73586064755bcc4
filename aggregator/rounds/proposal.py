"""From a finished training to a proposed release: threshold, ranges, reference, provenance.

Pure. What quantising the proposal costs is measured by `int8_report`; whether it is good enough is for `gate` to say.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator.rounds.assessment import (
    Assessment,
    ThresholdSettings,
    alarm_rate,
    fit_threshold,
    reference_from_sums,
    tensor_ranges,
)
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.int8_report import Int8Report, typical_windows
from aggregator.rounds.ports import Candidate
from aggregator.rounds.runs import TrainingRun
from models.bundles import ModelBundle
from protocol.manifest import Provenance, ThresholdSpec

__all__ = ["make_candidate", "propose_threshold", "with_int8_report"]


def propose_threshold(assessment: Assessment, settings: ThresholdSettings) -> tuple[ThresholdSpec, float]:
    """The candidate's threshold, and the share of held-out windows that would be above it."""
    threshold = fit_threshold(assessment, settings)
    return threshold, alarm_rate(assessment.candidate_scores, threshold.score)


def make_candidate(
    run: TrainingRun,
    policy: FamilySettings,
    *,
    champion: ModelBundle,
    assessment: Assessment,
    parameters: NDArray[np.float32],
    version: int,
    created_at: float,
    git_revision: str,
) -> Candidate:
    """Everything the release of this run will say, but for its int8 figures.

    Raises:
        SumError: the devices' sums lack a range or a score.
    """
    threshold, rate = propose_threshold(assessment, policy.threshold)
    low, high = tensor_ranges(assessment)
    return Candidate(
        family=run.family,
        version=version,
        architecture=champion.architecture,
        parameters=parameters,
        low=low,
        high=high,
        threshold=threshold,
        features=champion.manifest.features,
        reference=reference_from_sums(assessment),
        provenance=Provenance(
            training_run=run.id,
            trigger=run.trigger,
            rounds=run.finished_rounds,
            participants=len(run.participants),
            examples=run.examples,
            parent=run.base_release,
            algorithm=f"{policy.rounds.server_optimizer}, {policy.training.epochs} local epochs, "
            + (
                "secure sum"
                if policy.secure_sum.enabled
                else "no secure sum: the aggregator saw every update"
            ),
            evaluation={
                "candidate_loss": assessment.candidate_loss,
                "champion_loss": assessment.champion_loss,
                "alarm_rate": rate,
                "held_out_windows": float(assessment.examples),
            },
            git_revision=git_revision,
            privacy=run.privacy,
        ),
        created_at=created_at,
        training_model=champion.training_model,
        int8=policy.int8,
        probes=typical_windows(
            champion.architecture, parameters, assessment, np.random.default_rng([run.seed, version])
        ).astype(np.float32),
    )


def with_int8_report(candidate: Candidate, report: Int8Report) -> Candidate:
    """The same candidate whose provenance says how far its int8 model is from float."""
    provenance = msgspec.structs.replace(
        candidate.provenance, evaluation={**candidate.provenance.evaluation, **report.evaluation()}
    )
    return Candidate(**{**vars(candidate), "provenance": provenance})
