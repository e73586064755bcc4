"""The optimizers inside the training graph against their float64 twins."""

from __future__ import annotations

import numpy as np
import pytest
from model_samples import ARCHITECTURES, AUTOENCODER, at_rate, labels, parameters, training_bytes, windows
from optimizer_oracle import OracleOptimizer

from models.errors import LayoutError, ParameterError, TrainingSettingsError
from models.local_training import fit
from models.training_model import TrainingModel

pytestmark = pytest.mark.edge

both = pytest.mark.parametrize("name", ARCHITECTURES)

SETTINGS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "adam": {"optimizer": "adam"},
    "clipped": {"gradient_clip": 0.1},
    "proximal": {"proximal": 0.7},
    "momentum with all": {"momentum": 0.8, "gradient_clip": 0.2, "proximal": 0.3},
    "adam with all": {"optimizer": "adam", "gradient_clip": 0.2, "proximal": 0.3},
}
LEARNING_RATE = {"sgd": 0.1, "adam": 0.01}


def model_of(name: str) -> TrainingModel:
    return TrainingModel(training_bytes(name), ARCHITECTURES[name])


def correction(name: str) -> np.ndarray:
    size = ARCHITECTURES[name].parameter_count
    return np.random.default_rng(8).normal(0, 0.05, size).astype(np.float32)


