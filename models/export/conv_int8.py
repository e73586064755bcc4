"""The float graph of a convolutional autoencoder in TFLite operations that every int8 runtime has: CONV_2D and RESHAPE.

A row of time is an image of height 1. The encoder's layers are strided convolutions; a decoder's writes `stride`
samples per position as channels, and a reshape lays them side by side in time. No transposed convolution, no padding
operation: older runtimes and the Edge TPU compiler map all of it.

    input (1,F) ─ RESHAPE ─ CONV_2D+ReLU, stride s ─ relu_0 (1,1,n,c) ─ … ─ CONV_2D ─ output (1,1,n,s·C) ─ RESHAPE ─ (1,F)

Tensors that a device reports a range for bear its name (`Architecture.tensor_names`); those behind a reshape end in
``_row`` and have the range of what they reshape. `models.export.post_training` makes the graph int8.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.architecture import Architecture
from models.export.flatbuffer import make
from models.export.graph_writer import GraphWriter
from protocol.manifest import ConvolutionSpec

__all__ = ["write_convolution"]


def write_convolution(
    graph: GraphWriter,
    architecture: Architecture,
    spec: ConvolutionSpec,
    parts: Sequence[NDArray[np.floating]],
) -> tuple[int, int]:
    """Write all layers into an empty graph; returns the tensors (input, output), both (1, F).

    Args:
        graph: where to.
        architecture: a ``conv-autoencoder``.
        spec: its convolution.
        parts: [W0, b0, W1, b1, ...] as `models.architecture.split_parameters` gives them.
    """
    widths, depth = architecture.layers, len(architecture.layers) // 2
    first = graph.add_tensor("input", (1, architecture.feature_count))
    rows = _reshape(graph, first, "input_row", (1, 1, spec.samples, widths[0]))
    for i, layer in enumerate(architecture.geometry):
        is_last = i == len(architecture.geometry) - 1
        name = "output" if is_last else f"relu_{i}"
        # TFLite keeps a CONV_2D weight as (outputs, height, width, inputs).
        kernel = parts[2 * i].transpose(2, 0, 1)[:, None]
        weight = graph.add_tensor(f"weight_{i}", kernel.shape, kernel)
        bias = graph.add_tensor(f"bias_{i}", parts[2 * i + 1].shape, parts[2 * i + 1])
        target = graph.add_tensor(name, (1, 1, layer.positions, layer.outputs))
        options = make(
            "Conv2DOptionsT",
            strideW=spec.stride if i < depth else 1,
            strideH=1,
            # Padding 0 is SAME: both sides alike, because a kernel is an odd number of strides.
            padding=0,
            fusedActivationFunction=graph.activation(has_relu=not is_last),
        )
        graph.add_operation("CONV_2D", [rows, weight, bias], [target], options=options)
        rows = target
        if i >= depth and not is_last:
            finer = (1, 1, layer.positions * spec.stride, widths[i + 1])
            rows = _reshape(graph, target, f"{name}_row", finer)
    return first, _reshape(graph, rows, "output_row", (1, architecture.output_count))


def _reshape(graph: GraphWriter, source: int, name: str, shape: tuple[int, ...]) -> int:
    target = graph.add_tensor(name, shape)
    # Both the operand and the option say the shape: runtimes differ in which one they read.
    wanted = graph.add_tensor(f"{name}_shape", (len(shape),), np.array(shape, np.int32))
    options = make("ReshapeOptionsT", newShape=list(shape))
    graph.add_operation("RESHAPE", [source, wanted], [target], options=options)
    return target
