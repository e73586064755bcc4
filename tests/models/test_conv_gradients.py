"""The derivatives of a convolutional layer, in TensorFlow's float64, against the oracle's."""

from __future__ import annotations

import numpy as np
import pytest
import reference_training
import tensorflow as tf
import torch
from model_samples import CONVOLUTION, parameters, training_bytes, windows
from opacus import GradSampleModule

from models import reference_model
from models.convolution import Layer
from models.export.conv_gradients import ConvolutionGradients
from models.torch_model import TorchModel
from models.training_model import TrainingModel

pytestmark = pytest.mark.slow

LAYERS = {
    "many positions, few weights": Layer(positions=12, taps=3, inputs=2, outputs=3),
    "many positions, few weights, a narrow output": Layer(positions=12, taps=3, inputs=3, outputs=2),
    "few positions, many weights": Layer(positions=3, taps=3, inputs=8, outputs=5),
    "one tap": Layer(positions=4, taps=1, inputs=3, outputs=2),
    "five taps": Layer(positions=6, taps=5, inputs=2, outputs=2),
    "taps beyond both ends": Layer(positions=1, taps=5, inputs=3, outputs=2),
    "two positions": Layer(positions=2, taps=5, inputs=3, outputs=2),
    "two positions, a wide output": Layer(positions=2, taps=5, inputs=2, outputs=3),
}
BATCH = 4


def drawn(layer: Layer) -> tuple[np.ndarray, ...]:
    """x, W, b and the derivative by the sums."""
    rng = np.random.default_rng(1)
    shapes = (
        (BATCH, layer.positions * layer.inputs),
        layer.matrix_shape,
        (1, layer.outputs),
        (BATCH, layer.positions * layer.outputs),
    )
    return tuple(rng.normal(size=shape) for shape in shapes)


every_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)


@every_layer
def test_output_and_derivatives_equal_the_oracles(layer) -> None:
    x, weight, bias, delta = drawn(layer)
    ours = ConvolutionGradients(layer)
    parameters_of = [tf.constant(weight), tf.constant(bias)]
    (by_weight, by_bias), by_x = reference_training.backward(layer, x, weight, delta)
    np.testing.assert_allclose(
        ours.forward(tf.constant(x), parameters_of),
        reference_model._forward(layer, x, weight, bias[0]),
        atol=1e-12,
    )
    np.testing.assert_allclose(ours.input_gradient(parameters_of, tf.constant(delta)), by_x, atol=1e-12)
    found = ours.parameter_gradients(tf.constant(x), tf.constant(delta))
    assert [tuple(part.shape) for part in found] == list(ours.shapes)
    np.testing.assert_allclose(found[0].numpy().ravel(), by_weight, atol=1e-12)
    np.testing.assert_allclose(found[1].numpy().ravel(), by_bias, atol=1e-12)


@every_layer
def test_the_norm_of_one_examples_gradient_is_that_of_the_gradient_of_that_example(layer) -> None:
    x, weight, _, delta = drawn(layer)
    found = ConvolutionGradients(layer).squared_norms(tf.constant(x), tf.constant(delta)).numpy()
    expected = []
    for i in range(BATCH):
        parts, _ = reference_training.backward(layer, x[i : i + 1], weight, delta[i : i + 1])
        expected.append(sum(np.sum(part**2) for part in parts))
    assert found.shape == (BATCH, 1)
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-12)


def test_every_form_of_a_layer_and_of_its_norm_is_among_those_tested() -> None:
    forms = {
        (layer.inputs <= layer.outputs, layer.positions**2 < layer.matrix_shape[0] * layer.outputs)
        for layer in LAYERS.values()
    }
    assert len(forms) == 4


def test_clipped_sums_equal_opacus_on_the_same_batch() -> None:
    x, clip = windows("convolution", 16), 0.5
    module = TorchModel(CONVOLUTION)
    module.load_flat(parameters("convolution"))
    observed = GradSampleModule(module, loss_reduction="sum")
    rows = torch.from_numpy(x)
    torch.mean((observed(rows) - rows) ** 2, dim=-1).sum().backward()
    single = [parameter.grad_sample for parameter in module.parameters()]
    norms = torch.stack([part.flatten(1).norm(dim=1) for part in single]).norm(dim=0)
    factor = (clip / norms).clamp(max=1.0)
    expected = module.flatten(torch.einsum("b,b...->...", factor, part) for part in single)
    assert 0 < int((factor < 1).sum()) < len(x)

    model = TrainingModel(training_bytes("convolution"), CONVOLUTION)
    model.restore(parameters("convolution"))
    total, _ = model.clipped_sum(x, clip)
    np.testing.assert_allclose(total, expected, atol=1e-5 * np.abs(expected).max())
