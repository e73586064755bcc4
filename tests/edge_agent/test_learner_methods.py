"""How a device trains as a question asks, what it keeps between two rounds, and what it does with an update nobody took."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from answerers import anchor
from numpy.typing import NDArray

from edge_agent.errors import TrainingDivergedError
from edge_agent.learner.local_learner import LocalLearner
from models.architecture import Architecture, initial_parameters
from models.local_training import fit
from models.private_training import fit_privately
from models.support import supported_entries
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
CONTENT = (Path(__file__).parents[1] / "models" / "golden" / "autoencoder.training.tflite").read_bytes()
MODEL = TrainingModel(CONTENT, ARCHITECTURE)
ROWS = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
TRAINING = ROWS[np.arange(60) % 5 != 4]
START = initial_parameters(ARCHITECTURE, 1)
RATE = 0.1


def settings(**changes: object) -> TrainingSettings:
    return TrainingSettings(
        **{"batch_size": 8, "learning_rate": RATE, "maximum_staleness": 0, **changes}
    ).settled(0.5)


def question(number: int = 1, run_id: str = "r", **changes: object) -> FitQuestion:
    return FitQuestion(
        run_id=run_id,
        round_number=number,
        layout_sha256=ARCHITECTURE.layout_sha256,
        profile_sha256=settings(**changes).sha256,
    )


def learner(
    rows: NDArray[np.float32] = ROWS, seed: int = 0, model: TrainingModel | None = None, **changes: object
) -> LocalLearner:
    return LocalLearner(
        model or MODEL,
        rows,
        anchor=anchor(ARCHITECTURE.layout_sha256, START, settings(**changes)),
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


def expected_update(**changes: object) -> NDArray[np.float64]:
    """What a device of seed 0 answers first, worked out from its parts: a half, a training, what is supported at both ends, the clip."""
    how = settings(**changes)
    rng = np.random.default_rng(int.from_bytes(seeded()(16), "big"))
    half = TRAINING[rng.permutation(48)[:24]]
    trained = fit(MODEL, START, half, how, rng=rng).parameters
    both = supported_entries(ARCHITECTURE, START, half) & supported_entries(ARCHITECTURE, trained, half)
    return clipped(np.where(both, trained.astype(np.float64) - START, 0.0))


def clipped(update: NDArray[np.float64]) -> NDArray[np.float64]:
    return update * min(1.0, (settings().update_norm or 0.0) / float(np.linalg.norm(update)))


@pytest.mark.parametrize(
    "how",
    [{"optimizer": "adam"}, {"momentum": 0.9}, {"gradient_clip": 0.01}, {"proximal": 0.5}],
    ids=["adam", "momentum", "gradient clip", "proximal"],
)
def test_the_profile_decides_how_steps_are_taken(how: dict[str, object]) -> None:
    got = update_of(learner(**how), question(**how))
    np.testing.assert_allclose(got, expected_update(**how), rtol=1e-4, atol=1e-6)
    assert got.any()
    assert np.abs(got - update_of(learner(), question())).max() > 2e-4


def test_no_update_is_longer_than_the_profiles_norm() -> None:
    assert np.linalg.norm(
        update_of(learner(learning_rate=0.5), question(learning_rate=0.5))
    ) == pytest.approx(0.1)


def test_two_devices_shuffle_differently_whatever_the_question_says() -> None:
    assert np.abs(update_of(learner(), question()) - update_of(learner(seed=1), question())).max() > 1e-6


def test_example_privacy_trains_with_noise() -> None:
    privacy = ExamplePrivacy(clip_norm=0.5, noise_multiplier=1.0, sampling_rate=0.25, steps=12)
    asked = question(example_privacy=privacy)
    got = update_of(learner(example_privacy=privacy), asked)
    expected = fit_privately(
        MODEL, START, TRAINING, settings(example_privacy=privacy), random_bytes=seeded()
    ).parameters
    np.testing.assert_allclose(got, clipped(expected.astype(np.float64) - START), rtol=1e-4, atol=1e-5)
    assert np.abs(update_of(learner(seed=1, example_privacy=privacy), asked) - got).max() > 2e-3


def test_noise_too_small_to_hide_a_window_does_not_stand_in_for_support() -> None:
    """Else a profile with noise of 1e-9 would be the way around it."""
    few = ROWS[:8]  # of which seven are trained on
    for noise, steps, hides in ((1.0, 12, True), (1e-9, 12, False), (1.0, 1000, False)):
        private = ExamplePrivacy(noise_multiplier=noise, sampling_rate=0.25, steps=steps)
        got = update_of(learner(few, example_privacy=private), question(example_privacy=private))
        assert bool(got.any()) is hides


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
    moved = first != 0
    assert np.abs(update_of(device, asked, far)[moved] / first[moved] - 1).min() > 1e-4


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
def test_a_training_that_diverges_says_so_and_answers_nothing(private: bool) -> None:
    start = START.copy()
    start[-30:-6] = 1e20
    privacy = ExamplePrivacy(clip_norm=1.0, noise_multiplier=1.0, sampling_rate=0.5, steps=2)
    how = {"epochs": 1, "batch_size": 100, "example_privacy": privacy if private else None}
    with pytest.raises(TrainingDivergedError):
        learner(**how).answer(question(**how), {"parameters": start})


def test_a_step_too_long_for_this_device_is_halved_from_round_to_round_until_it_learns() -> None:
    # On these windows 0.1 learns and 200 diverges; a fleet shall not lose a device over that. Each round it tries once: how often it
    # tried in one would show in how long that took.
    how = {"learning_rate": 200.0, "epochs": 2}
    device, lost = learner(**how), 0
    for number in range(1, 8):
        try:
            update = update_of(device, question(number, **how))
        except TrainingDivergedError:
            lost += 1
            continue
        break
    assert 0 < lost < 7
    assert update.any()


def test_whether_a_later_round_is_answered_at_once_does_not_tell_that_a_training_failed() -> None:
    how = {**LATE, "learning_rate": 1e6}
    device = learner(**how)
    with pytest.raises(TrainingDivergedError):
        update_of(device, question(1, **how))
    parts = fit_layout(P).unpack(device.answer(question(2, **how), {"parameters": START}))
    assert not parts["update"].any()
    assert parts["votes"] == [0]


def test_a_training_takes_as_many_steps_where_it_diverges_as_where_it_learns() -> None:
    class Counting(TrainingModel):
        steps = 0

        def train(self, *arguments: object, **options: object) -> float:
            self.steps += 1
            return super().train(*arguments, **options)  # type: ignore[arg-type]  # passed on

    taken = []
    for rate in (0.1, 1e6):
        model = Counting(CONTENT, ARCHITECTURE)
        how = {"learning_rate": rate, "epochs": 3}
        device = learner(model=model, **how)
        for number in (1, 2):
            with contextlib.suppress(TrainingDivergedError):
                device.answer(question(number, **how), {"parameters": START})
                device.settle()
        taken.append(model.steps)
    assert taken[0] == taken[1] == 2 * 3 * 3


def test_a_device_of_fourteen_windows_answers_every_question() -> None:
    few = learner(ROWS[:14])
    assert not update_of(few, question()).any(), "its half of 12 would say too much of each"
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
