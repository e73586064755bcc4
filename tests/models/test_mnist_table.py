"""The MNIST table: how digits are dealt, what a round does, and what a private sum holds."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

# The script's folder is on its own import path; a test has to put it there.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from learning_tables.mnist_digits import DEVICES, Digits, deal
from learning_tables.mnist_features import FEATURES, oriented_gradients
from learning_tables.mnist_federation import (
    Method,
    round_of_first,
    train_together,
)
from learning_tables.mnist_privacy import Example, noisy_sum
from learning_tables.mnist_secure_sum import secure_total

from protocol.training import TrainingSettings

IMAGES = 4000


class Adder:
    """A network whose training adds the device's first pixel to every parameter; it remembers the biases it was given.

    Its accuracy is the bias of class 0, so that a test sees it.
    """

    def __init__(self) -> None:
        self.biases: list[np.ndarray] = []

    def initial(self, seed: int) -> np.ndarray:
        return np.full(12, float(seed), np.float32)

    def fit(
        self,
        parameters: np.ndarray,
        x: np.ndarray,
        labels: np.ndarray,
        work: TrainingSettings,
        rng: np.random.Generator,
        correction: np.ndarray | None,
    ) -> tuple[np.ndarray, int]:
        self.biases.append(parameters[-10:])
        return parameters + x[0, 0], 1

    def accuracy(self, parameters: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
        return float(parameters[-10])


@pytest.fixture
def digits() -> Digits:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, IMAGES)
    x = rng.random((IMAGES, 784), dtype=np.float32)
    return Digits(x=x, y=y, test_x=x[:10], test_y=y[:10])


@pytest.mark.parametrize("split", ["IID", "2-shard non-IID"])
def test_every_image_is_dealt_once(digits: Digits, split: str) -> None:
    dealt = deal(digits, split, np.random.default_rng(1))  # type: ignore[arg-type]  # a parametrised literal
    assert dealt.shape == (DEVICES, IMAGES // DEVICES)
    assert sorted(dealt.ravel()) == list(range(IMAGES))


def test_two_shards_hold_few_classes_and_a_shuffle_many(digits: Digits) -> None:
    def classes(split: str) -> float:
        dealt = deal(digits, split, np.random.default_rng(1))  # type: ignore[arg-type]  # as above
        return float(np.mean([len(set(digits.y[own])) for own in dealt]))

    assert classes("2-shard non-IID") < 3
    assert classes("IID") > 8


def train(method: Method, labels: list[int], rounds: int = 3) -> tuple[Adder, list[float], list[float]]:
    runner = Adder()
    x, y = np.full((len(labels), 784), 0.5, np.float32), np.array(labels)
    curves = train_together(
        runner,
        runner.initial(0),
        [(x, y)] * DEVICES,
        method,
        lambda flat: runner.accuracy(flat, x, y),
        rounds=rounds,
        seed=1,
    )
    return runner, list(curves.trained), list(curves.averaged)


def test_federated_averaging_moves_by_the_mean_update_of_ten_devices() -> None:
    runner, trained, averaged = train(Method(), [0, 1])
    assert trained == pytest.approx([0.5, 1.0, 1.5])
    assert averaged == pytest.approx([0.5, 0.6, 0.78])
    assert len(runner.biases) == 30


def test_the_adjustment_is_in_the_training_and_not_in_the_model() -> None:
    runner, trained, _ = train(Method(adjustment=1.0), [0] * 6 + [1] * 3)
    np.testing.assert_allclose(np.exp(runner.biases[0][0] - runner.biases[0][1]), 7 / 4, rtol=1e-5)
    assert trained == pytest.approx([0.5, 1.0, 1.5])


def test_a_mark_that_is_never_reached_is_one_past_the_last_round() -> None:
    assert [round_of_first([0.5, 0.95, 0.9, 0.97], mark) for mark in (0.92, 0.97, 0.99)] == [2, 4, 5]


def test_an_upright_edge_has_gradients_across_only_and_an_empty_image_none() -> None:
    image = np.zeros((2, 28, 28), np.float32)
    image[1, :, 14:] = 1.0
    features = oriented_gradients(image.reshape(2, -1))
    assert features.shape == (2, FEATURES)
    assert not features[0].any()
    by_direction = features[1].reshape(8, 49).sum(axis=1)
    assert by_direction[0] > 4
    np.testing.assert_array_equal(by_direction[1:], 0.0)


def test_features_are_the_same_for_many_images_and_for_one() -> None:
    images = np.random.default_rng(2).random((3, 784), dtype=np.float32)
    np.testing.assert_allclose(oriented_gradients(images)[1:2], oriented_gradients(images[1:2]), atol=1e-6)


def test_the_secure_sum_is_the_sum_modulo_the_word() -> None:
    rng = np.random.default_rng(3)
    words = [rng.integers(0, 2**32, 50, dtype=np.uint32) for _ in range(20)]
    np.testing.assert_array_equal(secure_total(words), np.sum(words, axis=0, dtype=np.uint32))


def test_a_noisy_sum_has_the_noise_it_states_and_claims_a_little_less_than_was_asked() -> None:
    settings = Example(clip=0.5, multiplier=1.5, learning_rate=1.0)
    totals = [np.full(500, 0.01) for _ in range(100)]
    noisy, multiplier = noisy_sum(totals, settings, is_checked=False)
    noise = noisy - 1.0
    assert noise.std() == pytest.approx(1.5 * 0.5, rel=0.15)
    assert 1.49 < multiplier < 1.5
