"""What a device is asked, checked before its data are touched: closed kinds, exact arrays, near the approved release."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from answerers import anchor
from msgspec.structs import replace
from numpy.typing import NDArray

from edge_agent.errors import QuestionRefusedError
from edge_agent.learner.question_checks import LARGEST_ASKED, check_question
from models.architecture import Architecture, initial_parameters
from models.detection.answers import scale_arrays, spread_parts
from models.detection.scale import ScalePrior
from models.detection.spread import Spread, SpreadSums
from protocol.questions import (
    AssessQuestion,
    CovarianceQuestion,
    CurveQuestion,
    FitQuestion,
    Question,
    ScaleQuestion,
)
from protocol.refusals import RefusalCode
from protocol.training import TrainingSettings

pytestmark = pytest.mark.edge

ARCHITECTURE = Architecture(kind="dense-autoencoder", layers=(5, 4, 5))
F, P = 5, ARCHITECTURE.parameter_count
TRUSTED = initial_parameters(ARCHITECTURE, 1)
PROFILE = TrainingSettings().settled(0.5)
ANCHOR = anchor(ARCHITECTURE.layout_sha256, TRUSTED, PROFILE)
ABOUT = {"run_id": "r", "layout_sha256": ARCHITECTURE.layout_sha256, "profile_sha256": PROFILE.sha256}
FIT = FitQuestion(round_number=1, **ABOUT)
ASSESS = AssessQuestion(**ABOUT)
Arrays = Mapping[str, NDArray[np.float32]]


def prior() -> dict[str, NDArray[np.float32]]:
    return scale_arrays(ScalePrior(variance=np.ones(F), freedom=np.full(F, 8.0)))


def curve(devices: int = 3) -> tuple[CurveQuestion, dict[str, NDArray[np.float32]]]:
    """What an honest aggregator asks, of three devices' sums."""
    rng = np.random.default_rng(2)
    sums = SpreadSums.of(Spread.of(rng.normal(size=(60, F)) @ rng.normal(size=(F, F))))
    for _ in range(devices - 1):
        sums += SpreadSums.of(Spread.of(rng.normal(size=(60, F))))
    parts = spread_parts(sums)
    matrices = {name: parts[name].astype(np.float32) for name in ("correlation", "wander")}
    question = CurveQuestion(devices=devices, squares=sums.squares, error=sums.error, **ABOUT)
    return question, prior() | matrices


def refusal(question: Question, arrays: Arrays) -> tuple[RefusalCode, str]:
    with pytest.raises(QuestionRefusedError) as refused:
        check_question(question, arrays, ANCHOR, features=F)
    return refused.value.code, str(refused.value)


@pytest.mark.parametrize(
    ("question", "arrays"),
    [
        (FIT, {"parameters": TRUSTED}),
        (FIT, {"parameters": TRUSTED + np.float32(0.49 / P**0.5)}),
        (ASSESS, {"candidate": TRUSTED}),
        (ScaleQuestion(**ABOUT), {}),
        (CovarianceQuestion(**ABOUT), prior()),
        (CovarianceQuestion(**ABOUT), {name: np.zeros(F, np.float32) for name in prior()}),
        curve(),
        curve(1),
    ],
)
def test_what_an_honest_aggregator_asks_is_answered(question: Question, arrays: Arrays) -> None:
    check_question(question, arrays, ANCHOR, features=F)


@pytest.mark.parametrize("change", [{"layout_sha256": "0" * 64}, {"profile_sha256": "0" * 64}])
def test_another_layout_or_profile_than_the_approved_one_is_refused(change: dict[str, str]) -> None:
    assert refusal(replace(FIT, **change), {"parameters": TRUSTED})[0] is RefusalCode.PROFILE


def test_a_release_without_a_profile_is_asked_nothing() -> None:
    for profile in (None, TrainingSettings()):
        with pytest.raises(QuestionRefusedError) as refused:
            check_question(FIT, {"parameters": TRUSTED}, replace(ANCHOR, profile=profile), features=F)
        assert refused.value.code is RefusalCode.PROFILE


@pytest.mark.parametrize(
    ("question", "arrays"),
    [
        (FIT, {}),
        (FIT, {"candidate": TRUSTED}),
        (FIT, {"parameters": TRUSTED, "control": TRUSTED}),
        (ASSESS, {"candidate": TRUSTED, "champion": TRUSTED}),
        (ScaleQuestion(**ABOUT), {"parameters": TRUSTED}),
        (CovarianceQuestion(**ABOUT), {}),
        (CovarianceQuestion(**ABOUT), prior() | {"wander": np.zeros(15, np.float32)}),
        (curve()[0], prior()),
    ],
)
def test_arrays_are_exactly_those_of_the_kind(question: Question, arrays: Arrays) -> None:
    assert refusal(question, arrays)[0] is RefusalCode.ARRAYS


