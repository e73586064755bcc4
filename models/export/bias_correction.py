"""Bias correction: rounding weights to int8 shifts the mean of every layer's output; its bias takes the shift back.

A layer computes ``y = W x + b``. With rounded weights ``W + E`` its mean output moves by ``E · mean(x)``, which is known
as soon as the mean input of the layer is. That mean needs no recording: the fleet's summed feature histograms give
probes, and the float graph, run on them, gives each layer's mean. It is not
a change of the float model, which devices go on learning from: only the int8 graph carries the corrected biases.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv:1906.04721v3,
section 4.2; here E[x] comes from probes where the paper derives it from batch normalisation.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.export.flatbuffer import pack_model
from models.export.post_training import weighted_operations
from models.litert import Interpreter
from models.native_noise import silent_stderr
from models.weight_rounding import WeightScales, round_weight

__all__ = ["correct_biases"]

Float = NDArray[np.float64]


def correct_biases(content: bytes, probes: NDArray[np.floating], *, weight_scales: WeightScales) -> bytes:
    """The same float graph with biases that make up for the rounding of its weights.

    Fully connected and plain convolution layers are corrected; a transposed convolution is left as it is, because its
    outputs see different parts of the kernel.

    Args:
        content: float graph of `models.export.graph_writer`, one input of batch one.
        probes: typical inputs (N, ...), N ≥ 1, each of the input's shape without its batch.
        weight_scales: how the weights are going to be quantised.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    tensors = model.subgraphs[0].tensors
    layers = [
        (operator, at)
        for name, operator, at in weighted_operations(model)
        if name in {"FULLY_CONNECTED", "CONV_2D"} and len(operator.inputs) == 3 and operator.inputs[2] >= 0
    ]
    means = _mean_channels(content, probes, [operator.inputs[at] for operator, at in layers])
    for operator, at in layers:
        weight = _values(model, operator.inputs[1]).reshape(tensors[operator.inputs[1]].shape)
        # (outputs, …, channels) · (channels,): summed over the kernel's positions, which all see the same mean.
        error = round_weight(weight, channel_axis=0 if weight_scales == "per-channel" else None) - weight
        shift = (error @ means[operator.inputs[at]]).reshape(len(weight), -1).sum(axis=1)
        corrected = (_values(model, operator.inputs[2]) - shift).astype("<f4")
        model.buffers[tensors[operator.inputs[2]].buffer].data = np.frombuffer(corrected.tobytes(), np.uint8)
    return pack_model(model)


def _values(model: Any, index: int) -> Float:
    buffer = model.buffers[model.subgraphs[0].tensors[index].buffer]
    return np.frombuffer(bytes(buffer.data), "<f4").astype(np.float64)


def _mean_channels(content: bytes, probes: NDArray[np.floating], indices: list[int]) -> dict[int, Float]:
    """Mean over probes and positions of each channel (the last axis) of the tensors at `indices`."""
    with silent_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LiteRT warns that keeping every tensor costs memory
        interpreter = Interpreter(
            model_content=content, num_threads=1, experimental_preserve_all_tensors=True
        )
        interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]
    sums: dict[int, Float] = {}
    for probe in probes:
        interpreter.set_tensor(source["index"], probe.astype(np.float32).reshape(source["shape"]))
        interpreter.invoke()
        for index in set(indices):
            value = interpreter.get_tensor(index)
            mean = value.reshape(-1, value.shape[-1]).mean(axis=0, dtype=np.float64)
            sums[index] = sums.get(index, 0.0) + mean
    return {index: total / len(probes) for index, total in sums.items()}
