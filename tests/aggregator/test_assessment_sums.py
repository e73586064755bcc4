"""What sums of a fleet say: reference, threshold, alarm rate, INT8 ranges and probes, as the pooled rows would."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from aggregator_world import ARCHITECTURE, rows_of, trainer
from hypothesis import given
from hypothesis import strategies as st

from aggregator.errors import SumError
from aggregator.rounds.assessment import (
    Assessment,
    ThresholdSettings,
    alarm_rate,
    fit_threshold,
    read_assessment,
    reference_from_sums,
    tensor_ranges,
)
from aggregator.rounds.int8_report import PROBES, draw_probes
from aggregator.rounds.proposal import propose_threshold
from models.architecture import initial_parameters
from models.local_training import assess
from models.standardiser import CLIP
from models.thresholds import personal_threshold
from protocol.grids import SCORE_GRID
from protocol.questions import assess_layout

QUANTILE = 0.99


def assessment_of_fleet(devices: int = 3) -> tuple[Assessment, np.ndarray, np.ndarray]:
    candidate, champion = initial_parameters(ARCHITECTURE, 1), initial_parameters(ARCHITECTURE, 2)
    layout = assess_layout(ARCHITECTURE.tensor_count, 6)
    rows = [rows_of(i) for i in range(devices)]
    total = sum(
        layout.pack(assess(trainer(), candidate, champion, x, quantile=QUANTILE)).astype(np.float64)
        for x in rows
    )
    everything = np.concatenate(rows)
    trainer().restore(candidate)
    scores = trainer().infer(everything)[1]
    return read_assessment(total, tensors=ARCHITECTURE.tensor_count, features=6), everything, scores


def test_sums_say_what_the_pooled_rows_would() -> None:
    assessment, rows, scores = assessment_of_fleet()
    assert assessment.examples == len(rows)
    assert assessment.candidate_loss == pytest.approx(scores.mean(), rel=1e-4)
    reference = reference_from_sums(assessment)
    assert np.allclose(reference.mean, rows.mean(0), atol=1e-3)
    assert np.allclose(reference.std, rows.std(0), rtol=1e-3)
    # A quarter of a standard deviation is FEATURE_GRID's step.
    assert np.allclose(reference.edges, np.quantile(rows, np.arange(1, 10) / 10, axis=0).T, atol=0.25)
    assert reference.score_std == pytest.approx(scores.std(), rel=0.1)


def test_sums_that_count_nothing_or_are_not_finite_give_no_reference() -> None:
    assessment, _, _ = assessment_of_fleet()
    for changes in (
        {"candidate_loss": np.nan},
        {"feature_counts": np.zeros_like(assessment.feature_counts)},
        {"candidate_loss": np.inf},
    ):
        with pytest.raises(SumError, match="these sums give no reference for the fleet"):
            reference_from_sums(replace(assessment, **changes))


def test_the_threshold_is_what_three_of_four_devices_need_within_the_grids_step() -> None:
    assessment, _, scores = assessment_of_fleet(devices=8)
    own = np.quantile(scores.reshape(8, -1), QUANTILE, axis=1)
    threshold = fit_threshold(assessment, ThresholdSettings(quantile=QUANTILE, margin=1.1))
    assert threshold.score == pytest.approx(1.1 * np.quantile(own, 0.75), rel=0.1)
    assert (threshold.fitted_on, threshold.quantile) == (8, QUANTILE)


def voting(*thresholds: float) -> Assessment:
    return replace(assessment_of_fleet()[0], threshold_votes=SCORE_GRID.count(np.array(thresholds)))


@pytest.mark.parametrize("lie", [1e-5, 1e5])
def test_a_quarter_of_liars_moves_the_threshold_among_what_the_others_need(lie: float) -> None:
    honest = np.linspace(1.0, 2.0, 12)
    found = fit_threshold(voting(*honest, lie, lie, lie), ThresholdSettings(margin=1.0))
    assert 1.0 <= found.score <= 2.1


@pytest.mark.parametrize(("lie", "times"), [(1e5, 1.5), (1e-5, 1 / 1.5)])
def test_no_number_of_liars_moves_the_threshold_further_than_by_half_from_the_champions(
    lie: float, times: float
) -> None:
    champion = fit_threshold(voting(1.0), ThresholdSettings())
    found = fit_threshold(voting(*[lie] * 10), ThresholdSettings(), champion)
    assert found.score == pytest.approx(times * champion.score)


def test_where_no_vote_stands_out_of_the_noise_the_champions_threshold_goes_on() -> None:
    champion = fit_threshold(voting(1.0), ThresholdSettings())
    assert fit_threshold(voting(), ThresholdSettings(), champion).score == champion.score
    with pytest.raises(SumError, match="no device voted"):
        fit_threshold(voting(), ThresholdSettings())


def test_the_alarm_rate_is_that_of_the_windows_held_out() -> None:
    assessment, _, scores = assessment_of_fleet()
    found = replace(assessment, threshold_votes=SCORE_GRID.count(np.quantile(scores, [0.75])))
    threshold, rate = propose_threshold(found, ThresholdSettings(margin=1.0), None)
    assert rate == pytest.approx(np.mean(scores > threshold.score), abs=0.05)


@pytest.mark.parametrize(
    ("settings", "share"), [(ThresholdSettings(), 1.0), (ThresholdSettings(personal_minimum=0.5), 0.5)]
)
def test_the_family_says_how_far_a_device_may_lower_the_threshold(
    settings: ThresholdSettings, share: float
) -> None:
    threshold, _ = propose_threshold(assessment_of_fleet()[0], settings, None)
    assert threshold.personal_minimum == share
    assert personal_threshold(threshold, np.full(200, 1e-6)).value == pytest.approx(share * threshold.score)


@given(st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=50), st.floats(1e-3, 1e3))
def test_the_alarm_rate_is_the_share_above_the_threshold_within_one_bin(
    scores: list[float], threshold: float
) -> None:
    rate = alarm_rate(SCORE_GRID.count(np.array(scores)), threshold)
    step = 10 ** (1 / 32)
    above = [np.mean(np.array(scores) > limit) for limit in (threshold * step, threshold / step)]
    assert above[0] - 1e-9 <= rate <= above[1] + 1e-9


def test_int8_ranges_enclose_what_every_device_saw_with_half_as_much_again() -> None:
    assessment, rows, _ = assessment_of_fleet()
    low, high = tensor_ranges(assessment, margin=1.0)
    wide_low, wide_high = tensor_ranges(assessment)
    np.testing.assert_allclose(wide_low[1:], np.where(low < 0, 1.5 * low, low)[1:])
    np.testing.assert_allclose(wide_high[1:], np.where(high > 0, 1.5 * high, high)[1:])
    # A standardised value ends at the clip, so wider steps of the input would be thrown away.
    assert (wide_low[0], wide_high[0]) == (max(1.5 * low[0], -CLIP), min(1.5 * high[0], CLIP))
    trainer().restore(initial_parameters(ARCHITECTURE, 1))
    seen_low, seen_high = trainer().ranges(rows)
    assert (low <= seen_low + 1e-6).all()
    assert (high >= seen_high - 1e-6).all()
    assert (high <= 1.1 * seen_high + 0.02).all()


def test_an_empty_evaluation_is_refused() -> None:
    layout = assess_layout(ARCHITECTURE.tensor_count, 6)
    with pytest.raises(SumError, match="0 held-out windows"):
        read_assessment(np.zeros(layout.total), tensors=ARCHITECTURE.tensor_count, features=6)


def test_a_tensor_without_a_range_is_named() -> None:
    assessment, _, _ = assessment_of_fleet()
    assessment.range_low[2] = 0
    with pytest.raises(SumError, match="tensor 2"):
        tensor_ranges(assessment)


def test_probes_are_distributed_like_the_fleets_features() -> None:
    assessment, rows, _ = assessment_of_fleet()
    probes = draw_probes(assessment.feature_counts, np.random.default_rng(0))
    assert probes.shape == (PROBES, 6)
    assert np.allclose(probes.mean(0), rows.mean(0), atol=0.3)
    assert np.allclose(probes.std(0), rows.std(0), rtol=0.2)
