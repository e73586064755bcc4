"""The PyTorch learner: the laws of the port it shares with the LiteRT one, and the same training within float32."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from answerers import anchor
from model_samples import ARCHITECTURES, AUTOENCODER, at_rate, labels, parameters, training_bytes, windows

from edge_agent.learner.local_learner import LocalLearner
from models.errors import LayoutError, ParameterError, RuntimeMissingError, TrainingSettingsError
from models.learning_runtimes import open_learning_model
from models.local_training import assess, fit
from models.private_training import fit_privately
from models.torch_training import TorchTrainingModel
from models.training_model import TrainingModel
from protocol.questions import FitQuestion
from protocol.training import ExamplePrivacy

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("error::UserWarning")]
both = pytest.mark.parametrize("name", ARCHITECTURES)
SETTINGS = [
    {},
    {"momentum": 0.9},
    {"optimizer": "adam"},
    {"proximal": 0.7, "gradient_clip": 0.2, "momentum": 0.5},
    {"proximal": 0.3, "gradient_clip": 0.2, "optimizer": "adam"},
]


def pair(name: str) -> tuple[TorchTrainingModel, TrainingModel]:
    models = (
        TorchTrainingModel(ARCHITECTURES[name]),
        TrainingModel(training_bytes(name), ARCHITECTURES[name]),
    )
    for model in models:
        model.restore(parameters(name))
    return models


def assert_same_way(name: str, found: np.ndarray, expected: np.ndarray) -> None:
    way = np.linalg.norm(expected - parameters(name))
    assert way > 1e-3
    assert np.linalg.norm(found - expected) < 2e-5 * way


@both
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_fit_ends_where_the_litert_learners_does(name, settings) -> None:
    ends = [
        fit(
            model,
            parameters(name),
            windows(name, 70),
            at_rate(0.01, batch_size=16, **settings),
            rng=np.random.default_rng(1),
            labels=labels(name, 70),
            correction=np.full(len(parameters(name)), 0.01),
        )
        for model in pair(name)
    ]
    assert_same_way(name, ends[0].parameters, ends[1].parameters)
    assert ends[0].loss_after == pytest.approx(ends[1].loss_after, rel=1e-4)


@both
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_private_training_under_the_same_bytes_ends_where_the_litert_learners_does(name, optimizer) -> None:
    # A rounded sum may fall on the next lattice point: 1/16384 of the noise, and Adam divides by small numbers.
    tolerance = {"sgd": 1e-4, "adam": 1e-3}[optimizer]
    privacy = ExamplePrivacy(clip_norm=0.5, noise_multiplier=0.5, sampling_rate=0.3, steps=10)
    ends = [
        fit_privately(
            model,
            parameters(name),
            windows(name, 70),
            at_rate(0.02, optimizer=optimizer, example_privacy=privacy),
            random_bytes=np.random.default_rng(1).bytes,
            labels=labels(name, 70),
        )
        for model in pair(name)
    ]
    way = np.linalg.norm(ends[1].parameters - parameters(name))
    assert np.linalg.norm(ends[0].parameters - ends[1].parameters) < tolerance * way


@both
def test_a_clipped_sum_is_that_of_the_litert_graph_and_changes_nothing(name) -> None:
    (ours, loss), (expected, expected_loss) = (
        model.clipped_sum(windows(name, 33), 0.3, labels=labels(name, 33)) for model in pair(name)
    )
    assert np.linalg.norm(ours - expected) < 1e-5 * np.linalg.norm(expected)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    model, x = pair(name)[0], windows(name, 33)
    before = x.copy()
    model.clipped_sum(x, 0.3, labels=labels(name, 33))
    assert np.array_equal(model.save(), parameters(name))
    assert np.array_equal(x, before)


@both
def test_a_clipped_sum_follows_the_parameters(name) -> None:
    model, x, y = pair(name)[0], windows(name, 8), labels(name, 8)
    first, _ = model.clipped_sum(x, 0.3, labels=y)
    model.train(x, at_rate(0.5), labels=y)
    second, _ = model.clipped_sum(x, 0.3, labels=y)
    again, _ = model.clipped_sum(x, 0.3, labels=y)
    assert not np.allclose(first, second)
    assert np.array_equal(second, again)


@both
def test_outputs_scores_and_ranges_are_those_of_the_litert_graph(name) -> None:
    torch_model, litert = pair(name)
    x = windows(name, 33)
    for found, expected in zip(
        (*torch_model.infer(x), *torch_model.ranges(x)), (*litert.infer(x), *litert.ranges(x)), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_an_assessment_of_a_round_can_be_answered() -> None:
    model, x = pair("autoencoder")[0], windows("autoencoder", 50)
    parts = assess(model, parameters("autoencoder"), parameters("autoencoder"), x, quantile=0.999)
    assert parts["candidate_scores"].sum() == 50


def test_what_the_litert_learner_refuses_is_refused_here() -> None:
    model, x = TorchTrainingModel(AUTOENCODER), windows("autoencoder", 4)
    with pytest.raises(LayoutError, match="restore parameters first"):
        model.train(x, at_rate(0.1))
    model.restore(parameters("autoencoder"))
    with pytest.raises(LayoutError, match="a batch has shape"):
        model.train(x[:, :3], at_rate(0.1))
    with pytest.raises(LayoutError, match="has shape"):
        model.restore(np.zeros(3))
    with pytest.raises(ParameterError, match="not finite"):
        model.step(np.full(AUTOENCODER.parameter_count, np.nan), at_rate(0.1))
    with pytest.raises(TrainingSettingsError, match="positive norm"):
        model.clipped_sum(x, 0.0)
    model.train(x, at_rate(0.1))
    with pytest.raises(TrainingSettingsError, match="began with 'sgd'"):
        model.train(x, at_rate(0.1, optimizer="adam"))
    classifier = pair("classifier")[0]
    with pytest.raises(LayoutError, match="one-hot labels of shape"):
        classifier.train(windows("classifier", 3), at_rate(0.1))


def clip_once() -> None:
    model = TorchTrainingModel(AUTOENCODER)
    model.restore(parameters("autoencoder"))
    model.clipped_sum(windows("autoencoder", 2), 1.0)


@pytest.mark.parametrize(
    ("missing", "call", "words"),
    [
        ("torch", lambda: TorchTrainingModel(AUTOENCODER), "training with PyTorch needs it"),
        ("opacus.grad_sample", clip_once, "private training with PyTorch needs Opacus"),
    ],
)
def test_a_missing_library_is_named_with_the_extra_that_brings_it(monkeypatch, missing, call, words) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(RuntimeMissingError, match=rf"{words}: pip install 'fedge\[torch\]'"):
        call()


def test_importing_the_learner_loads_no_pytorch() -> None:
    code = "import sys, models.torch_training; print(sorted({'torch', 'opacus', 'scipy'} & set(sys.modules)))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"


def test_the_runtime_of_a_learner_is_chosen_by_name_and_answers_a_round_alike() -> None:
    profile = at_rate(0.02, batch_size=16, optimizer="adam", proximal=0.1).settled()
    question = FitQuestion(
        run_id="r",
        round_number=1,
        layout_sha256=AUTOENCODER.layout_sha256,
        profile_sha256=profile.sha256,
    )
    start = parameters("autoencoder")
    answers = []
    for runtime in ("torch", "litert"):
        model = open_learning_model(training_bytes("autoencoder"), AUTOENCODER, runtime)
        learner = LocalLearner(
            model,
            windows("autoencoder", 60),
            anchor=anchor(AUTOENCODER.layout_sha256, start, profile),
            champion=start,
            maximum_examples=60,
            random_bytes=bytes,
        )
        answers.append(learner.answer(question, {"parameters": start}))
    np.testing.assert_allclose(answers[0], answers[1], atol=2e-5 * np.abs(answers[1]).max())
