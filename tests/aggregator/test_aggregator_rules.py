"""The pure rules: server optimisers, cohorts, gate, assessment, triggers."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from aggregator_world import ARCHITECTURE, rows_of, trainer
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

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
from aggregator.rounds.cohorts import CohortSettings, select_cohort
from aggregator.rounds.gate import GateSettings, check_candidate, check_int8, failed_reasons
from aggregator.rounds.int8_report import PROBES, Int8Report, draw_probes
from aggregator.rounds.optimizers import (
    OPTIMIZERS,
    FedAdam,
    FedAvg,
    FedAvgM,
    ServerOptimizer,
    make_server_optimizer,
)
from aggregator.rounds.proposal import propose_threshold
from aggregator.triggers import DriftSummary, RunHistory, TriggerSettings, decide_trigger
from models.architecture import initial_parameters
from models.local_training import assess
from models.standardiser import CLIP
from models.thresholds import personal_threshold
from protocol.grids import SCORE_GRID
from protocol.names import DeviceId
from protocol.questions import assess_layout
from runtime.errors import SettingsError

every_optimizer = pytest.mark.parametrize("optimizer", [make_server_optimizer(name) for name in OPTIMIZERS])


@every_optimizer
def test_a_step_changes_neither_its_arguments_nor_their_types(optimizer: ServerOptimizer) -> None:
    w, update = np.float32([1, 2, 3]), np.array([0.1, -0.2, 0.0])
    state = optimizer.init(w)
    kept = state.copy()
    step = optimizer.step(state, w, update)
    assert w.tolist() == [1, 2, 3]
    assert np.array_equal(state, kept)
    assert step.parameters.dtype == np.float32
    assert step.state.shape == state.shape


@every_optimizer
def test_nothing_learned_is_nothing_moved(optimizer: ServerOptimizer) -> None:
    w = np.float32([1, -2])
    assert np.array_equal(optimizer.step(optimizer.init(w), w, np.zeros(2)).parameters, w)


@every_optimizer
def test_a_step_goes_where_the_cohort_went(optimizer: ServerOptimizer) -> None:
    w, update = np.zeros(4, np.float32), np.array([1.0, -1.0, 0.5, -0.5])
    moved = optimizer.step(optimizer.init(w), w, update).parameters
    assert np.array_equal(np.sign(moved), np.sign(update))


@every_optimizer
def test_steps_find_the_bottom_of_a_bowl(optimizer: ServerOptimizer) -> None:
    w, target = np.zeros(3, np.float32), np.array([0.3, -0.2, 0.1])
    state = optimizer.init(w)
    for _ in range(400):
        state, w = optimizer.step(state, w, 0.5 * (target - w))
    assert np.allclose(w, target, atol=0.02)


def test_fedavg_is_the_mean_of_the_models_weighted_by_examples() -> None:
    w, models, n = np.float32([1, 1]), np.array([[3.0, 1.0], [0.0, 5.0]]), np.array([10.0, 30.0])
    naive = (n[:, None] * models).sum(0) / n.sum()
    update = (n[:, None] * (models - w)).sum(0) / n.sum()
    assert np.allclose(FedAvg().step(FedAvg().init(w), w, update).parameters, naive)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6))
def test_fedadam_is_the_papers_recursion_written_out(updates: list[float]) -> None:
    adam = FedAdam(learning_rate=0.1, beta_1=0.9, beta_2=0.99, tau=1e-3)
    w = np.zeros(1, np.float32)
    state = adam.init(w)
    for update in updates:
        state, w = adam.step(state, w, np.array([update]))
    # unrolled: m_t and v_t as sums over the past instead of recursions
    t, x = len(updates), 0.0
    for k in range(1, t + 1):
        m = sum(0.1 * 0.9 ** (k - i) * updates[i - 1] for i in range(1, k + 1))
        v = 0.99**k * 1e-6 + sum(0.01 * 0.99 ** (k - i) * updates[i - 1] ** 2 for i in range(1, k + 1))
        x += 0.1 * m / (v**0.5 + 1e-3)
    assert w[0] == pytest.approx(x, rel=1e-4, abs=1e-6)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6))
def test_fedavgm_is_the_papers_recursion_written_out(updates: list[float]) -> None:
    momentum = FedAvgM(learning_rate=0.1, momentum=0.7)
    w = np.zeros(1, np.float32)
    state = momentum.init(w)
    for update in updates:
        state, w = momentum.step(state, w, np.array([update]))
    x = sum(0.1 * 0.7 ** (k - i) * update for i, update in enumerate(updates) for k in range(i, len(updates)))
    assert w[0] == pytest.approx(x, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("fedavg", FedAvg(learning_rate=1.0)),  # arXiv:1602.05629v4: the mean of the models, nothing else
        ("fedadam", FedAdam(learning_rate=0.01, beta_1=0.9, beta_2=0.99, tau=1e-3)),  # arXiv:2003.00295v5
        ("fedavgm", FedAvgM(learning_rate=0.5, momentum=0.8)),  # 2.5 times as far as FedAvg, in the end
    ],
)
def test_an_optimizer_has_its_published_constants_and_another_rate_only_when_told(
    name: str, published: FedAvg | FedAdam | FedAvgM
) -> None:
    assert make_server_optimizer(name) == published
    assert make_server_optimizer(name, 0.125) == replace(published, learning_rate=0.125)


def test_an_unknown_optimizer_is_refused_with_those_that_exist() -> None:
    with pytest.raises(SettingsError, match="valid are fedavg, fedadam"):
        make_server_optimizer("fedsgd")


@given(
    st.integers(0, 60), st.floats(0.05, 1.0), st.floats(1.0, 2.0), st.integers(1, 5), st.integers(0, 2**31)
)
def test_a_cohort_is_drawn_from_who_is_there_and_can_be_closed(
    online: int, fraction: float, over: float, minimum: int, seed: int
) -> None:
    names = [DeviceId(f"d{i}") for i in range(online)]
    policy = CohortSettings(fraction=fraction, over_selection=over, minimum_devices=minimum)
    cohort = select_cohort(names, policy, np.random.default_rng(seed))
    assert set(cohort.devices) <= set(names)
    assert len(set(cohort.devices)) == len(cohort.devices)
    assert cohort.enough >= cohort.quorum == minimum
    if online >= minimum:
        assert cohort.quorum <= len(cohort.devices)
        assert cohort.enough <= len(cohort.devices)
    assert cohort == select_cohort(reversed(names), policy, np.random.default_rng(seed))


def test_a_whole_fleet_that_is_asked_does_not_wait_for_its_last_straggler() -> None:
    policy = CohortSettings(fraction=1.0, over_selection=1.2, minimum_devices=3)
    cohort = select_cohort([DeviceId(f"d{i}") for i in range(12)], policy, np.random.default_rng(0))
    assert (len(cohort.devices), cohort.enough) == (12, 10)


def int8_of(error: float, *, lively: float = 0.0, sight: float = 0.6) -> Int8Report:
    return Int8Report(
        output_error=error,
        lively_error=lively,
        sight=sight,
        float_sight=0.6,
        score_error=0.0,
        disagreement=0.0,
        int8_bytes=1,
        float_bytes=4,
        is_per_channel=True,
    )


LIMITS = GateSettings(minimum_improvement=0.05, maximum_alarm_rate=0.01, maximum_int8_error=0.02)


def test_a_good_candidate_passes_every_check() -> None:
    checks = check_candidate(LIMITS, candidate_loss=0.9, champion_loss=1.0, alarm_rate=0.001, threshold=2.0)
    assert failed_reasons((*checks, *check_int8(LIMITS, int8_of(0.001)))) == ()


EXACT = GateSettings(minimum_improvement=0.25, maximum_alarm_rate=0.125, maximum_int8_error=0.5)


def passes(candidate: float, champion: float, alarm_rate: float, int8_error: float) -> dict[str, bool]:
    checks = check_candidate(
        EXACT, candidate_loss=candidate, champion_loss=champion, alarm_rate=alarm_rate, threshold=1.0
    )
    return {check.name: check.is_passed for check in (*checks, *check_int8(EXACT, int8_of(int8_error)))}


def test_what_just_reaches_a_limit_passes_and_what_just_misses_it_does_not() -> None:
    names = ("improvement", "alarm_rate", "int8_error")
    sees = {"int8_sight": True}
    assert passes(0.75, 1.0, 0.125, 0.5) == dict.fromkeys(names, True) | sees
    assert passes(1.5, 2.0, 0.125, 0.5) == dict.fromkeys(names, True) | sees
    assert passes(0.751, 1.0, 0.1251, 0.501) == dict.fromkeys(names, False) | sees


@pytest.mark.parametrize(
    ("candidate", "champion", "gain", "passed"),
    [(0.0, 0.0, 0.0, True), (0.125, 0.0, -np.inf, False), (0.5, 2.0, 0.75, True), (3.0, 2.0, -0.5, False)],
)
def test_the_gain_is_relative_to_the_champion_and_one_without_loss_cannot_be_improved_on(
    candidate: float, champion: float, gain: float, passed: bool
) -> None:
    limits = structs.replace(EXACT, minimum_improvement=0.0)
    check, *_ = check_candidate(
        limits, candidate_loss=candidate, champion_loss=champion, alarm_rate=0.0, threshold=1.0
    )
    assert (check.value, check.limit, check.is_passed) == (max(gain, -sys.float_info.max), 0.0, passed)
    assert ("is enough" in check.reason) is passed


def test_a_check_keeps_what_was_measured_and_against_what() -> None:
    int8, _ = check_int8(EXACT, int8_of(0.25))
    assert (int8.value, int8.limit) == (0.25, 0.5)
    assert int8.reason.endswith("0.25 is within 0.5")
    assert failed_reasons(check_int8(EXACT, int8_of(0.75)))[0].endswith("0.75 exceeds 0.5")


def test_a_bad_candidate_is_told_everything_that_is_wrong() -> None:
    checks = check_candidate(LIMITS, candidate_loss=0.99, champion_loss=1.0, alarm_rate=0.5, threshold=2.0)
    reasons = failed_reasons((*checks, *check_int8(LIMITS, int8_of(0.1))))
    assert len(reasons) == 3
    assert "+1.00% is not enough (at least +5.00%)" in reasons[0]
    assert "0.5 exceeds 0.01" in reasons[1]
    assert "0.1 exceeds 0.02" in reasons[2]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_figure_that_is_not_finite_never_passes(bad: float) -> None:
    checks = check_candidate(LIMITS, candidate_loss=bad, champion_loss=1.0, alarm_rate=bad, threshold=2.0)
    assert not any(check.is_passed for check in (*checks, *check_int8(LIMITS, int8_of(bad, sight=-bad))))


def assessment_of_fleet(devices: int = 3) -> tuple[Assessment, np.ndarray, np.ndarray]:
    candidate, champion = initial_parameters(ARCHITECTURE, 1), initial_parameters(ARCHITECTURE, 2)
    layout = assess_layout(ARCHITECTURE.tensor_count, 6)
    rows = [rows_of(i) for i in range(devices)]
    total = sum(layout.pack(assess(trainer(), candidate, champion, x)).astype(np.float64) for x in rows)
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


def test_the_federated_threshold_is_the_pooled_quantile_within_the_grids_step() -> None:
    assessment, _, scores = assessment_of_fleet()
    threshold = fit_threshold(assessment, ThresholdSettings(quantile=0.99, margin=1.1))
    assert threshold.score == pytest.approx(1.1 * np.quantile(scores, 0.99), rel=0.1)
    assert threshold.fitted_on == len(scores)


def test_the_threshold_is_read_from_all_healthy_windows_and_the_gate_from_those_held_out() -> None:
    assessment, _, scores = assessment_of_fleet()
    more = replace(assessment, threshold_scores=SCORE_GRID.count(np.concatenate([scores, 3 * scores])))
    threshold, rate = propose_threshold(more, ThresholdSettings(quantile=0.75, margin=1.0))
    assert threshold.score == pytest.approx(np.quantile(np.concatenate([scores, 3 * scores]), 0.75), rel=0.1)
    assert threshold.fitted_on == 2 * len(scores)
    assert rate == pytest.approx(np.mean(scores > threshold.score), abs=0.05)


@pytest.mark.parametrize(
    ("settings", "share"), [(ThresholdSettings(), 1.0), (ThresholdSettings(personal_minimum=0.5), 0.5)]
)
def test_the_family_says_how_far_a_device_may_lower_the_threshold(
    settings: ThresholdSettings, share: float
) -> None:
    threshold, _ = propose_threshold(assessment_of_fleet()[0], settings)
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


RULES = TriggerSettings(drift_share=0.5, within_s=100.0, cooldown_s=50.0, schedule_every_s=1000.0)
IDLE = RunHistory(is_running=False, last_ended_at=None)


def fresh(drifted: int, devices: int = 4, since: float | None = 990.0) -> DriftSummary:
    return DriftSummary(devices=devices, drifted_since=(since,) * drifted)


@pytest.mark.parametrize(
    ("drift", "history", "kind"),
    [
        (fresh(1), IDLE, None),
        (fresh(2), IDLE, "drift"),
        (fresh(2, since=None), IDLE, "drift"),
        (fresh(4, since=899.0), IDLE, None),
        (fresh(4, since=900.0), IDLE, "drift"),
        (fresh(4), RunHistory(is_running=True, last_ended_at=None), None),
        (fresh(4), RunHistory(is_running=False, last_ended_at=951.0), None),
        (fresh(4), RunHistory(is_running=False, last_ended_at=950.0), "drift"),
        (fresh(1, devices=1), IDLE, None),
        (fresh(0, devices=0), IDLE, None),
    ],
    ids=[
        "too few", "half the fleet", "undated", "long ago", "just lately", "under way", "cooling down", "cooled down",
        "fewer than the quorum", "no fleet",
    ],
)  # fmt: skip
def test_drift_starts_a_run_when_enough_of_the_fleet_entered_it_lately(
    drift: DriftSummary, history: RunHistory, kind: str | None
) -> None:
    trigger = decide_trigger(RULES, drift, history, now=1000.0, watching_since=900.0, minimum_devices=2)
    assert (trigger.kind if trigger else None) == kind


def test_the_schedule_counts_from_the_last_run_or_from_the_start() -> None:
    quiet = fresh(0)
    assert decide_trigger(RULES, quiet, IDLE, now=1999.0, watching_since=1000.0, minimum_devices=2) is None
    due = decide_trigger(RULES, quiet, IDLE, now=2000.0, watching_since=1000.0, minimum_devices=2)
    assert due is not None
    assert due.kind == "schedule"
    ran = RunHistory(is_running=False, last_ended_at=1500.0)
    assert decide_trigger(RULES, quiet, ran, now=2000.0, watching_since=0.0, minimum_devices=2) is None


@pytest.mark.parametrize(
    ("last_ended_at", "kind"), [(None, "precision"), (500.0, "precision"), (700.0, None)]
)
def test_verdicts_start_one_run_for_each_loss_of_precision(
    last_ended_at: float | None, kind: str | None
) -> None:
    policy = structs.replace(RULES, precision_drift=True, schedule_every_s=None)
    less_precise = replace(fresh(0), precision_drifted_since=600.0)
    history = RunHistory(is_running=False, last_ended_at=last_ended_at)
    trigger = decide_trigger(policy, less_precise, history, now=1000.0, watching_since=0.0, minimum_devices=2)
    assert (trigger.kind if trigger else None) == kind


def test_triggers_that_are_switched_off_never_fire() -> None:
    off = TriggerSettings(within_s=1.0, cooldown_s=0.0)
    drifting = replace(fresh(4), precision_drifted_since=1.0)
    assert decide_trigger(off, drifting, IDLE, now=1e9, watching_since=0.0, minimum_devices=2) is None
    assert decide_trigger(off, fresh(4, since=None), IDLE, 1e9, watching_since=0.0, minimum_devices=2) is None


def test_what_a_family_is_held_to_that_says_nothing() -> None:
    # No worse than the champion; one healthy window in a hundred may alarm; int8 may cost a twentieth of the output.
    assert GateSettings() == GateSettings(
        minimum_improvement=0.0, maximum_alarm_rate=0.01, maximum_int8_error=0.05
    )
    # Nothing starts by itself; drift is fresh for a day; a release gets an hour before the next run.
    assert TriggerSettings() == TriggerSettings(
        drift_share=None, precision_drift=False, within_s=86_400.0, cooldown_s=3_600.0, schedule_every_s=None
    )
    assert [
        TriggerSettings(**on).is_on
        for on in ({}, {"drift_share": 0.5}, {"schedule_every_s": 1.0}, {"precision_drift": True})
    ] == [False, True, True, True]
