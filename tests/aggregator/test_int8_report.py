"""What quantising a candidate costs, told without a recording: typical windows, and float beside int8 on them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import reference_training

from aggregator.errors import ExportFailedError
from aggregator.rounds.assessment import Assessment, tensor_ranges
from aggregator.rounds.candidates import Candidate
from aggregator.rounds.int8_report import compare_int8, draw_probes, typical_windows
from aggregator.rounds.int8_settings import Int8Settings
from models import reference_model
from models.architecture import Architecture, initial_parameters
from models.drift.reference import fit_reference
from models.export.int8_graph import export_int8_model
from models.int8_model import Int8Model
from protocol.grids import FEATURE_GRID, RANGE_GRID, SCORE_GRID
from protocol.manifest import FeatureSpec, Provenance, ThresholdSpec
from protocol.names import FamilyName

pytestmark = pytest.mark.slow

AUTOENCODER = Architecture(kind="dense-autoencoder", layers=(8, 12, 3, 12, 8))
CLASSIFIER = Architecture(kind="dense-classifier", layers=(8, 12, 4))


def windows(count: int, seed: int = 1) -> np.ndarray:
    """Rank 3 in 8 features, so that features drawn one by one look unlike them."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 3)) @ np.random.default_rng(0).normal(size=(3, 8)) * 0.7


def trained(architecture: Architecture) -> np.ndarray:
    parameters = initial_parameters(architecture, 0).astype(np.float64)
    x = windows(600)
    labels = np.eye(4)[(x[:, 0] > 0) * 2 + (x[:, 1] > 0)] if architecture is CLASSIFIER else None
    for _ in range(400):
        parameters, _ = reference_training.train_step(architecture, parameters, x, 0.2, labels=labels)
    return parameters.astype(np.float32)


def assessed(architecture: Architecture, parameters: np.ndarray, x: np.ndarray) -> Assessment:
    _, score = reference_model.infer(architecture, parameters, x)
    low, high = reference_model.ranges(architecture, parameters, x)
    tensors = range(len(low))
    return Assessment(
        examples=len(x),
        candidate_loss=float(score.mean()),
        champion_loss=1.0,
        candidate_scores=SCORE_GRID.count(score),
        champion_scores=SCORE_GRID.count(score),
        candidate_probe_scores=SCORE_GRID.count(score),
        champion_probe_scores=SCORE_GRID.count(score),
        threshold_votes=SCORE_GRID.count(np.quantile(score, [0.999])),
        range_low=np.stack([RANGE_GRID.count(low[t : t + 1]) for t in tensors]),
        range_high=np.stack([RANGE_GRID.count(high[t : t + 1]) for t in tensors]),
        feature_counts=np.stack([FEATURE_GRID.count(column) for column in x.T]),
        feature_sum=x.sum(axis=0),
        feature_squares=(x * x).sum(axis=0),
    )


def candidate(architecture: Architecture, parameters: np.ndarray, assessment: Assessment) -> Candidate:
    low, high = tensor_ranges(assessment)
    x = windows(100)
    return Candidate(
        family=FamilyName("pump"),
        version=2,
        architecture=architecture,
        parameters=parameters,
        low=low,
        high=high,
        threshold=ThresholdSpec(score=2.0, quantile=0.99, margin=1.1, fitted_on=100),
        features=FeatureSpec(kind="passthrough", names=tuple("abcdefgh")),
        reference=fit_reference(x, np.ones(100)),
        provenance=Provenance(),
        created_at=1.0,
    )


def test_typical_windows_have_the_fleets_histograms_and_its_mean_score() -> None:
    parameters = trained(AUTOENCODER)
    assessment = assessed(AUTOENCODER, parameters, windows(3000))
    probes = typical_windows(AUTOENCODER, parameters, assessment, np.random.default_rng(0))
    drawn = reference_model.infer(AUTOENCODER, parameters, probes)[1].mean()
    assert drawn == pytest.approx(assessment.candidate_loss, rel=0.35)
    spread = np.sqrt(assessment.feature_squares / assessment.examples)
    assert np.all(probes.std(axis=0) < 1.3 * spread)


def test_the_report_tells_what_real_windows_would_tell() -> None:
    parameters, real = trained(AUTOENCODER), windows(1500, seed=5)
    assessment = assessed(AUTOENCODER, parameters, windows(3000))
    proposed = candidate(AUTOENCODER, parameters, assessment)
    content = export_int8_model(AUTOENCODER, parameters, proposed.low, proposed.high)
    report = compare_int8(proposed, content, assessment, seed=1)
    # The same comparison where recordings are: their histograms and their score, but each window as it was.
    model = Int8Model(content)
    got = np.array([model.infer(x) for x in real.astype(np.float32)], np.float64)
    expected, score = reference_model.infer(AUTOENCODER, parameters, real)
    truth = np.mean((got - expected) ** 2) / np.mean(expected**2)
    assert truth / 4 < report.output_error < 4 * truth
    changed = np.abs(reference_model.scores("dense-autoencoder", real, got) - score).mean() / score.mean()
    assert changed / 3 < report.score_error < 3 * changed


