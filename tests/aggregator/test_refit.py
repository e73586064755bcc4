"""The fleet's prior made anew: three questions, each once, and what the run does with their sums."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from aggregator_world import (
    ARCHITECTURE,
    POLICY,
    TRUSTED,
    Killed,
    World,
    first_bundle,
    rows_of,
    trainer,
    unit_of,
)
from answerers import anchor
from family_changes import changed
from numpy.typing import NDArray

from aggregator.errors import AnswerRefusedError, SumError
from aggregator.privacy.settings import NoiseSettings, PrivacySettings
from aggregator.rounds.admission import admit_prior_part, check_answer
from aggregator.rounds.champion import read_champion
from aggregator.rounds.privacy_plan import planned_questions
from aggregator.rounds.refit import prior_from, why_no_work
from aggregator.rounds.runs import RunState, TrainingRun
from aggregator.rounds.signing_gate import REQUIRED
from aggregator.rounds.sum_policy import SecureSumSettings
from edge_agent.learner.local_learner import LocalLearner
from models.architecture import Architecture, initial_parameters
from models.bundles import ModelBundle
from models.detection.openings import AlarmRules
from models.detection.prior import FleetPrior, fleet_prior
from models.detection.promise import AlarmBudget, make_promise
from protocol.questions import (
    COVARIANCE,
    CURVE,
    SCALE,
    CovarianceQuestion,
    CurveQuestion,
    Kind,
    Question,
    ScaleQuestion,
    answer_layout,
    kind_of,
)

MIXTURE = changed(POLICY, detector="mixture")
REFIT = changed(MIXTURE, rounds__count=0)
QUESTIONS = (ScaleQuestion, CovarianceQuestion, CurveQuestion)


def released(world: World, version: int = 2) -> ModelBundle:
    return read_champion(world.fleet.bundles[version], TRUSTED)


def the_fleets(devices: int = 4) -> FleetPrior:
    """What a centre that held all rows would make of them."""
    return fleet_prior([(rows_of(i), unit_of(i)) for i in range(devices)], AlarmRules())


def assert_alike(one: FleetPrior | None, other: FleetPrior) -> None:
    assert one is not None
    assert (one.devices, one.curves.keys()) == (other.devices, other.curves.keys())
    np.testing.assert_allclose(one.scale.variance, other.scale.variance, rtol=1e-3)
    np.testing.assert_allclose(one.scale.freedom, other.scale.freedom, rtol=0.02)
    np.testing.assert_allclose(one.spread.correlation, other.spread.correlation, atol=1e-3)
    np.testing.assert_allclose(one.spread.wander, other.spread.wander, atol=1e-3)
    assert one.spread.between == pytest.approx(other.spread.between, rel=0.02)
    for age, curve in other.curves.items():
        # An opening more or less at a level is what float32 on the road may move.
        np.testing.assert_allclose(one.curves[age].rate, curve.rate, atol=3 / curve.windows, rtol=0.1)
        assert one.curves[age].windows == curve.windows


def test_a_run_releases_the_prior_that_a_centre_would_have_made(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, policy=MIXTURE)
    run = world.run()
    assert (run.state, run.release) == (RunState.COMPLETED, "pump/2"), run.detail
    assert [entry.kind for entry in run.log] == ["fit"] * 3 + ["scale", "covariance", "curve", "assess"]
    bundle = released(world)
    assert bundle.manifest.detector == "mixture"
    assert_alike(bundle.prior, the_fleets())
    assert run.refit is not None
    assert run.refit.devices == 4
    assert "the prior of 4 devices, openings counted on 320 windows" in run.refit.reason
    assert {check.name for check in run.checks} == {"improvement", "alarm_rate", "prior", *REQUIRED}
    assert bundle.manifest.provenance.evaluation.keys() >= {"network_sight", "champion_network_sight"}
    assert "sight" not in bundle.manifest.provenance.evaluation
    assert any("provisional" in warning for warning in bundle.manifest.provenance.warnings)


def test_a_run_of_no_rounds_makes_the_prior_anew_and_leaves_the_network_as_it_is(tmp_path: Path) -> None:
    world = World(tmp_path, policy=REFIT)
    run = world.run()
    assert (run.state, run.release) == (RunState.COMPLETED, "pump/2"), run.detail
    assert [entry.kind for entry in run.log] == ["scale", "covariance", "curve", "assess"]
    bundle = released(world)
    assert_alike(bundle.prior, the_fleets())
    assert np.array_equal(bundle.parameters, read_champion(first_bundle(), TRUSTED).parameters)
    assert bundle.manifest.provenance.participants == 4
    assert bundle.manifest.provenance.examples == 4 * 80
    assert bundle.manifest.provenance.rounds == 0


def test_the_next_run_goes_on_as_a_mixture_without_being_told_and_goes_back_where_it_is(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, policy=changed(POLICY, rounds__count=0))
    world.fleet.bundles[1] = first_bundle(is_mixture=True)
    assert world.run().state is RunState.COMPLETED
    assert_alike(released(world).prior, the_fleets())
    world.policy = changed(POLICY, rounds__count=1, detector="network")
    world.coordinator().advance(world.add_run("run-2").id)
    bundle = released(world, 3)
    assert (bundle.manifest.detector, bundle.prior) == ("network", None)


def test_a_run_of_no_rounds_that_could_make_no_prior_says_so(tmp_path: Path) -> None:
    run = World(tmp_path, policy=changed(POLICY, rounds__count=0)).run()
    assert run.state is RunState.FAILED
    assert "a run of 0 rounds makes the fleet's prior anew, and pump/1 is not judged by one" in run.detail


def test_a_model_that_no_prior_fits_is_not_taken_for_a_mixture_in_silence(tmp_path: Path) -> None:
    champion = read_champion(first_bundle(), TRUSTED)
    wide = replace(champion, architecture=Architecture(kind="dense-autoencoder", layers=(129, 8, 129)))
    said = why_no_work(World(tmp_path).add_run(), MIXTURE, wide)
    assert said is not None
    assert "up to 128 features, pump/1 is a dense-autoencoder of 129; leave detector out" in said
    assert why_no_work(World(tmp_path / "as it is").add_run(), MIXTURE, champion) is None


@pytest.mark.parametrize("kind", QUESTIONS)
def test_a_run_that_is_killed_while_it_makes_a_prior_goes_on_where_it_was(tmp_path: Path, kind: type) -> None:
    world = World(tmp_path, policy=REFIT)
    run = world.add_run()

    def die(_device: str, question: Question, vector: NDArray[np.float32]) -> NDArray[np.float32]:
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
    # Each question is asked once, but for the one that was under way.
    assert [entry.kind for entry in resumed.log] == ["scale", "covariance", "curve", "assess"]
    assert_alike(released(world).prior, the_fleets())


def silent(kind: type) -> object:
    return lambda _device, question, vector: None if isinstance(question, kind) else vector


@pytest.mark.parametrize("kind", QUESTIONS)
def test_where_nobody_answers_the_champions_prior_goes_on_and_the_run_says_why(
    tmp_path: Path, kind: type
) -> None:
    world = World(tmp_path, policy=changed(POLICY, rounds__count=1))
    world.fleet.bundles[1] = first_bundle(is_mixture=True)
    world.link.spoil = silent(kind)  # type: ignore[assignment] # a lambda for brevity
    run = world.run()
    assert run.state is RunState.COMPLETED, run.detail
    assert run.refit is not None
    assert "the prior of pump/1 goes on: 2 attempts in a row gave none" in run.refit.reason
    kept = released(world).prior
    assert kept is not None
    assert kept.devices == 3


def test_without_a_prior_to_go_on_with_there_is_no_release(tmp_path: Path) -> None:
    for policy, name in ((MIXTURE, "trained"), (REFIT, "refit")):
        world = World(tmp_path / name, policy=policy)
        world.link.spoil = silent(CurveQuestion)  # type: ignore[assignment]
        run = world.run()
        assert run.state is RunState.FAILED
        assert "the fleet's prior could not be made: 2 attempts in a row gave none" in run.detail


def test_the_curve_is_asked_of_those_alone_whose_part_is_in_the_sums(tmp_path: Path) -> None:
    world = World(tmp_path, policy=REFIT)
    world.link.spoil = lambda device, question, vector: (
        None if isinstance(question, CovarianceQuestion) and device == "pump2" else vector
    )
    run = world.run()
    assert run.state is RunState.COMPLETED, run.detail
    asked = {kind_of(question): devices for question, devices in world.link.asked}
    assert asked[SCALE] == world.devices
    assert asked[CURVE] == ("pump0", "pump1", "pump3")
    assert released(world).prior is not None
    assert released(world).prior.devices == 3  # type: ignore[union-attr] # asserted above


def sums_of(devices: int) -> dict[Kind, NDArray[np.float64]]:
    """The three sums of a fleet in plain, as a run would gather them."""
    from aggregator.rounds.refit import _question

    learners = [
        LocalLearner(
            trainer(),
            rows_of(i),
            anchor=anchor(ARCHITECTURE.layout_sha256, initial_parameters(ARCHITECTURE, 1), POLICY.training),
            champion=initial_parameters(ARCHITECTURE, 1),
            maximum_examples=1000,
            unit=unit_of(i),
        )
        for i in range(devices)
    ]
    run = msgspec.convert(
        dict.fromkeys(("id", "family", "trigger", "reason", "requested_by"), "r")
        | {"rounds": 0, "state": "ASSESSING", "created_at": 0, "updated_at": 0},
        TrainingRun,
    )
    sums: dict[Kind, NDArray[np.float64]] = {}
    for kind in (SCALE, COVARIANCE, CURVE):
        question, arrays = _question(kind, run, POLICY, sums, ARCHITECTURE)
        sums[kind] = np.sum([one.answer(question, arrays).astype(np.float64) for one in learners], axis=0)
    return sums


def test_what_fewer_than_the_quorum_know_is_no_fleets_word() -> None:
    sums = sums_of(3)
    assert prior_from(sums, 6, minimum_devices=3).devices == 3
    with pytest.raises(SumError, match=r"3 devices knew how their sensors vary together.*at least 4"):
        prior_from(sums, 6, minimum_devices=4)
    layout = answer_layout(CURVE, parameter_count=1, tensor_count=1, feature_count=6)
    parts = layout.unpack(sums[CURVE])
    parts["age_devices_64"] -= 1
    few = {**sums, CURVE: np.concatenate(list(parts.values()))}
    assert prior_from(few, 6, minimum_devices=3).curves.keys() == {16}


@pytest.mark.parametrize("kind", [SCALE, COVARIANCE, CURVE])
def test_sums_that_no_fleet_can_have_given_are_refused_in_words(kind: Kind) -> None:
    sums = sums_of(3)
    for value in (np.nan, np.inf):
        with pytest.raises(SumError, match="not finite"):
            prior_from({**sums, kind: np.full_like(sums[kind], value)}, 6, minimum_devices=3)
    if kind != SCALE:
        with pytest.raises(SumError, match="devices"):
            prior_from({**sums, kind: -sums[kind]}, 6, minimum_devices=3)


def test_an_answer_beyond_what_a_device_can_measure_is_refused_by_the_name_of_its_part() -> None:
    sums = sums_of(1)
    for kind, part, value in (
        (SCALE, "scale_logs", -101.0),
        (SCALE, "scale_devices", 2.0),
        (COVARIANCE, "correlation", 1.01),
        (COVARIANCE, "spread_error", -0.1),
        (CURVE, "openings_16", 1001.0),
        (CURVE, "in_alarm_64", -1.0),
    ):
        layout = answer_layout(kind, parameter_count=1, tensor_count=1, feature_count=6)
        rule = admit_prior_part(kind, maximum_examples=1000)
        honest = sums[kind].astype(np.float32)
        check_answer(layout, honest, rule)
        parts = layout.unpack(honest)
        parts[part][0] = value
        with pytest.raises(AnswerRefusedError, match=f"{part} goes from"):
            check_answer(layout, layout.pack(parts), rule)


def test_where_sums_are_noised_nobody_is_asked_and_the_champions_prior_goes_on(tmp_path: Path) -> None:
    world = World(tmp_path)
    noised = msgspec.structs.replace(
        POLICY,
        secure_sum=SecureSumSettings(),
        cohort=msgspec.structs.replace(POLICY.cohort, minimum_devices=3),
        privacy=PrivacySettings(noise=NoiseSettings(clip=1.0, noise_multiplier=0.5)),
    )
    champion = read_champion(first_bundle(is_mixture=True), TRUSTED)
    run, joined = world.add_run(), frozenset(world.devices)
    asked = {plan.question for plan in planned_questions(run, noised, champion, joined)}
    assert asked == {"train.fit", "evaluate.assess"}
    exact = msgspec.structs.replace(noised, privacy=PrivacySettings())
    planned = planned_questions(run, exact, champion, joined)
    assert {plan.question for plan in planned} == {"train.fit", SCALE, COVARIANCE, CURVE, "evaluate.assess"}
    assert all(plan.rounds == 1 for plan in planned if plan.question != "train.fit")
    hidden = changed(noised, detector="mixture")
    world.policy = hidden
    failed = world.coordinator().advance(run.id)
    assert failed.state is RunState.FAILED
    assert 'detector = "mixture" needs a prior; pump/1 has none' in failed.detail


def test_liars_who_always_alarm_deafen_nobody_by_more_than_half_and_who_never_do_change_nothing() -> None:
    layout = answer_layout(CURVE, parameter_count=1, tensor_count=1, feature_count=6)
    sums = sums_of(4)
    champion = prior_from(sums, 6, minimum_devices=3)

    def threshold(share: float, before: FleetPrior | None) -> float:
        parts = layout.unpack(sums[CURVE])
        for age in champion.curves:
            windows = float(parts[f"age_windows_{age}"][0])
            parts[f"openings_{age}"] = np.full_like(parts[f"openings_{age}"], share * windows)
            parts[f"in_alarm_{age}"] = np.full_like(parts[f"in_alarm_{age}"], share * windows)
        lying = {**sums, CURVE: np.concatenate(list(parts.values()))}
        curves = prior_from(lying, 6, minimum_devices=3, champion=before).curves
        return max(make_promise(curve, AlarmBudget(), fitted_on=0).threshold for curve in curves.values())

    usual = max(
        make_promise(curve, AlarmBudget(), fitted_on=0).threshold for curve in champion.curves.values()
    )
    assert threshold(0.25, None) > 100 * usual
    assert usual < threshold(0.25, champion) <= 1.6 * usual
    assert threshold(0.0, champion) == threshold(0.0, None)
    honest = prior_from(sums, 6, minimum_devices=3, champion=champion)
    for age, curve in champion.curves.items():
        np.testing.assert_array_equal(honest.curves[age].rate, curve.rate)
