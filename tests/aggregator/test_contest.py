"""The contest between champion, network and linear detectors: who wins, what the gate says of it, and the run around it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from aggregator_world import ARCHITECTURE, POLICY, TRUSTED, Killed, World, rows_of, trainer
from family_changes import changed
from numpy.typing import NDArray

from aggregator.errors import AnswerRefusedError, SumError
from aggregator.rounds.admission import admit_contest, admit_moments, check_answer
from aggregator.rounds.baseline import RIDGE, fit_baselines, read_moments
from aggregator.rounds.comparison import contest_record
from aggregator.rounds.contest import detection_power, judge_contest
from aggregator.rounds.gate import GateSettings, check_candidate
from aggregator.rounds.noise_floor import FLOOR_STDS, drop_noise_floor
from aggregator.rounds.runs import ContestRecord, RunState
from aggregator.rounds.signing_gate import REQUIRED
from edge_agent.learner.local_learner import LocalLearner
from models.architecture import initial_parameters
from models.bundles import read_bundle
from models.linear_baseline import mahalanobis_parameters
from models.moments import Moments
from protocol.bundle import open_bundle
from protocol.grids import SCORE_GRID
from protocol.questions import (
    CONTENDERS,
    COPIES,
    ContestQuestion,
    MomentsQuestion,
    Question,
    assess_layout,
    contest_layout,
    fit_layout,
    moments_layout,
)
from protocol.training import TrainingSettings

N = 2000


def total_of(
    powers: Mapping[str, float], *, champion_above: float = 0.0, windows: int = N
) -> NDArray[np.float64]:
    """A sum in which each contender has that power, at whatever scale its scores are."""
    today = np.where(np.arange(windows) < champion_above * windows, 50.0, 1.0)
    parts = {"examples": np.array([float(windows)]), "champion_scores": SCORE_GRID.count(today)}
    copies = windows * COPIES
    for scale, name in enumerate(CONTENDERS):
        found = round(powers[name] * copies)
        disturbed = np.concatenate([np.full(found, 1e4), np.full(copies - found, 1e-3)])
        parts[f"{name}_aged"] = SCORE_GRID.count(np.full(copies, 10.0 ** (scale - 1)))
        parts[f"{name}_disturbed"] = SCORE_GRID.count(disturbed)
    return contest_layout().pack(parts).astype(np.float64)


def judge(total: NDArray[np.float64]) -> ContestRecord:
    return judge_contest(total, champion_threshold=3.0, maximum_alarm_rate=0.01)


def powers(
    champion: float,
    network: float,
    mahalanobis: float,
    principal_components: float,
    ridge: float = 0.5,
) -> dict[str, float]:
    return {
        "champion": champion,
        "mahalanobis_ridge": ridge,
        "network": network,
        "mahalanobis": mahalanobis,
        "principal_components": principal_components,
    }


@pytest.mark.parametrize(
    ("found", "winner"),
    [
        (powers(0.50, 0.70, 0.60, 0.60), "network"),
        (powers(0.50, 0.60, 0.80, 0.70), "mahalanobis"),
        (powers(0.50, 0.60, 0.70, 0.80), "principal_components"),
        (powers(0.70, 0.60, 0.50, 0.50), "champion"),
        (powers(0.70, 0.705, 0.705, 0.70), "champion"),
        (powers(0.50, 0.705, 0.70, 0.70), "mahalanobis"),
        (powers(0.50, 0.705, 0.705, 0.705, ridge=0.70), "mahalanobis_ridge"),
    ],
    ids=[
        "best",
        "linear",
        "also linear",
        "champion",
        "a tie with the champion",
        "a tie with a network",
        "a tie with all",
    ],
)
def test_the_one_that_finds_most_wins_and_a_tie_changes_nothing(found: dict[str, float], winner: str) -> None:
    verdict = judge(total_of(found))
    assert verdict.winner == winner
    assert verdict.powers == pytest.approx(found, abs=1e-3)
    assert not verdict.is_champion_stale


@pytest.mark.parametrize("claimed", [-1.0, 0.0, 7.0], ids=["negative", "none", "too many"])
def test_a_sum_that_no_devices_can_have_given_decides_nothing(claimed: float) -> None:
    layout = contest_layout()
    parts = layout.unpack(total_of(powers(0.5, 0.9, 0.6, 0.6)))
    parts["network_aged"] *= claimed
    with pytest.raises(SumError, match="network_aged"):
        contest_record(layout.pack(parts).astype(np.float64), 3.0, POLICY)


def test_powers_do_not_depend_on_the_scale_of_the_scores() -> None:
    same = judge(total_of(powers(0.6, 0.6, 0.6, 0.6, ridge=0.6))).powers
    assert len({round(power, 3) for power in same.values()}) == 1


def test_a_champion_whose_threshold_no_longer_holds_loses_ties_and_is_told_so() -> None:
    verdict = judge(total_of(powers(0.7, 0.7, 0.7, 0.7), champion_above=0.05))
    assert (verdict.winner, verdict.is_champion_stale) == ("mahalanobis", True)
    assert "no longer holds: 5.00% of windows are above it" in verdict.reason
    best = judge(total_of(powers(0.9, 0.7, 0.7, 0.7), champion_above=0.05))
    assert best.winner == "champion"
    assert "proposed again under a new threshold" in best.reason


def test_the_power_is_the_probability_that_a_disturbed_window_scores_higher() -> None:
    rng = np.random.default_rng(0)
    aged, disturbed = rng.lognormal(0, 1, 3000), rng.lognormal(1, 1, 2000)
    pairs = np.mean(disturbed[:, None] > aged[None, :])
    counted = detection_power(SCORE_GRID.count(aged), SCORE_GRID.count(disturbed))
    assert counted == pytest.approx(pairs, abs=1e-3)


def test_among_few_windows_a_small_lead_is_luck() -> None:
    found = powers(0.60, 0.63, 0.60, 0.60, ridge=0.60)
    assert judge(total_of(found)).winner == "network"
    assert judge(total_of(found, windows=200)).winner == "champion"


def test_a_contest_without_windows_is_refused() -> None:
    with pytest.raises(SumError, match="counts 0 held-out windows"):
        judge(np.zeros(contest_layout().total))


LIMITS = GateSettings(minimum_improvement=0.0, maximum_alarm_rate=0.01, maximum_int8_error=0.05)


def names_and_passes(contest: ContestRecord | None) -> dict[str, bool]:
    checks = check_candidate(
        LIMITS, candidate_loss=2.0, champion_loss=1.0, alarm_rate=0.0, threshold=1.0, contest=contest
    )
    return {check.name: check.is_passed for check in checks}


def record(winner: str, *, is_stale: bool = False) -> ContestRecord:
    found = powers(0.5, 0.6, 0.7, 0.7)
    return ContestRecord(winner=winner, reason="why", powers=found, is_champion_stale=is_stale)


def test_the_gate_compares_losses_of_networks_alone() -> None:
    assert names_and_passes(None) == {"improvement": False, "alarm_rate": True}
    assert names_and_passes(record("network")) == {
        "detection_power": True, "improvement": False, "alarm_rate": True,
    }  # fmt: skip
    assert names_and_passes(record("mahalanobis")) == {"detection_power": True, "alarm_rate": True}


def test_a_champion_passes_again_only_under_a_threshold_that_had_to_change() -> None:
    assert names_and_passes(record("champion")) == {"detection_power": False, "alarm_rate": True}
    assert names_and_passes(record("champion", is_stale=True)) == {
        "detection_power": True,
        "alarm_rate": True,
    }


def answer(
    question: Question, arrays: Mapping[str, NDArray[np.float32]], device: int = 0
) -> NDArray[np.float32]:
    return LocalLearner(trainer(), rows_of(device), maximum_examples=1000).answer(question, arrays)


def moments_total(devices: int = 3) -> NDArray[np.float64]:
    question = MomentsQuestion(run_id="r", layout_sha256=ARCHITECTURE.layout_sha256)
    return np.sum([answer(question, {}, i).astype(np.float64) for i in range(devices)], axis=0)


def test_summed_moments_give_the_detector_of_the_pooled_training_windows() -> None:
    rows = np.concatenate([rows_of(i)[np.arange(80) % 5 != 4] for i in range(3)])
    moments = read_moments(moments_total(), 6)
    np.testing.assert_allclose(moments.covariance, np.cov(rows.T.astype(np.float64), bias=True), atol=1e-4)
    expected = mahalanobis_parameters(ARCHITECTURE, Moments.of(rows))
    fitted = fit_baselines(ARCHITECTURE, moments_total())
    np.testing.assert_allclose(fitted["mahalanobis"], expected, atol=1e-2)
    with_ridge = mahalanobis_parameters(ARCHITECTURE, Moments.of(rows), ridge=RIDGE)
    np.testing.assert_allclose(fitted["mahalanobis_ridge"], with_ridge, atol=1e-2)
    assert {"champion", "network", *fitted} == set(CONTENDERS)


def test_moments_of_nobody_give_no_detector() -> None:
    with pytest.raises(SumError, match="the moments count 0 windows"):
        fit_baselines(ARCHITECTURE, np.zeros(moments_layout(6).total))


def test_an_answer_with_impossible_moments_or_counts_is_refused() -> None:
    layout = moments_layout(6)
    question = MomentsQuestion(run_id="r", layout_sha256=ARCHITECTURE.layout_sha256)
    honest, rule = answer(question, {}), admit_moments(features=6)
    check_answer(layout, honest, rule)
    lying = honest.copy()
    lying[1 + 2] = 1e4  # a sum of feature 2 that its squares do not allow
    with pytest.raises(AnswerRefusedError, match="squares of feature 2"):
        check_answer(layout, lying, rule)
    contest = ContestQuestion(run_id="r", layout_sha256=ARCHITECTURE.layout_sha256)
    parameters = dict.fromkeys(CONTENDERS, initial_parameters(ARCHITECTURE, 0))
    counted = answer(contest, parameters)
    check_answer(contest_layout(), counted, admit_contest())
    counted[1 + SCORE_GRID.bins] += 3
    with pytest.raises(AnswerRefusedError, match="champion_aged counts 67 scores"):
        check_answer(contest_layout(), counted, admit_contest())


def correlated_world(directory: Path) -> World:
    """Six sensors that follow one load, and a network that one short round from a random start has not taught it."""
    training = TrainingSettings(epochs=1, batch_size=16, learning_rate=0.01)
    policy = changed(POLICY, rounds__count=1, training=training)
    world = World(directory, policy=policy)
    for index, device in enumerate(world.devices):
        rng = np.random.default_rng(index)
        rows = (rng.normal(size=(200, 1)) + 0.4 * rng.normal(size=(200, 6))).astype(np.float32)
        world.link.learners[device] = LocalLearner(trainer(), rows, maximum_examples=1000)
    return world


def test_a_run_releases_the_detector_that_finds_most_and_says_why(tmp_path: Path) -> None:
    world = correlated_world(tmp_path)
    run = world.run()
    assert (run.state, run.release) == (RunState.COMPLETED, "pump/2"), run.detail
    assert run.contest is not None
    assert run.contest.winner in {"mahalanobis_ridge", "mahalanobis", "principal_components"}
    assert [entry.kind for entry in run.log] == ["fit", "moments", "contest", "assess"]
    assert run.checks[0].name == "detection_power"
    assert run.checks[0].value > run.checks[0].limit
    bundle = read_bundle(open_bundle(world.fleet.bundles[2], TRUSTED))
    assert bundle.architecture == ARCHITECTURE
    provenance = bundle.manifest.provenance
    assert "linear detector" in provenance.algorithm
    assert provenance.evaluation["network_power"] == run.contest.powers["network"]


def test_the_network_that_lost_is_trained_further_in_the_next_run(tmp_path: Path) -> None:
    world = correlated_world(tmp_path)
    first = world.run()
    assert first.contest is not None
    assert first.contest.winner != "network"
    world.reopen()
    second = world.add_run("run-2")
    world.coordinator().advance(second.id)
    ended = world.store.get("run-2")
    fits = [[entry for entry in run.log if entry.kind == "fit"] for run in (first, ended)]
    # It begins where the first run's training ended, not at the released detector, whose loss is another.
    assert fits[1][0].loss_before == pytest.approx(fits[0][0].loss_after, rel=0.02)
    assert fits[1][0].loss_before != pytest.approx(first.candidate_loss, rel=0.2)


def test_a_contest_that_nobody_answers_ends_the_contest_and_not_the_run(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.link.spoil = lambda _device, question, vector: (
        None if isinstance(question, ContestQuestion | MomentsQuestion) else vector
    )
    run = world.run()
    assert run.state is RunState.COMPLETED, run.detail
    assert run.contest is not None
    assert run.contest.winner == "network"
    assert "no baseline was compared: 2 attempts in a row gave none" in run.contest.reason
    assert {check.name for check in run.checks} == {"improvement", "alarm_rate", *REQUIRED}


@pytest.mark.parametrize("kind", [MomentsQuestion, ContestQuestion])
def test_a_run_that_is_killed_while_it_compares_goes_on_where_it_was(tmp_path: Path, kind: type) -> None:
    world = World(tmp_path)
    run = world.add_run()

    def die(_device: str, question: object, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        if isinstance(question, kind):
            raise Killed
        return vector

    world.link.spoil = die
    with pytest.raises(Killed):
        world.coordinator().advance(run.id)
    world.reopen()
    world.link.spoil = lambda _device, _question, vector: vector
    resumed = world.coordinator().advance(run.id)
    assert resumed.state is RunState.COMPLETED, resumed.detail
    undisturbed = World(tmp_path / "clean").run()
    assert (resumed.contest, resumed.candidate_loss) == (undisturbed.contest, undisturbed.candidate_loss)


def test_a_family_that_wants_no_baseline_is_asked_nothing_more(tmp_path: Path) -> None:
    run = World(tmp_path, policy=changed(POLICY, rounds__baseline=False)).run()
    assert run.contest is None
    assert {entry.kind for entry in run.log} == {"fit", "assess"}


class EvenNoise:
    """Implements what `drop_noise_floor` asks of an encoding: noise of standard deviation 0.5 in every entry."""

    def noise_std(self, _name: str) -> float:
        return 0.5


def test_what_cannot_be_told_from_noise_counts_as_nothing() -> None:
    assert FLOOR_STDS == 4.0  # one bin in 30,000 is taken for more than noise when it is not
    layout = assess_layout(tensor_count=1, feature_count=2)
    values = np.tile([1.99, 2.0, -1.0], layout.total)[: layout.total]
    parts = layout.unpack(drop_noise_floor(values, layout, EvenNoise()))  # type: ignore[arg-type] # a stand-in
    before = layout.unpack(values)
    histograms = {
        "candidate_scores",
        "champion_scores",
        "candidate_probe_scores",
        "champion_probe_scores",
        "threshold_scores",
        "range_low",
        "range_high",
        "feature_counts",
    }
    not_negative = {"candidate_loss", "champion_loss", "feature_squares"}
    for name, found in parts.items():
        if name in histograms:
            assert np.array_equal(found, np.where(before[name] == 2.0, 2.0, 0.0)), name
        elif name in not_negative:
            assert np.array_equal(found, np.maximum(before[name], 0.0)), name
        else:
            assert np.array_equal(found, before[name]), name
    fit = fit_layout(3)
    kept = fit.unpack(drop_noise_floor(np.full(fit.total, -1.0), fit, EvenNoise()))  # type: ignore[arg-type]
    assert kept["weighted_update"].tolist() == [-1.0] * 3
    assert kept["loss_before"].tolist() == kept["loss_after"].tolist() == [0.0]
