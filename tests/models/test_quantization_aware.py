"""Gradients at the weights that int8 will have, steps on the float shadow; and the rounding that both sides foresee."""

from __future__ import annotations

import numpy as np
import pytest
from model_samples import ARCHITECTURES, int8_bytes, labels, parameters, training_bytes, windows

from models import reference_model
from models.architecture import split_parameters
from models.errors import LayoutError, TrainingSettingsError
from models.litert import Interpreter
from models.local_training import fit
from models.quantization_aware import QuantizationAwareModel
from models.training_model import TrainingModel
from models.weight_rounding import round_parameters, round_weight

pytestmark = pytest.mark.edge
dense = pytest.mark.parametrize("name", ["autoencoder", "classifier"])


def model(name: str) -> TrainingModel:
    return TrainingModel(training_bytes(name), ARCHITECTURES[name])


def aware(name: str) -> QuantizationAwareModel:
    return QuantizationAwareModel(model(name), model(name))


def rounded(name: str, flat: np.ndarray) -> np.ndarray:
    return round_parameters(ARCHITECTURES[name], flat, "per-channel")


@dense
def test_a_step_moves_the_shadow_by_the_gradient_at_the_rounded_weights(name: str) -> None:
    flat, x, y = parameters(name), windows(name, 16), labels(name, 16)
    ours = aware(name)
    ours.restore(flat)
    loss = ours.train(x, 0.3, labels=y)
    expected_loss, gradient = reference_model.loss_and_gradient(
        ARCHITECTURES[name], rounded(name, flat), x, y
    )
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    np.testing.assert_allclose(ours.save(), flat - 0.3 * gradient, atol=1e-6)


@dense
def test_momentum_adam_clip_and_proximal_pull_are_those_of_float_training(name: str) -> None:
    """At parameters that rounding leaves alone, both kinds of training are one for the first step, with every setting."""
    flat, x, y = rounded(name, parameters(name)), windows(name, 16), labels(name, 16)
    anchor = flat + np.float32(0.1)
    for settings in (
        {"optimizer": "adam"},
        {"momentum": 0.9},
        {"gradient_clip": 0.05},
        {"proximal": 0.5, "gradient_clip": 0.3},
    ):
        ours, plain = aware(name), model(name)
        for one in (ours, plain):
            one.restore(flat, anchor)
            one.train(x, 0.1, labels=y, **settings)
        np.testing.assert_allclose(ours.save(), plain.save(), atol=2e-6, err_msg=str(settings))


def test_a_second_step_knows_the_first_ones_velocity() -> None:
    flat, x = parameters("autoencoder"), windows("autoencoder", 16)
    moved = []
    for momentum in (0.0, 0.9):
        ours = aware("autoencoder")
        ours.restore(flat)
        for _ in range(2):
            ours.train(x, 0.1, momentum=momentum)
        moved.append(np.linalg.norm(ours.save() - flat))
    assert moved[1] > 1.3 * moved[0]


def test_scores_and_ranges_are_those_of_the_rounded_weights() -> None:
    flat, x = parameters("autoencoder"), windows("autoencoder", 30)
    ours, plain = aware("autoencoder"), model("autoencoder")
    ours.restore(flat)
    plain.restore(rounded("autoencoder", flat))
    np.testing.assert_array_equal(ours.infer(x)[1], plain.infer(x)[1])
    np.testing.assert_array_equal(ours.ranges(x)[1], plain.ranges(x)[1])


def test_it_learns_where_a_device_learns() -> None:
    x = windows("autoencoder", 128)
    result = fit(
        aware("autoencoder"),
        parameters("autoencoder"),
        x,
        epochs=20,
        batch_size=16,
        learning_rate=0.1,
        proximal=0.0,
        rng=np.random.default_rng(0),
    )
    assert result.loss_after < 0.9 * result.loss_before
    after = rounded("autoencoder", result.parameters)
    honest = reference_model.infer(ARCHITECTURES["autoencoder"], after, x)[1].mean()
    assert result.loss_after == pytest.approx(honest, rel=1e-4)


def test_two_models_of_one_architecture_are_needed() -> None:
    one = model("autoencoder")
    for other in (one, model("classifier")):
        with pytest.raises(TrainingSettingsError, match="two models of one architecture"):
            QuantizationAwareModel(one, other)


def test_errors_of_the_model_beneath_come_through() -> None:
    with pytest.raises(LayoutError):
        aware("autoencoder").train(windows("autoencoder", 4), 0.1)
    ours = aware("autoencoder")
    ours.restore(parameters("autoencoder"))
    with pytest.raises(TrainingSettingsError, match="momentum"):
        ours.train(windows("autoencoder", 4), 0.1, momentum=1.0)


@dense
def test_rounding_is_exactly_the_quantizers(name: str) -> None:
    """The integers in the exported model, times their scales, are what rounding foresees."""
    interpreter = Interpreter(model_content=int8_bytes(name), num_threads=1)
    interpreter.allocate_tensors()
    found = {detail["name"]: detail for detail in interpreter.get_tensor_details()}
    parts = split_parameters(ARCHITECTURES[name], rounded(name, parameters(name)))[::2]
    for i, part in enumerate(parts):
        detail = found[f"weight_{i}"]
        scales = detail["quantization_parameters"]["scales"]
        integers = interpreter.get_tensor(detail["index"]).astype(np.float64)
        np.testing.assert_allclose((integers * scales[:, None]).T, part, atol=1e-6)


def test_rounding_knows_127_steps_and_leaves_zeros_alone() -> None:
    weight = np.array([[0.0, 2.54], [0.0, -1.0], [0.0, 0.009]])
    per_channel = round_weight(weight, channel_axis=1)
    np.testing.assert_allclose(per_channel, [[0.0, 2.54], [0.0, -1.0], [0.0, 0.0]], atol=1e-12)
    wide = np.array([[0.01, 2.54]])
    assert round_weight(wide, channel_axis=None)[0, 0] == 0.02 * round(0.01 / 0.02)
    assert round_weight(wide, channel_axis=1)[0, 0] == pytest.approx(0.01)
