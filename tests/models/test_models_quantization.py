"""Int8 from ranges alone: per tensor and per channel, with biases corrected; any graph of the writer, any bad range said."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from models import reference_model
from models.architecture import Architecture, initial_parameters, split_parameters
from models.errors import ExportError, RangeError
from models.export.bias_correction import correct_biases
from models.export.flatbuffer import make
from models.export.graph_writer import GraphWriter
from models.export.int8_graph import export_float_model, export_int8_model
from models.export.post_training import quantise_graph
from models.int8_model import Int8Model

pytestmark = pytest.mark.slow

ARCHITECTURE = Architecture(kind="dense-autoencoder", layers=(16, 24, 6, 24, 16))


def uneven_parameters() -> np.ndarray:
    """Units of very different size that matter alike: what one scale for all of a layer serves badly."""
    flat = initial_parameters(ARCHITECTURE, 1)
    weights = split_parameters(ARCHITECTURE, flat)[::2]
    for before, after in pairwise(weights):
        size = np.geomspace(0.1, 1.0, before.shape[1])
        np.multiply(before, size, out=before)
        np.divide(after, size[:, None], out=after)
    return flat


def inputs(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(0.6, 1.0, size=(count, 16))


def error(flat: np.ndarray, **settings) -> float:
    """Relative squared error on fresh windows; ranges come from other ones."""
    x = inputs(400, seed=9)
    low, high = reference_model.ranges(ARCHITECTURE, flat, inputs(4000))
    model = Int8Model(export_int8_model(ARCHITECTURE, flat, low, high, **settings))
    got = np.array([model.infer(row) for row in x.astype(np.float32)])
    expected = reference_model.infer(ARCHITECTURE, flat, x)[0]
    return float(np.mean((got - expected) ** 2) / np.mean(expected**2))


def test_a_scale_for_each_output_loses_less_than_one_for_all() -> None:
    flat = uneven_parameters()
    assert error(flat, weight_scales="per-channel") < 0.6 * error(flat, weight_scales="per-tensor")


def test_typical_windows_win_back_what_rounded_weights_shift() -> None:
    flat = uneven_parameters()
    plain, corrected = (
        error(flat, weight_scales="per-tensor", probes=probes) for probes in (None, inputs(512, seed=5))
    )
    assert corrected < 0.8 * plain


def test_correction_makes_the_mean_output_that_of_the_float_model() -> None:
    flat, probes = uneven_parameters(), inputs(512, seed=5)
    content = export_float_model(ARCHITECTURE, flat)
    ranges = {
        name: (float(low), float(high))
        for name, low, high in zip(
            ARCHITECTURE.tensor_names,
            *reference_model.ranges(ARCHITECTURE, flat, inputs(4000)),
            strict=True,
        )
    }
    expected = reference_model.infer(ARCHITECTURE, flat, probes)[0].mean(axis=0)
    shifts = []
    for graph in (content, correct_biases(content, probes, weight_scales="per-tensor")):
        model = Int8Model(quantise_graph(graph, ranges, weight_scales="per-tensor"))
        mean = np.mean([model.infer(row) for row in probes.astype(np.float32)], axis=0)
        shifts.append(float(np.abs(mean - expected).mean()))
    assert shifts[1] < 0.4 * shifts[0]


def test_the_float_graph_is_corrected_in_its_biases_alone() -> None:
    content = export_float_model(ARCHITECTURE, uneven_parameters())
    corrected = correct_biases(content, inputs(64), weight_scales="per-channel")
    tensors = [tensors_of(content), tensors_of(corrected)]
    for name, before in tensors[0].items():
        is_changed = not np.array_equal(before, tensors[1][name])
        assert is_changed == name.startswith("bias"), name


def tensors_of(content: bytes) -> dict[str, np.ndarray]:
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    return {
        tensor.name.decode(): np.frombuffer(bytes(model.buffers[tensor.buffer].data), "<f4")
        for tensor in model.subgraphs[0].tensors
        if model.buffers[tensor.buffer].data is not None
    }


def convolution() -> tuple[bytes, np.ndarray]:
    """One strided CONV_2D with ReLU and a RESHAPE: (1, 16, 1, 2) → (1, 24)."""
    rng = np.random.default_rng(0)
    graph = GraphWriter()
    x = graph.add_tensor("input", (1, 16, 1, 2))
    kernel = graph.add_tensor("kernel", (3, 4, 1, 2), rng.normal(0.3, 1, size=(3, 4, 1, 2)))
    bias = graph.add_tensor("bias", (3,), rng.normal(size=3))
    y = graph.add_tensor("relu", (1, 8, 1, 3))
    options = make(
        "Conv2DOptionsT",
        strideH=2,
        strideW=1,
        dilationHFactor=1,
        dilationWFactor=1,
        fusedActivationFunction=graph.activation(has_relu=True),
    )
    graph.add_operation("CONV_2D", [x, kernel, bias], [y], options=options)
    shape = graph.add_tensor("shape", (2,), np.array([1, 24]))
    out = graph.add_tensor("output", (1, 24))
    graph.add_operation("RESHAPE", [y, shape], [out], options=make("ReshapeOptionsT", newShape=[1, 24]))
    return graph.pack(x, out, "convolution"), rng.normal(size=(200, 16, 1, 2))


def run(content: bytes, x: np.ndarray) -> np.ndarray:
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    rows = []
    for row in x:
        value = row[None].astype(np.float32)
        if source["dtype"] is np.int8:
            scale, zero = source["quantization"]
            value = np.clip(np.rint(value / scale + zero), -128, 127).astype(np.int8)
        interpreter.set_tensor(source["index"], value)
        interpreter.invoke()
        got = interpreter.get_tensor(target["index"])[0]
        if target["dtype"] is np.int8:
            got = (got.astype(np.float32) - target["quantization"][1]) * target["quantization"][0]
        rows.append(got)
    return np.array(rows)


@pytest.mark.parametrize("weight_scales", ["per-tensor", "per-channel"])
def test_a_convolution_is_quantised_too_and_a_reshape_inherits_its_range(weight_scales) -> None:
    content, x = convolution()
    expected = run(content, x)
    ranges = {"input": (float(x.min()), float(x.max())), "relu": (0.0, float(expected.max()))}
    corrected = correct_biases(content, x[:64], weight_scales=weight_scales)
    got = run(quantise_graph(corrected, ranges, weight_scales=weight_scales), x)
    assert np.mean((got - expected) ** 2) < 1e-3 * np.mean(expected**2)


def test_a_tensor_without_a_range_is_named() -> None:
    content, _ = convolution()
    with pytest.raises(RangeError, match="tensor 'relu' has no range, and neither has 'input' before it"):
        quantise_graph(content, {}, weight_scales="per-channel")


def test_unknown_scales_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ExportError, match="'per-row' are not known; valid are per-tensor, per-channel"):
        quantise_graph(b"", {}, weight_scales="per-row")


def test_the_graph_writer_gives_each_operation_code_once_and_the_same_bytes_each_time() -> None:
    content, _ = convolution()
    assert convolution()[0] == content
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    codes = [code.builtinCode for code in model.operatorCodes]
    assert codes == [schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.RESHAPE]
    shape = model.subgraphs[0].tensors[4]
    assert (shape.type, shape.name) == (schema.TensorType.INT32, b"shape")


def test_an_operation_that_tflite_does_not_know_is_refused_at_once() -> None:
    with pytest.raises(AttributeError):
        GraphWriter().add_operation("FULLY_CONECTED", [], [])
