"""The int8 graph of a convolutional autoencoder: how close to float at several shapes, and always the same bytes."""

from __future__ import annotations

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from models import reference_model
from models.architecture import Architecture, initial_parameters
from models.errors import InputError, RangeError
from models.export import export_int8_model
from models.export.int8_graph import export_float_model
from models.int8_model import Int8Model
from models.litert import load_model
from protocol.manifest import ConvolutionSpec

pytestmark = pytest.mark.slow


def convolution(layers: tuple[int, ...], *, samples: int, kernel: int, stride: int) -> Architecture:
    spec = ConvolutionSpec(samples=samples, kernel=kernel, stride=stride)
    return Architecture(kind="conv-autoencoder", layers=layers, convolution=spec)


SHAPES = {
    "pump": convolution((8, 32, 16, 32, 8), samples=60, kernel=6, stride=2),
    "vibration": convolution((2, 16, 8, 4, 8, 16, 2), samples=512, kernel=12, stride=4),
    "patches": convolution((3, 8, 3), samples=20, kernel=5, stride=5),
    "unstrided": convolution((2, 4, 2), samples=7, kernel=3, stride=1),
}
every_shape = pytest.mark.parametrize("shape", SHAPES)


def model_of(shape: str) -> tuple[Architecture, np.ndarray]:
    rng = np.random.default_rng(3)
    flat = initial_parameters(SHAPES[shape], 1) + rng.normal(0, 0.05, SHAPES[shape].parameter_count)
    return SHAPES[shape], flat.astype(np.float32)


def windows(architecture: Architecture, count: int, seed: int = 7) -> np.ndarray:
    """Waves of a period that differs from window to window, in noise: what a convolution is for."""
    spec = architecture.convolution
    assert spec is not None
    rng = np.random.default_rng(seed)
    time = np.arange(spec.samples)[None, :, None]
    period, phase = rng.uniform(4, 20, (count, 1, 1)), rng.uniform(0, 6, (count, 1, architecture.layers[0]))
    rows = np.sin(2 * np.pi * time / period + phase) + 0.3 * rng.normal(size=(count, spec.samples, 1))
    return rows.reshape(count, -1).astype(np.float32)


@every_shape
def test_the_float_graph_equals_the_oracle(shape) -> None:
    architecture, flat = model_of(shape)
    model = load_model(export_float_model(architecture, flat), "float model")
    x = windows(architecture, 20)
    output = np.concatenate([model.call("infer", input=row[None])["output"] for row in x])
    np.testing.assert_allclose(output, reference_model.infer(architecture, flat, x)[0], atol=1e-5)


@every_shape
@pytest.mark.parametrize(("weight_scales", "largest"), [("per-channel", 1.5e-3), ("per-tensor", 2e-3)])
def test_int8_outputs_and_scores_follow_float(shape, weight_scales, largest) -> None:
    architecture, flat = model_of(shape)
    x = windows(architecture, 200)
    low, high = reference_model.ranges(architecture, flat, windows(architecture, 400, seed=8))
    content = export_int8_model(architecture, flat, low, high, weight_scales=weight_scales)
    model = Int8Model(content, "conv-autoencoder")
    judged = [model.infer_and_score(row) for row in x]
    output, score = (np.array(values) for values in zip(*judged, strict=True))
    expected_output, expected_score = reference_model.infer(architecture, flat, x)
    assert np.mean((output - expected_output) ** 2) < largest * np.var(expected_output)
    assert np.abs(score - expected_score).max() < 0.02 * expected_score.max()


def test_the_same_arguments_give_the_same_bytes() -> None:
    architecture, flat = model_of("pump")
    ranges = reference_model.ranges(architecture, flat, windows(architecture, 50))
    assert export_int8_model(architecture, flat, *ranges) == export_int8_model(architecture, flat, *ranges)


def test_a_reshaped_row_has_the_scale_of_what_it_reshapes() -> None:
    architecture, flat = model_of("pump")
    content = export_int8_model(
        architecture, flat, *reference_model.ranges(architecture, flat, windows(architecture, 50))
    )
    tensors = schema.ModelT.InitFromPackedBuf(content, 0).subgraphs[0].tensors
    scales = {tensor.name.decode(): tensor.quantization.scale for tensor in tensors if tensor.quantization}
    for name in ("input", "relu_2", "output"):
        assert scales[f"{name}_row"].tolist() == scales[name].tolist()


def test_ranges_of_a_dense_model_and_windows_of_another_width_are_refused() -> None:
    architecture, flat = model_of("patches")
    with pytest.raises(RangeError, match="has 4 activation tensors"):
        export_int8_model(architecture, flat, np.zeros(8), np.ones(8))
    low, high = reference_model.ranges(architecture, flat, windows(architecture, 50))
    model = Int8Model(export_int8_model(architecture, flat, low, high), "conv-autoencoder")
    with pytest.raises(InputError, match=r"one window of shape \(60,\), got \(20, 3\)"):
        model.infer(np.zeros((20, 3), np.float32))
