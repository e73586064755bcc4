"""One model, four runtimes: NumPy, LiteRT, Keras and PyTorch agree on outputs, scores, losses and gradients."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import reference_training
import tensorflow as tf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_samples import AUTOENCODER, CLASSIFIER, CONVOLUTION, at_rate
from recordings import ROOT
from training_models import training_model

from models import reference_model
from models.architecture import Architecture, initial_parameters
from models.errors import LayoutError, ParameterError
from models.export import export_training_model
from models.torch_model import TorchModel
from models.training_model import TrainingModel
from protocol.manifest import ConvolutionSpec

# The script's folder is on its own import path; a test has to put it there.
sys.path.append(str(ROOT / "benchmarks"))

from training_cost_runtimes.keras_model import build_keras_model, get_flat_parameters, set_flat_parameters

pytestmark = pytest.mark.slow

torch.set_num_threads(1)


def convolution(layers: tuple[int, ...], *, samples: int, kernel: int, stride: int) -> Architecture:
    spec = ConvolutionSpec(samples=samples, kernel=kernel, stride=stride)
    return Architecture(kind="conv-autoencoder", layers=layers, convolution=spec)


SHAPES = {
    "autoencoder": AUTOENCODER,
    "linear autoencoder": Architecture(kind="dense-autoencoder", layers=(9, 9)),
    "classifier": CLASSIFIER,
    "deep classifier": Architecture(kind="dense-classifier", layers=(40, 30, 20, 30, 10)),
    "convolution": CONVOLUTION,
}
"""LiteRT graphs take seconds to build, so three are committed ones; the other runtimes are also compared on drawn shapes."""

LEARNING_RATE = 16.0
"""(w - w') / rate loses w's last bits: at 16 a gradient of 0.1 still has six good digits, and 1/16 is exact."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    output: np.ndarray
    score: np.ndarray
    loss: float
    gradient: np.ndarray


Problem = tuple[Architecture, np.ndarray, np.ndarray, np.ndarray | None]


def problem(architecture: Architecture, batch: int, seed: int) -> Problem:
    """Parameters with biases that are not zero, windows (batch, F), and one-hot labels for a classifier."""
    rng = np.random.default_rng(seed)
    flat = initial_parameters(architecture, seed) + rng.normal(0, 0.1, architecture.parameter_count)
    x = rng.normal(size=(batch, architecture.feature_count)).astype(np.float32)
    labels = None
    if architecture.is_classifier:
        labels = np.eye(architecture.output_count, dtype=np.float32)[
            rng.integers(0, architecture.output_count, batch)
        ]
    return architecture, flat.astype(np.float32), x, labels


def by_numpy(task: Problem) -> Findings:
    architecture, flat, x, labels = task
    output, score = reference_model.infer(architecture, flat, x)
    loss, gradient = reference_training.loss_and_gradient(architecture, flat, x, labels)
    return Findings(output=output, score=score, loss=loss, gradient=gradient)


@cache
def litert_model(architecture: Architecture) -> TrainingModel:
    return TrainingModel(training_model(architecture, export_training_model), architecture)


def by_litert(task: Problem) -> Findings:
    architecture, flat, x, labels = task
    model = litert_model(architecture)
    model.restore(flat)
    output, score = model.infer(x)
    loss = model.train(x, at_rate(LEARNING_RATE), labels=labels)
    gradient = (flat.astype(np.float64) - model.save()) / LEARNING_RATE
    return Findings(output=output, score=score, loss=loss, gradient=gradient)


def by_keras(task: Problem) -> Findings:
    architecture, flat, x, labels = task
    model = build_keras_model(architecture)
    set_flat_parameters(model, architecture, flat)
    with tf.GradientTape() as tape:
        output = model(x)
        if labels is None:
            loss = tf.reduce_mean(tf.keras.losses.MeanSquaredError()(x, output))
        else:
            loss = tf.keras.losses.CategoricalCrossentropy(from_logits=True)(labels, output)
    parts = tape.gradient(loss, model.trainable_weights)
    score = reference_model.scores(architecture.kind, x, output.numpy())
    gradient = np.concatenate([part.numpy().ravel() for part in parts])
    return Findings(output=output.numpy(), score=score, loss=float(loss), gradient=gradient)


def by_torch(task: Problem) -> Findings:
    architecture, flat, x, labels = task
    model = TorchModel(architecture)
    model.load_flat(flat)
    windows = torch.from_numpy(x)
    loss = model.loss(windows, None if labels is None else torch.from_numpy(labels))
    loss.backward()
    with torch.no_grad():
        output, score = model(windows).numpy(), model.scores(windows).numpy()
    return Findings(
        output=output,
        score=score,
        loss=loss.item(),
        gradient=model.flatten(p.grad for p in model.parameters()),
    )


def assert_same(found: Findings, expected: Findings) -> None:
    """Within 1e-5 of the largest value of each quantity."""
    for name in ("output", "score", "gradient"):
        value, target = getattr(found, name), getattr(expected, name)
        assert value.shape == target.shape
        np.testing.assert_allclose(value, target, rtol=0, atol=1e-5 * np.abs(target).max(), err_msg=name)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert np.abs(expected.gradient).max() > 1e-4


RUNTIMES: dict[str, Callable[[Problem], Findings]] = {
    "litert": by_litert,
    "keras": by_keras,
    "torch": by_torch,
}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("batch", [1, 32])
def test_the_same_flat_parameters_mean_the_same_model(shape, runtime, batch) -> None:
    task = problem(SHAPES[shape], batch, seed=batch)
    assert_same(RUNTIMES[runtime](task), by_numpy(task))


def trained_in_numpy(task: Problem, batches: Sequence[slice], rate: float) -> np.ndarray:
    architecture, flat, x, labels = task
    trained = flat.astype(np.float64)
    for rows in batches:
        chosen = None if labels is None else labels[rows]
        trained, _ = reference_training.train_step(architecture, trained, x[rows], rate, labels=chosen)
    return trained


def trained_in_litert(task: Problem, batches: Sequence[slice], rate: float) -> np.ndarray:
    architecture, flat, x, labels = task
    model = litert_model(architecture)
    model.restore(flat)
    for rows in batches:
        model.train(x[rows], at_rate(rate), labels=None if labels is None else labels[rows])
    return model.save()


def trained_in_keras(task: Problem, batches: Sequence[slice], rate: float) -> np.ndarray:
    architecture, flat, x, labels = task
    model = build_keras_model(architecture)
    set_flat_parameters(model, architecture, flat)
    loss = "mse" if labels is None else tf.keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=tf.keras.optimizers.SGD(rate), loss=loss)
    for rows in batches:
        model.train_on_batch(x[rows], x[rows] if labels is None else labels[rows])
    return get_flat_parameters(model, architecture)


