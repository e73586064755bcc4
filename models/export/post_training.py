"""Post-training quantisation of a float graph to int8 from ranges that devices report: no sample is ever seen here.

Works on any graph of `models.export.graph_writer` whose tensors have names: `ai_edge_quantizer` takes (min, max) per
tensor as they are. Its own `calibrate` is not used: it smooths ranges and clips. Weights are symmetric, biases int32,
activations asymmetric, input and output int8.

`weight_scales` says how many scales a weight has. ``per-channel`` (one for each output) loses less and is what
ai-edge-litert 2.3 and tflite-runtime 2.14 both run, for fully connected layers too; ``per-tensor`` is for what
knows no other fully connected layer: Edge TPU compilers up to 16 are older than per-channel ones.
`models.export.bias_correction` wins back most of the difference.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
arXiv:1712.05877v1, section 2; Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference: A
whitepaper", arXiv:1806.08342v1, section 3 (per channel).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from models.errors import ExportError, RangeError
from models.native_noise import silent_stderr
from models.seal import seal_model
from models.weight_rounding import WeightScales

__all__ = ["Ranges", "quantise_graph", "weighted_operations"]

Ranges = Mapping[str, tuple[float, float]]
"""Tensor name → (smallest, largest) value."""

_SMALLEST_SPAN: Final = 1e-4
"""A tensor that never moved (a dead ReLU) still needs a scale above zero."""

_LARGEST_REQUANTISATION: Final = 64.0
"""input scale x weight scale / output scale: XNNPACK refuses to load a layer from 256 on."""

_WEIGHTED: Final = {"FULLY_CONNECTED": 0, "CONV_2D": 0, "DEPTHWISE_CONV_2D": 0, "TRANSPOSE_CONV": 2}
"""Operations with a weight (their input 1), and which of their inputs is the activation."""


def quantise_graph(content: bytes, ranges: Ranges, *, weight_scales: WeightScales) -> bytes:
    """The int8 ``.tflite`` of a float graph, sealed.

    Args:
        content: the float graph, batch of one.
        ranges: range of each activation tensor. One that is left out must have the values of another (a reshape).
        weight_scales: see the module.

    Raises:
        RangeError: a range is missing, not finite, or inverted.
        ExportError: an unknown `weight_scales`, the quantizer is not installed, or it refused the graph.
    """
    if weight_scales not in get_args(WeightScales):
        raise ExportError(
            f"weight scales {weight_scales!r} are not known; valid are {', '.join(get_args(WeightScales))}"
        )
    statistics = _statistics(content, ranges)
    try:
        with silent_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the quantizer warns about its own debugging interpreter
            # Only here: importing it takes half a second and 40 MB.
            from ai_edge_quantizer import qtyping, quantizer

            granularity = qtyping.QuantGranularity
            quantiser = quantizer.Quantizer(content)
            quantiser.add_static_config(
                ".*",
                qtyping.TFLOperationName.ALL_SUPPORTED,
                8,
                8,
                granularity.CHANNELWISE if weight_scales == "per-channel" else granularity.TENSORWISE,
            )
            result = quantiser.quantize(statistics, enable_progress_report=False)
    except ImportError as error:
        raise ExportError(
            f"building an int8 model needs ai-edge-quantizer (pip install 'fedge[aggregator]'): {error}"
        ) from None
    except (ValueError, RuntimeError, KeyError) as error:
        raise ExportError(
            f"the quantizer refused a graph with the tensors {', '.join(ranges)}: {str(error)[:500]}"
        ) from error
    return seal_model(bytes(result.quantized_model))


def weighted_operations(model: Any) -> Iterator[tuple[str, Any, int]]:
    """(operation name, operator, index of its activation among its inputs) of every layer with a constant weight.

    Args:
        model: a ``ModelT`` of the TFLite schema.
    """
    from ai_edge_litert import schema_py_generated as schema

    names = {value: key for key, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    for operator in model.subgraphs[0].operators:
        name = names[model.operatorCodes[operator.opcodeIndex].builtinCode]
        if name in _WEIGHTED:
            yield name, operator, _WEIGHTED[name]


def _statistics(content: bytes, ranges: Ranges) -> dict[str, dict[str, NDArray[np.float32]]]:
    """What the quantizer calls statistics: tensor name → {"min", "max"}, each of the tensor's rank, zero enclosed."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    tensors = model.subgraphs[0].tensors
    names = [tensor.name.decode() for tensor in tensors]
    spans = {name: _checked_span(name, *bounds) for name, bounds in ranges.items()}
    for operator in model.subgraphs[0].operators:
        for output in operator.outputs:
            # A reshape moves values and changes none.
            if names[output] not in spans:
                spans[names[output]] = _inherited(names[output], names[operator.inputs[0]], spans)
    _widen_silent_outputs(model, names, spans)
    return {
        name: {
            "min": np.full((1,) * len(tensor.shape), spans[name][0], np.float32),
            "max": np.full((1,) * len(tensor.shape), spans[name][1], np.float32),
        }
        for name, tensor in zip(names, tensors, strict=True)
        if name in spans
    }


def _checked_span(name: str, lower: float, upper: float) -> tuple[float, float]:
    if not (np.isfinite([lower, upper]).all() and lower <= upper):
        raise RangeError(f"the range of tensor {name!r} is [{lower}, {upper}]; expected finite and ascending")
    # A real zero must be representable (Jacob et al., 2.1): a ReLU's most frequent value is zero.
    bottom = min(lower, 0.0)
    return bottom, max(upper, bottom + _SMALLEST_SPAN, 0.0)


def _inherited(name: str, source: str, spans: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    if source not in spans:
        raise RangeError(
            f"tensor {name!r} has no range, and neither has {source!r} before it; given are {', '.join(spans)}"
        )
    return spans[source]


def _widen_silent_outputs(model: Any, names: list[str], spans: dict[str, tuple[float, float]]) -> None:
    """Make each layer's output range wide enough for the runtime to rescale its sums into it.

    Only a layer that was as good as silent is touched: its range is below one 64th of a step of its inputs' products.
    """
    tensors = model.subgraphs[0].tensors
    for _, operator, at in weighted_operations(model):
        source, target = names[operator.inputs[at]], names[operator.outputs[0]]
        data = model.buffers[tensors[operator.inputs[1]].buffer].data
        largest = float(np.abs(np.frombuffer(bytes(data), "<f4")).max(initial=0.0))
        bottom, top = spans[target]
        span = spans[source][1] - spans[source][0]
        spans[target] = bottom, max(top, bottom + span * largest / 127.0 / _LARGEST_REQUANTISATION)
