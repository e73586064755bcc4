"""The int8 model: a chain of FULLY_CONNECTED operations, quantised from ranges that devices report.

The float graph is written straight in TFLite's schema, so its tensors carry the names of
`Architecture.tensor_names` and no TensorFlow is needed. `ai_edge_quantizer` then takes (min, max) per tensor as they
are; no sample is ever seen here. Its own `calibrate` is not used: it smooths ranges and clips.

    input ─ FULLY_CONNECTED+ReLU ─ relu_0 ─ … ─ FULLY_CONNECTED ─ output        batch 1, int8 in, int8 out

Weights are quantised per tensor, not per channel: tflite-runtime 2.14 and the Edge TPU compiler accept no other
FULLY_CONNECTED, and what is lost is small against the activations' own rounding.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
arXiv:1712.05877v1, section 2.
"""

from __future__ import annotations

import warnings
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.architecture import Architecture, require_finite, split_parameters
from models.errors import ExportError, RangeError
from models.export.graph_writer import GraphWriter
from models.native_noise import silent_stderr
from models.seal import seal_model

__all__ = ["export_float_model", "export_int8_model"]

Statistics = dict[str, dict[str, NDArray[np.float32]]]

_SMALLEST_SPAN: Final = 1e-4
"""A tensor that never moved (a dead ReLU) still needs a scale above zero."""

_LARGEST_REQUANTISATION: Final = 64.0
"""input scale x weight scale / output scale: XNNPACK refuses to load a layer from 256 on."""


def export_int8_model(
    architecture: Architecture,
    parameters: NDArray[np.floating],
    low: NDArray[np.floating],
    high: NDArray[np.floating],
) -> bytes:
    """The int8 ``.tflite`` of a model: static batch of one, int8 input and output, no TensorFlow involved.

    Args:
        architecture: which model.
        parameters: flat float vector (P,).
        low: smallest value of each activation tensor (T,), by `Architecture.tensor_names`. Ranges of the tensors
            before a ReLU are not used: the two operations are one in this graph.
        high: largest value of each (T,).

    Raises:
        LayoutError: parameters of another length; ParameterError: not finite.
        RangeError: ranges of another length, not finite, or inverted.
        ExportError: the quantizer is not installed, or refused the graph.
    """
    ranges = _usable_ranges(architecture, low, high)
    flat = require_finite(architecture, parameters)
    _widen_dead_outputs(architecture, flat, ranges)
    content = export_float_model(architecture, flat)
    try:
        with silent_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the quantizer warns about its own debugging interpreter
            # Only here: importing it takes half a second and 40 MB.
            from ai_edge_quantizer import qtyping, quantizer

            quantiser = quantizer.Quantizer(content)
            everything = qtyping.TFLOperationName.ALL_SUPPORTED
            quantiser.add_static_config(".*", everything, 8, 8, qtyping.QuantGranularity.TENSORWISE)
            result = quantiser.quantize(ranges, enable_progress_report=False)
    except ImportError as error:
        raise ExportError(
            f"building an int8 model needs ai-edge-quantizer (pip install 'fedge[cloud]'): {error}"
        ) from None
    except (ValueError, RuntimeError, KeyError) as error:
        raise ExportError(
            f"the quantizer refused {architecture.kind} {architecture.layers}: {str(error)[:500]}"
        ) from error
    return seal_model(bytes(result.quantized_model))


def export_float_model(architecture: Architecture, parameters: NDArray[np.floating]) -> bytes:
    """The same graph in float32, batch of one: what the int8 model is measured against under LiteRT.

    Raises:
        LayoutError: parameters of another length; ParameterError: not finite.
    """
    parts = split_parameters(architecture, require_finite(architecture, parameters))
    graph = GraphWriter()
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


def _usable_ranges(
    architecture: Architecture, low: NDArray[np.floating], high: NDArray[np.floating]
) -> Statistics:
    """What the quantizer calls statistics: tensor name → {"min", "max"}, each of shape (1, 1), zero enclosed."""
    names = architecture.tensor_names
    if low.shape != (len(names),) or high.shape != low.shape:
        raise RangeError(
            f"{architecture.kind} {architecture.layers} has {len(names)} activation tensors, got ranges of shapes {low.shape} and {high.shape}"
        )
    ranges = {}
    for name, lower, upper in zip(names, low.tolist(), high.tolist(), strict=True):
        if not (np.isfinite([lower, upper]).all() and lower <= upper):
            raise RangeError(
                f"the range of tensor {name!r} is [{lower}, {upper}]; expected finite and ascending"
            )
        # A real zero must be representable (Jacob et al., 2.1): a ReLU's most frequent value is zero.
        bottom, top = min(lower, 0.0), max(upper, 0.0)
        top = max(top, bottom + _SMALLEST_SPAN)
        ranges[name] = {"min": np.array([[bottom]], np.float32), "max": np.array([[top]], np.float32)}
    return ranges


def _widen_dead_outputs(
    architecture: Architecture, parameters: NDArray[np.floating], ranges: Statistics
) -> None:
    """Make each layer's output range wide enough for the runtime to rescale its sums into it.

    Only a layer that was as good as silent is touched: its range is below one 64th of a step of its inputs' products.
    """
    weights = split_parameters(architecture, parameters)[::2]
    names = ["input", *(name for name in architecture.tensor_names if name.startswith("relu")), "output"]
    for weight, source, target in zip(weights, names, names[1:], strict=False):
        span = ranges[source]["max"] - ranges[source]["min"]
        least = span * (np.abs(weight).max() / 127.0) / _LARGEST_REQUANTISATION
        ranges[target]["max"] = np.maximum(ranges[target]["max"], ranges[target]["min"] + least).astype(
            np.float32
        )