def test_a_coarser_model_has_a_larger_error_and_a_classifier_counts_changed_classes() -> None:
    parameters = trained(CLASSIFIER)
    assessment = assessed(CLASSIFIER, parameters, windows(3000))
    proposed = candidate(CLASSIFIER, parameters, assessment)
    reports = [
        compare_int8(
            proposed,
            export_int8_model(CLASSIFIER, parameters, proposed.low * wide, proposed.high * wide),
            assessment,
            seed=1,
        )
        for wide in (1.0, 20.0)
    ]
    assert reports[0].output_error < 0.1 * reports[1].output_error
    assert 0 <= reports[0].disagreement < reports[1].disagreement < 1


def test_the_provenance_holds_error_sizes_and_the_kind_of_scales() -> None:
    parameters = trained(AUTOENCODER)
    assessment = assessed(AUTOENCODER, parameters, windows(500))
    proposed = replace(
        candidate(AUTOENCODER, parameters, assessment), int8=Int8Settings(weight_scales="per-tensor")
    )
    content = export_int8_model(
        AUTOENCODER, parameters, proposed.low, proposed.high, weight_scales="per-tensor"
    )
    figures = compare_int8(proposed, content, assessment, seed=1).evaluation()
    assert figures["int8_bytes"] == len(content)
    assert figures["float_bytes"] == 4 * AUTOENCODER.parameter_count
    assert figures["int8_per_channel"] == 0.0
    assert figures.keys() >= {"int8_error", "int8_score_error", "int8_disagreement"}


def test_an_int8_model_that_litert_refuses_is_said_to_be_the_familys() -> None:
    parameters = trained(AUTOENCODER)
    assessment = assessed(AUTOENCODER, parameters, windows(500))
    with pytest.raises(ExportFailedError, match="the int8 model of pump does not run"):
        compare_int8(candidate(AUTOENCODER, parameters, assessment), b"no model" * 20, assessment, seed=1)


def test_a_classifiers_typical_windows_never_leave_the_ranges_that_the_fleet_saw() -> None:
    parameters = trained(CLASSIFIER)
    # The hidden layer's range is that of a quieter fleet, so most draws would leave it.
    quiet = assessed(CLASSIFIER, parameters, 0.4 * windows(3000))
    assessment = assessed(CLASSIFIER, parameters, windows(3000))
    for tensor in range(1, CLASSIFIER.tensor_count):
        assessment.range_low[tensor] = quiet.range_low[tensor]
        assessment.range_high[tensor] = quiet.range_high[tensor]
    low, high = tensor_ranges(assessment)
    probes = typical_windows(CLASSIFIER, parameters, assessment, np.random.default_rng(0))
    for tensor, bottom, top in zip(
        reference_model.activations(CLASSIFIER, parameters, probes), low, high, strict=True
    ):
        assert bottom - 1e-3 <= tensor.min() <= tensor.max() <= top + 1e-3
    # Pulled as little as that takes: most stay where they were drawn, or nearly.
    assert probes.std() > 0.3 * windows(3000).std()


def test_one_device_of_many_with_a_wild_range_does_not_coarsen_everybodys_int8() -> None:
    parameters = trained(AUTOENCODER)
    alone = assessed(AUTOENCODER, parameters, windows(300))
    ordinary = tensor_ranges(alone)
    wild = np.full(AUTOENCODER.tensor_count, 1000.0)
    for devices, is_held in ((15, True), (16, False)):
        many = replace(
            alone,
            range_low=devices * alone.range_low + np.stack([RANGE_GRID.count(-w) for w in wild[:, None]]),
            range_high=devices * alone.range_high + np.stack([RANGE_GRID.count(w) for w in wild[:, None]]),
        )
        found = tensor_ranges(many)
        # The input ends at the clip, whatever anybody claims.
        assert (np.abs(found)[:, 1:].min() >= 1000.0) == is_held
        assert np.array_equal(found, ordinary) == (not is_held)


def test_negative_counts_of_a_device_that_lies_are_no_windows() -> None:
    counts = np.zeros((1, FEATURE_GRID.bins))
    counts[0, 20], counts[0, 40] = -5.0, 10.0
    drawn = draw_probes(counts, np.random.default_rng(0))
    low, high = FEATURE_GRID.edges[39], FEATURE_GRID.edges[40]
    assert ((drawn >= low) & (drawn <= high)).all()
