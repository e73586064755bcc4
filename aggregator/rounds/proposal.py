"""From a finished training to a proposed release: threshold, ranges, reference, provenance.

Pure. What quantising the proposal costs is measured by `int8_report`; whether it is good enough is for `gate` to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

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
from aggregator.rounds.candidates import Candidate
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.int8_report import typical_windows
from aggregator.rounds.release_checks import learned_share
from aggregator.rounds.runs import TrainingRun
from models.bundles import ModelBundle
from models.detection.prior import FleetPrior
from protocol.grids import SCORE_GRID
from protocol.manifest import Provenance, ThresholdSpec
from protocol.training import DEFAULT_TRUST_RADIUS, TrainingSettings

__all__ = ["for_mixture", "make_candidate", "propose_threshold", "sights", "with_evaluation"]


def propose_threshold(
    assessment: Assessment, settings: ThresholdSettings, champion: ThresholdSpec | None
) -> tuple[ThresholdSpec, float]:
    """The candidate's threshold, in reach of the champion's, and the share of held-out windows that would be above it."""
    threshold = fit_threshold(assessment, settings, champion)
    return threshold, alarm_rate(assessment.candidate_scores, threshold.score)


def sights(assessment: Assessment, threshold: ThresholdSpec, champion: ThresholdSpec) -> tuple[float, float]:
    """Shares of slightly disturbed windows over the candidate's threshold, and over the champion's.

    A champion whose threshold no longer holds what it promised sees whatever it is shown, healthy or not. It is measured at the
    one that it would need today: else nobody who alarms less could ever replace it.
    """
    score = champion.score
    if alarm_rate(assessment.champion_scores, score) > 1 - champion.quantile:
        score = max(
            score, SCORE_GRID.quantile(assessment.champion_scores, champion.quantile) * champion.margin
        )
    return (
        alarm_rate(assessment.candidate_probe_scores, threshold.score),
        alarm_rate(assessment.champion_probe_scores, score),
    )


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
    threshold, rate = propose_threshold(assessment, policy.threshold, champion.manifest.threshold)
    sight, champion_sight = sights(assessment, threshold, champion.manifest.threshold)
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
            participants=_told_participants(run),
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
                "sight": sight,
                "champion_sight": champion_sight,
                "learned_share": learned_share(assessment),
                "held_out_windows": float(assessment.examples),
            },
            git_revision=git_revision,
            privacy=run.privacy,
        ),
        created_at=created_at,
        training=_next_profile(policy.training, champion.manifest.training),
        training_model=champion.training_model,
        int8=policy.int8,
        probes=typical_windows(
            champion.architecture, parameters, assessment, np.random.default_rng([run.seed, version])
        ).astype(np.float32),
    )


def _next_profile(wanted: TrainingSettings, now: TrainingSettings | None) -> TrainingSettings:
    """The profile of the next release: what the family's file says, and where it leaves a bound open the one of the release so far."""
    if now is None:
        return wanted.settled()
    norm = wanted.update_norm if wanted.trust_radius or wanted.update_norm else now.update_norm
    return msgspec.structs.replace(wanted, update_norm=norm).settled(now.trust_radius or DEFAULT_TRUST_RADIUS)


def _told_participants(run: TrainingRun) -> int:
    """How many took part; where nobody may know it, how many were drawn from."""
    claim = run.privacy
    return claim.devices if claim is not None and claim.hides_sizes else len(run.participants)


def for_mixture(candidate: Candidate, prior: FleetPrior | None) -> Candidate:
    """The same candidate with the fleet's prior, by which devices judge; what was measured of its network is called so."""
    if prior is None:
        return candidate
    names = {"sight": "network_sight", "champion_sight": "champion_network_sight"}
    figures = {names.get(name, name): value for name, value in candidate.provenance.evaluation.items()}
    provenance = msgspec.structs.replace(candidate.provenance, evaluation=figures)
    return replace(candidate, prior=prior, provenance=provenance)


def with_evaluation(candidate: Candidate, figures: Mapping[str, float]) -> Candidate:
    """The same candidate whose provenance holds these figures, too."""
    evaluation = {**candidate.provenance.evaluation, **figures}
    return replace(candidate, provenance=msgspec.structs.replace(candidate.provenance, evaluation=evaluation))