def trained_in_torch(task: Problem, batches: Sequence[slice], rate: float) -> np.ndarray:
    architecture, flat, x, labels = task
    model = TorchModel(architecture)
    model.load_flat(flat)
    optimiser = torch.optim.SGD(model.parameters(), lr=rate)
    for rows in batches:
        optimiser.zero_grad()
        model.loss(
            torch.from_numpy(x[rows]), None if labels is None else torch.from_numpy(labels[rows])
        ).backward()
        optimiser.step()
    return model.flat()


@pytest.mark.parametrize("shape", ["autoencoder", "classifier", "convolution"])
def test_a_model_trained_on_any_runtime_is_the_same_model(shape) -> None:
    task = problem(SHAPES[shape], 64, seed=9)
    batches = [slice(at, at + 16) for at in (0, 16, 32, 48)] * 5
    expected = trained_in_numpy(task, batches, 0.2)
    moved = np.abs(expected - task[1]).max()
    assert moved > 0.05
    for train in (trained_in_litert, trained_in_keras, trained_in_torch):
        np.testing.assert_allclose(
            train(task, batches, 0.2), expected, rtol=0, atol=1e-4 * moved, err_msg=train.__name__
        )


widths = st.lists(st.integers(1, 20), max_size=3).map(tuple)
architectures = st.one_of(
    st.builds(
        lambda f, h: Architecture(kind="dense-autoencoder", layers=(f, *h, f)), st.integers(1, 20), widths
    ),
    st.builds(
        lambda f, h, c: Architecture(kind="dense-classifier", layers=(f, *h, c)),
        st.integers(1, 20),
        widths,
        st.integers(2, 6),
    ),
    st.builds(
        lambda c, h, n, taps, stride: convolution(
            (c, *h, *h[-2::-1], c), samples=n * stride ** len(h), kernel=taps * stride, stride=stride
        ),
        st.integers(1, 4),
        st.lists(st.integers(1, 5), min_size=1, max_size=2).map(tuple),
        st.integers(1, 4),
        st.sampled_from([1, 3, 5]),
        st.integers(1, 3),
    ),
)