def relative_error(found: np.ndarray, expected: np.ndarray, start: np.ndarray) -> float:
    """Distance over the length of the way that training went."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected - start))


@both
@pytest.mark.parametrize("corrected", [False, True], ids=["uncorrected", "corrected"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_twenty_steps_equal_the_oracles(name, setting, corrected) -> None:
    settings, model, start = SETTINGS[setting], model_of(name), parameters(name)
    added = correction(name) if corrected else None
    model.restore(start, correction=added)
    oracle = OracleOptimizer(ARCHITECTURES[name], start, correction=added)
    rate = LEARNING_RATE[settings.get("optimizer", "sgd")]
    for step in range(20):
        x, y = windows(name, 16, seed=step), labels(name, 16, seed=step)
        loss = model.train(x, at_rate(rate, **settings), labels=y)
        assert loss == pytest.approx(oracle.step(x, rate, labels=y, **settings), rel=1e-4)
    assert relative_error(model.save(), oracle.parameters, start) < 1e-5


@pytest.mark.parametrize("settings", [{"momentum": 0.9}, {"optimizer": "adam"}])
def test_restore_makes_the_optimizer_forget(settings) -> None:
    model, x = model_of("autoencoder"), windows("autoencoder", 16)
    model.restore(parameters("autoencoder"))
    model.train(x, at_rate(0.01, **settings))
    first = model.save()
    for _ in range(3):
        model.train(x, at_rate(0.01, **settings))
    model.restore(parameters("autoencoder"))
    model.train(x, at_rate(0.01, **settings))
    assert np.array_equal(model.save(), first)


def test_a_clip_that_no_gradient_reaches_changes_nothing() -> None:
    model, x = model_of("autoencoder"), windows("autoencoder", 16)
    ends = []
    for clip in (None, 1e6):
        model.restore(parameters("autoencoder"))
        for _ in range(5):
            model.train(x, at_rate(0.1, momentum=0.5, gradient_clip=clip))
        ends.append(model.save())
    assert np.array_equal(*ends)


def test_a_clipped_step_is_as_long_as_the_clip() -> None:
    model, start = model_of("autoencoder"), parameters("autoencoder")
    model.restore(start)
    model.train(windows("autoencoder", 16), at_rate(1.0, gradient_clip=0.01))
    assert np.linalg.norm(model.save() - start) == pytest.approx(0.01, rel=1e-3)


def test_a_correction_is_added_after_clipping() -> None:
    model, start, added = model_of("autoencoder"), parameters("autoencoder"), correction("autoencoder")
    model.restore(start, correction=added)
    model.train(windows("autoencoder", 16), at_rate(1.0, gradient_clip=1e-6))
    np.testing.assert_allclose(start - model.save(), added, atol=3e-6)


@both
@pytest.mark.parametrize("settings", [{"momentum": 0.9}, {"optimizer": "adam"}, {"proximal": 0.5}])
def test_steps_along_a_given_gradient_equal_the_oracles(name, settings) -> None:
    model, start = model_of(name), parameters(name)
    model.restore(start)
    oracle = OracleOptimizer(ARCHITECTURES[name], start)
    settings = dict(settings)
    proximal = settings.pop("proximal", 0.0)
    for step in range(10):
        gradient = np.random.default_rng(step).normal(size=len(start))
        model.step(gradient, at_rate(0.02, proximal=proximal, **settings))
        pulled = gradient + proximal * (oracle.parameters - oracle.anchor)
        oracle.follow(pulled, 0.02, **settings)
    assert relative_error(model.save(), oracle.parameters, start) < 1e-5


@both
def test_signatures_in_turns_on_batches_of_changing_size_do_not_spoil_each_other(name) -> None:
    # tflite-runtime 2.14 through XNNPACK corrupts the heap here.
    model, oracle = model_of(name), OracleOptimizer(ARCHITECTURES[name], parameters(name))
    model.restore(parameters(name))
    sizes = np.random.default_rng(4).integers(1, 300, 120)
    for step, size in enumerate(int(size) for size in sizes):
        x, y = windows(name, size, seed=step), labels(name, size, seed=step)
        model.train(x, at_rate(0.01), labels=y)
        oracle.step(x, 0.01, labels=y)
        total, _ = model.clipped_sum(x, 1e9, labels=y)
        model.step(total / size, at_rate(0.01))
        oracle.step(x, 0.01, labels=y)
        model.infer(x)
    assert relative_error(model.save(), oracle.parameters, parameters(name)) < 1e-4


@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan")])
def test_gradients_are_clipped_to_a_positive_norm_only(clip) -> None:
    model = model_of("autoencoder")
    model.restore(parameters("autoencoder"))
    with pytest.raises(TrainingSettingsError, match=f"positive norm, got {clip}"):
        model.clipped_sum(windows("autoencoder", 4), clip)


def test_one_training_has_one_optimizer() -> None:
    model, x = model_of("autoencoder"), windows("autoencoder", 4)
    model.restore(parameters("autoencoder"))
    model.train(x, at_rate(0.1, momentum=0.9))
    with pytest.raises(TrainingSettingsError, match=r"began with 'sgd'.*restore first"):
        model.train(x, at_rate(0.1, optimizer="adam"))
    model.restore(parameters("autoencoder"))
    model.train(x, at_rate(0.1, optimizer="adam"))


def test_gradients_and_corrections_that_do_not_fit_are_refused() -> None:
    model = model_of("autoencoder")
    with pytest.raises(LayoutError, match="has shape"):
        model.restore(parameters("autoencoder"), correction=np.zeros(3))
    with pytest.raises(ParameterError, match="not finite"):
        model.restore(parameters("autoencoder"), correction=np.full(AUTOENCODER.parameter_count, np.inf))
    model.restore(parameters("autoencoder"))
    with pytest.raises(LayoutError, match="has shape"):
        model.step(np.zeros(3), at_rate(0.1))
    with pytest.raises(ParameterError, match="not finite"):
        model.step(np.full(AUTOENCODER.parameter_count, np.nan), at_rate(0.1))


@pytest.mark.parametrize("settings", [{"momentum": 0.9}, {"optimizer": "adam"}, {"gradient_clip": 0.1}])
def test_a_fit_hands_its_settings_to_every_step(settings) -> None:
    start, x, added = parameters("autoencoder"), windows("autoencoder", 40), correction("autoencoder")
    found = fit(
        model_of("autoencoder"),
        start,
        x,
        at_rate(0.02, epochs=2, batch_size=16, proximal=0.1, **settings),
        rng=np.random.default_rng(3),
        correction=added,
    )
    oracle, rng = OracleOptimizer(AUTOENCODER, start, correction=added), np.random.default_rng(3)
    for _ in range(2):
        order = rng.permutation(40)
        for at in range(0, 40, 16):
            oracle.step(x[order[at : at + 16]], 0.02, proximal=0.1, **settings)
    assert found.steps == 6
    assert relative_error(found.parameters, oracle.parameters, start) < 1e-5
