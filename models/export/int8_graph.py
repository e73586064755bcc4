"""The int8 model of a family: its float graph, its ranges by name, and the quantisation of both.

The float graph is written straight in TFLite's schema, so its tensors carry the names of
`Architecture.tensor_names` and no TensorFlow is needed; how it becomes int8 is `models.export.post_training`'s.

    input ─ FULLY_CONNECTED+ReLU ─ relu_0 ─ … ─ FULLY_CONNECTED ─ output        batch 1, int8 in, int8 out

The dense families' graph is written here, the convolutional one's in `models.export.conv_int8`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.architecture import Architecture, require_finite, split_parameters
from models.errors import RangeError
from models.export.bias_correction import correct_biases
from models.export.conv_int8 import write_convolution
from models.export.graph_writer import GraphWriter
from models.export.post_training import quantise_graph
from models.weight_rounding import WeightScales

__all__ = ["export_float_model", "export_int8_model"]


def export_int8_model(
    architecture: Architecture,
    parameters: NDArray[np.floating],
    low: NDArray[np.floating],
    high: NDArray[np.floating],
    *,
    weight_scales: WeightScales = "per-channel",
    probes: NDArray[np.floating] | None = None,
) -> bytes:
    """The int8 ``.tflite`` of a model: static batch of one, int8 input and output, no TensorFlow involved.

    Args:
        architecture: which model.
        parameters: flat float vector (P,).
        low: smallest value of each activation tensor (T,), by `Architecture.tensor_names`. Ranges of the tensors
            before a ReLU are not used: the two operations are one in this graph.
        high: largest value of each (T,).
        weight_scales: see `models.export.post_training`.
        probes: typical windows (N, F), for bias correction; None leaves the biases as they are.

    Raises:
        LayoutError: parameters of another length; ParameterError: not finite.
        RangeError: ranges of another length, not finite, or inverted.
        ExportError: the quantizer is not installed, or refused the graph.
    """
    names = architecture.tensor_names
    if low.shape != (len(names),) or high.shape != low.shape:
        raise RangeError(
            f"{architecture.kind} {architecture.layers} has {len(names)} activation tensors, got ranges of shapes {low.shape} and {high.shape}"
        )
    content = export_float_model(architecture, parameters)
    if probes is not None and len(probes):
        content = correct_biases(content, probes, weight_scales=weight_scales)
    ranges = dict(zip(names, zip(low.tolist(), high.tolist(), strict=True), strict=True))
    return quantise_graph(content, ranges, weight_scales=weight_scales)


def export_float_model(architecture: Architecture, parameters: NDArray[np.floating]) -> bytes:
    """The same graph in float32, batch of one: what the int8 model is measured against under LiteRT.

    Raises:
        LayoutError: parameters of another length; ParameterError: not finite.
    """
    parts = split_parameters(architecture, require_finite(architecture, parameters))
    graph = GraphWriter()
    if architecture.convolution is not None:
        ends = write_convolution(graph, architecture, architecture.convolution, parts)
        return graph.pack(*ends, f"fedge conv {architecture.layout_sha256}")
    tensor = graph.add_tensor("input", (1, architecture.feature_count))
    first, layers = tensor, len(architecture.layers) - 1
    for i in range(layers):
        is_last = i == layers - 1
        # TFLite keeps a FULLY_CONNECTED weight as (outputs, inputs).
        weight = graph.add_tensor(f"weight_{i}", parts[2 * i].T.shape, parts[2 * i].T)
        bias = graph.add_tensor(f"bias_{i}", parts[2 * i + 1].shape, parts[2 * i + 1])
        target = graph.add_tensor("output" if is_last else f"relu_{i}", (1, architecture.layers[i + 1]))
        graph.add_dense([tensor, weight, bias], target, has_relu=not is_last)
        tensor = target
    return graph.pack(first, tensor, f"fedge dense {architecture.layout_sha256}")
