"""How a device trains as a question asks, what it keeps between two rounds, and what it does with an update nobody took."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.errors import TrainingDivergedError
from edge_agent.learner.local_learner import LocalLearner
from models.architecture import Architecture, initial_parameters
from models.errors import ParameterError
from models.local_training import fit
from models.private_training import fit_privately
from models.training_model import TrainingModel
from protocol.questions import (
    AssessQuestion,
    FitQuestion,
    fit_layout,
    kind_of,
)
from protocol.training import ExamplePrivacy, TrainingSettings

pytestmark = pytest.mark.edge

ARCHITECTURE = Architecture(kind="dense-autoencoder", layers=(6, 4, 2, 4, 6))
P = ARCHITECTURE.parameter_count
MODEL = TrainingModel(
    (Path(__file__).parents[1] / "models" / "golden" / "autoencoder.training.tflite").read_bytes(),
    ARCHITECTURE,
)
ROWS = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
TRAINING = ROWS[np.arange(60) % 5 != 4]
START = initial_parameters(ARCHITECTURE, 1)
RATE = 0.1


def settings(**changes: object) -> TrainingSettings:
    return TrainingSettings(
        **{"batch_size": 8, "learning_rate": RATE, "maximum_staleness": 0, **changes}
    ).settled()


def question(number: int = 1, run_id: str = "r", **changes: object) -> FitQuestion:
    return FitQuestion(
        run_id=run_id,
        round_number=number,
        layout_sha256=ARCHITECTURE.layout_sha256,
        profile_sha256=settings(**changes).sha256,
    )


def learner(rows: NDArray[np.float32] = ROWS, seed: int = 0, **changes: object) -> LocalLearner:
    return LocalLearner(
        MODEL,
        rows,
        profile=settings(**changes),
        champion=START,
        maximum_examples=100,
        random_bytes=seeded(seed),
    )


def seeded(seed: int = 0) -> Callable[[int], bytes]:
    count = iter(range(1_000_000))
    return lambda size: hashlib.shake_256(f"{seed} {next(count)}".encode()).digest(size)


def update_of(
    made: LocalLearner, asked: FitQuestion, start: NDArray[np.float32] = START
) -> NDArray[np.float64]:
    return fit_layout(P).unpack(made.answer(asked, {"parameters": start}))["update"]


def shuffles(seed: int = 0) -> np.random.Generator:
    """The generator that a device of this seed trains by first."""
    return np.random.default_rng([int.from_bytes(seeded(seed)(8), "big")])


@pytest.mark.parametrize(
    "how",
    [{"optimizer": "adam"}, {"momentum": 0.9}, {"gradient_clip": 0.01}, {"proximal": 0.5}],
    ids=["adam", "momentum", "gradient clip", "proximal"],
)
def test_the_profile_decides_how_steps_are_taken(how: dict[str, object]) -> None:
    expected = fit(MODEL, START, TRAINING, settings(**how), rng=shuffles()).parameters
    got = update_of(learner(**how), question(**how))
    np.testing.assert_allclose(got, expected.astype(np.float64) - START, rtol=1e-4, atol=1e-5)
    assert np.abs(got - update_of(learner(), question())).max() > 2e-4


def test_two_devices_shuffle_differently_whatever_the_question_says() -> None:
    assert np.abs(update_of(learner(), question()) - update_of(learner(seed=1), question())).max() > 1e-6


def test_example_privacy_trains_with_noise() -> None:
    privacy = ExamplePrivacy(clip_norm=0.5, noise_multiplier=1.0, sampling_rate=0.25, steps=12)
    asked = question(example_privacy=privacy)
    got = update_of(learner(example_privacy=privacy), asked)
    expected = fit_privately(
        MODEL, START, TRAINING, settings(example_privacy=privacy), random_bytes=seeded()
    ).parameters
    np.testing.assert_allclose(got, expected.astype(np.float64) - START, rtol=1e-4, atol=1e-5)
    assert np.abs(update_of(learner(seed=1, example_privacy=privacy), asked) - got).max() > 2e-3


LATE = {"staleness_exponent": 0.5, "maximum_staleness": 2}


def test_an_update_that_nobody_took_answers_a_later_round_at_once_and_weighs_less() -> None:
    device = learner(**LATE)
    first = update_of(device, question(1, **LATE))
    moved = START + np.float32(0.1)
    late = update_of(device, question(3, **LATE), moved)
    np.testing.assert_allclose(late, first / 3**0.5, rtol=1e-5)


@pytest.mark.parametrize(
    ("asked", "settles"),
    [
        (question(2, **LATE), True),
        (question(1, **LATE), False),
        (question(4, **LATE), False),
        (question(2, run_id="another", **LATE), False),
    ],
    ids=["it was taken", "the round is repeated", "too late", "another run"],
)
def test_otherwise_the_device_trains_anew_from_what_it_is_shown(asked: FitQuestion, settles: bool) -> None:
    device = learner(**LATE)
    first = update_of(device, question(1, **LATE))
    if settles:
        device.settle()
    far = START + np.float32(0.1)
    assert np.abs(update_of(device, asked, far) / first - 1).min() > 1e-3


def test_an_update_ages_until_it_is_taken() -> None:
    device = learner(**LATE)
    first = update_of(device, question(1, **LATE))
    for number in (2, 3):
        np.testing.assert_allclose(
            update_of(device, question(number, **LATE)), first / number**0.5, rtol=1e-5
        )
    device.settle()
    assert np.abs(update_of(device, question(4, **LATE)) - first).max() > 0


@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
def test_a_training_that_diverged_tells_no_number_of_this_device(private: bool) -> None:
    # Weights so large that the loss overflows and the parameters do not: the largest of those depends on the windows.
    start, told = START.copy(), set()
    start[-30:-6] = 1e20
    privacy = ExamplePrivacy(clip_norm=1.0, noise_multiplier=1.0, sampling_rate=0.5, steps=2)
    how = {"epochs": 1, "batch_size": 100, "example_privacy": privacy if private else None}
    for seed in range(2):
        rows = np.random.default_rng(seed).normal(size=(60, 6)).astype(np.float32)
        with pytest.raises(TrainingDivergedError) as refused:
            learner(rows, **how).answer(question(**how), {"parameters": start})
        told.add(str(refused.value))
    assert told == {"training diverged; the learning rate may be too high for this device's data"}


def test_a_step_too_long_for_this_device_is_halved_until_it_learns() -> None:
    # On these windows 0.1 learns and 200 diverges; a fleet shall not lose a device over that.
    how = {"learning_rate": 200.0, "epochs": 2}
    update = update_of(learner(**how), question(**how))
    halved = next(
        rate
        for rate in (200.0 / 2**k for k in range(7))
        if not _diverges(settings(learning_rate=rate, epochs=2))
    )
    assert halved < 200.0
    expected = fit(MODEL, START, TRAINING, settings(learning_rate=halved, epochs=2), rng=shuffles())
    np.testing.assert_allclose(update, expected.parameters.astype(np.float64) - START, rtol=1e-5, atol=1e-6)


def _diverges(how: TrainingSettings) -> bool:
    try:
        fit(MODEL, START, TRAINING, how, rng=shuffles())
    except ParameterError:
        return True
    return False


def test_a_device_of_fourteen_windows_answers_every_question() -> None:
    few = learner(ROWS[:14])
    assert update_of(few, question()).any()
    about = {
        "run_id": "r",
        "layout_sha256": ARCHITECTURE.layout_sha256,
        "profile_sha256": settings().sha256,
    }
    asked = AssessQuestion(**about)
    parts = few.layout_of(kind_of(asked)).unpack(few.answer(asked, {"candidate": START}))
    assert parts["examples"] == 2
    # For what it has most to gain from, the fleet's threshold, it has a vote like all others.
    assert parts["threshold_votes"].sum() == 1