@settings(max_examples=60, deadline=None)
@given(architecture=architectures, batch=st.integers(1, 9), seed=st.integers(0, 2**16))
def test_pytorch_in_float64_is_the_oracle_whatever_the_shape(architecture, batch, seed) -> None:
    _, flat, x, labels = problem(architecture, batch, seed)
    model = TorchModel(architecture)
    model.load_flat(flat)
    model.double()
    model.loss(
        torch.from_numpy(x).double(), None if labels is None else torch.from_numpy(labels).double()
    ).backward()
    _, gradient = reference_training.loss_and_gradient(architecture, flat, x, labels)
    np.testing.assert_allclose(
        model.flatten(p.grad for p in model.parameters()), gradient, rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_a_flat_vector_comes_back_from_each_runtime_bit_by_bit(shape) -> None:
    architecture, flat, _, _ = problem(SHAPES[shape], 1, seed=3)
    in_torch, in_keras = TorchModel(architecture), build_keras_model(architecture)
    in_torch.load_flat(flat)
    set_flat_parameters(in_keras, architecture, flat)
    litert_model(architecture).restore(flat)
    for found in (
        in_torch.flat(),
        get_flat_parameters(in_keras, architecture),
        litert_model(architecture).save(),
    ):
        assert found.dtype == np.float32
        assert np.array_equal(found, flat)


def test_a_vector_that_does_not_fit_changes_nothing() -> None:
    architecture, flat, _, _ = problem(SHAPES["classifier"], 1, seed=3)
    in_torch, in_keras = TorchModel(architecture), build_keras_model(architecture)
    in_torch.load_flat(flat)
    set_flat_parameters(in_keras, architecture, flat)
    spoilt = flat.copy()
    spoilt[-1] = np.nan
    for bad, error in ((flat[:-1], LayoutError), (spoilt, ParameterError)):
        with pytest.raises(error):
            in_torch.load_flat(bad)
        with pytest.raises(error):
            set_flat_parameters(in_keras, architecture, bad)
    assert np.array_equal(in_torch.flat(), flat)
    assert np.array_equal(get_flat_parameters(in_keras, architecture), flat)


def test_weights_of_another_architecture_are_not_read_as_ours() -> None:
    with pytest.raises(LayoutError, match="needs arrays"):
        get_flat_parameters(build_keras_model(SHAPES["classifier"]), SHAPES["autoencoder"])


@pytest.mark.filterwarnings("error")
def test_pytorch_takes_the_vector_of_a_bundle_which_may_not_be_written_to() -> None:
    architecture, flat, _, _ = problem(SHAPES["convolution"], 1, seed=3)
    flat.setflags(write=False)
    model = TorchModel(architecture)
    model.load_flat(flat)
    assert np.array_equal(model.flat(), flat)


def test_training_in_pytorch_leaves_the_vector_it_was_given_alone() -> None:
    architecture, flat, x, _ = problem(SHAPES["autoencoder"], 8, seed=1)
    kept, model = flat.copy(), TorchModel(architecture)
    model.load_flat(flat)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model.loss(torch.from_numpy(x)).backward()
    optimiser.step()
    assert np.array_equal(flat, kept)
    assert not np.array_equal(model.flat(), kept)


@pytest.mark.parametrize("labels", [None, torch.ones(4, 2)])
def test_a_classifier_in_pytorch_does_not_train_without_its_labels(labels) -> None:
    model = TorchModel(SHAPES["classifier"])
    with pytest.raises(LayoutError, match=r"one-hot labels of shape \(4, 3\)"):
        model.loss(torch.zeros(4, 5), labels)