def off(index: int, value: float) -> NDArray[np.float32]:
    changed = TRUSTED.copy()
    changed[index] = value
    return changed


@pytest.mark.parametrize(
    ("flat", "words"),
    [
        (TRUSTED[:-1], "parameters came"),
        (np.append(TRUSTED, np.float32(0)), "parameters came"),
        (off(3, np.nan), "a parameter of ±nan"),
        (off(3, np.inf), "a parameter of ±inf"),
        (off(3, -1e18), "a parameter of ±1e\\+18"),
        (off(3, LARGEST_ASKED * 1.01), "at most 32"),
        (off(3, TRUSTED[3] + 0.51), "0.51 away from press/1"),
        (TRUSTED + np.float32(0.51 / P**0.5), "0.51 away"),
        (np.zeros(0, np.float32), "parameters came"),
    ],
)
@pytest.mark.parametrize(("question", "name"), [(FIT, "parameters"), (ASSESS, "candidate")])
def test_parameters_far_from_the_approved_release_are_not_trained_from_nor_graded(
    question: Question, name: str, flat: NDArray[np.float32], words: str
) -> None:
    with pytest.raises(QuestionRefusedError, match=words) as refused:
        check_question(question, {name: flat}, ANCHOR, features=F)
    assert refused.value.code is RefusalCode.ARRAYS


def test_a_wider_radius_does_not_widen_the_bound_on_one_parameter() -> None:
    wide = replace(ANCHOR, profile=replace(PROFILE, trust_radius=1e6))
    asked = replace(FIT, profile_sha256=replace(PROFILE, trust_radius=1e6).sha256)
    with pytest.raises(QuestionRefusedError, match="at most 32"):
        check_question(asked, {"parameters": off(0, 1e18)}, wide, features=F)


def test_a_refused_scale_names_the_sensor_figure_that_was_wrong_and_not_the_largest() -> None:
    freedom = np.full(F, 8.0, np.float32)
    freedom[1] = 0.25
    with pytest.raises(QuestionRefusedError, match=r"within 0\.49 and 2001; got 0\.25"):
        check_question(CovarianceQuestion(**ABOUT), prior() | {"scale_freedom": freedom}, ANCHOR, features=F)


@pytest.mark.parametrize(
    "change",
    [
        {"scale_freedom": np.full(F, -1.0)},
        {"scale_freedom": np.full(F, 0.1)},
        {"scale_freedom": np.full(F, 1e9)},
        {"scale_log_variance": np.full(F, 500.0)},
        {"scale_log_variance": np.full(F, np.nan)},
        {"scale_log_variance": np.zeros(F + 1)},
    ],
)
def test_a_scale_that_no_fleet_has_is_refused_before_it_makes_one_sensor_all_that_counts(
    change: dict[str, NDArray[np.floating]],
) -> None:
    spoilt = {name: np.asarray(value, np.float32) for name, value in {**prior(), **change}.items()}
    assert refusal(CovarianceQuestion(**ABOUT), spoilt)[0] is RefusalCode.ARRAYS
    question, arrays = curve()
    spoilt = {name: np.asarray(value, np.float32) for name, value in {**arrays, **change}.items()}
    assert refusal(question, spoilt)[0] is RefusalCode.ARRAYS


def triangle(matrix: NDArray[np.floating]) -> NDArray[np.float32]:
    return matrix[np.triu_indices(F)].astype(np.float32)


ONE_DIRECTION = np.eye(F) - 1.5 * np.eye(F, k=1) - 1.5 * np.eye(F, k=-1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("correlation", np.zeros(3)),
        ("correlation", triangle(3 * np.ones((F, F)) - 6 * (np.ones((F, F)) - np.eye(F)))),
        ("correlation", triangle(3 * np.eye(F) * 1.1)),
        ("correlation", triangle(3 * np.eye(F) + 4 * (np.eye(F, k=1) + np.eye(F, k=-1)))),
        ("correlation", triangle(3 * np.eye(F)) * np.nan),
        ("wander", triangle(-np.eye(F))),
        ("wander", triangle(np.eye(F) * 1e9)),
        ("wander", triangle(ONE_DIRECTION)),
    ],
)
def test_a_covariance_that_is_none_is_refused_before_it_makes_one_direction_all_that_counts(
    name: str, value: NDArray[np.floating]
) -> None:
    question, arrays = curve()
    assert refusal(question, {**arrays, name: value.astype(np.float32)})[0] is RefusalCode.ARRAYS


@pytest.mark.parametrize(
    "change", [{"squares": 3.1}, {"error": 3.1}, {"error": np.inf}, {"devices": 100_000}, {"devices": 2}]
)
def test_figures_that_no_sum_of_so_many_devices_has_are_refused(change: dict[str, float]) -> None:
    question, arrays = curve()
    assert refusal(replace(question, **change), arrays)[0] is RefusalCode.ARRAYS
