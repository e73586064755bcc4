"""From a finished training to a proposed release: threshold, ranges, reference, provenance, and the int8 error.

Pure but for LiteRT, which runs the int8 model once. Whether the proposal is good enough is for `gate` to say.

The int8 error needs windows, and the cloud has none. So probes are drawn from the fleet's summed feature histograms,
feature by feature, and passed once through the float candidate: an autoencoder's reconstruction lies where its training
windows lie, which independent draws do not. On these probes int8 and float outputs are compared.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator.errors import ExportFailedError
from aggregator.rounds.assessment import (
    Assessment,
    alarm_rate,
    fit_threshold,
    reference_from_sums,
    tensor_ranges,
)
from aggregator.rounds.ports import Candidate
from aggregator.rounds.runs import TrainingRun
from aggregator.settings import FamilySettings, ThresholdSettings
from models import reference_model
from models.bundles import ModelBundle
from models.errors import ModelError
from models.int8_model import Int8Model
from protocol.grids import FEATURE_GRID
from protocol.manifest import Provenance, ThresholdSpec

__all__ = ["draw_probes", "make_candidate", "measure_int8_error", "propose_threshold", "with_int8_error"]

PROBES: Final = 512
"""Enough that the mean squared error is stable to a few percent; 512 inferences take a few milliseconds."""


def propose_threshold(assessment: Assessment, settings: ThresholdSettings) -> tuple[ThresholdSpec, float]:
    """The candidate's threshold, and the share of held-out windows that would be above it."""
    threshold = fit_threshold(assessment, quantile=settings.quantile, margin=settings.margin)
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
    """Everything the release of this run will say, but for its int8 error.

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
            algorithm=f"{policy.server_optimizer}, {policy.epochs} local epochs, "
            + ("secure sum" if policy.secure_sum else "no secure sum: the aggregator saw every update"),
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
    )


def with_int8_error(candidate: Candidate, error: float) -> Candidate:
    """The same candidate whose provenance says how far its int8 model is from float."""
    provenance = msgspec.structs.replace(
        candidate.provenance, evaluation={**candidate.provenance.evaluation, "int8_error": error}
    )
    return Candidate(**{**vars(candidate), "provenance": provenance})


def measure_int8_error(
    candidate: Candidate, int8_model: bytes, assessment: Assessment, *, seed: int
) -> float:
    """Mean squared difference of int8 and float outputs over the mean square of the float outputs, on `PROBES` probes.

    Raises:
        ExportFailedError: LiteRT refuses the int8 model that was just made.
    """
    architecture, parameters = candidate.architecture, candidate.parameters
    probes = draw_probes(assessment.feature_counts, np.random.default_rng(seed))
    if architecture.kind == "dense-autoencoder":
        probes, _ = reference_model.infer(architecture, parameters, probes)
    expected, _ = reference_model.infer(architecture, parameters, probes)
    try:
        model = Int8Model(int8_model, architecture.kind)
        got = np.array([model.infer(probe).copy() for probe in probes.astype(np.float32)])
    except ModelError as error:
        raise ExportFailedError(f"the int8 model of {candidate.family} does not run: {error}") from error
    return float(np.mean((got - expected) ** 2) / max(float(np.mean(expected**2)), 1e-12))


def draw_probes(feature_counts: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Windows (PROBES, features) whose every feature is distributed as the fleet's histogram of it says."""
    edges = np.concatenate([FEATURE_GRID.edges[:1], FEATURE_GRID.edges, FEATURE_GRID.edges[-1:]])
    columns = []
    for counts in feature_counts:
        bins = rng.choice(len(counts), size=PROBES, p=counts / counts.sum())
        columns.append(rng.uniform(edges[bins], edges[bins + 1]))
    return np.stack(columns, axis=1)
