"""Is an int8 model ready for a Coral Edge TPU? Read from the flatbuffer alone, every reason in words.

It does not compile (`models.export.edge_tpu_compiler` does, where the compiler is installed) and knows the rules that
Coral documents, not the compiler's own: what is ready here may still be refused there. The compiler maps the graph
from its input up to the first operation it cannot take; all after that runs on the processor, so a model that is ready
is one whose every operation is taken: one partition, from input to output.

Source: Coral, "TensorFlow models on the Edge TPU" (coral.ai/docs/edgetpu/models-intro), model requirements and supported
operations; "Edge TPU Compiler" for the 8 MB of memory, of which parameters get what the program leaves.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final

from models.errors import ModelFormatError
from models.seal import check_seal

__all__ = ["ON_CHIP_BYTES", "EdgeTpuReadiness", "check_edge_tpu"]

ON_CHIP_BYTES: Final = 8 * 1024 * 1024
"""Static memory of an Edge TPU; parameters beyond it are streamed over USB or PCIe at every window."""

SUPPORTED: Final = frozenset(
    {
        "ADD",
        "AVERAGE_POOL_2D",
        "CONCATENATION",
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "EXPAND_DIMS",
        "FULLY_CONNECTED",
        "L2_NORMALIZATION",
        "LOGISTIC",
        "MAXIMUM",
        "MAX_POOL_2D",
        "MEAN",
        "MINIMUM",
        "MUL",
        "PACK",
        "PAD",
        "PRELU",
        "QUANTIZE",
        "REDUCE_MAX",
        "REDUCE_MIN",
        "RELU",
        "RELU6",
        "RELU_N1_TO_1",
        "RESHAPE",
        "RESIZE_BILINEAR",
        "RESIZE_NEAREST_NEIGHBOR",
        "RSQRT",
        "SLICE",
        "SOFTMAX",
        "SPACE_TO_DEPTH",
        "SPLIT",
        "SQUARED_DIFFERENCE",
        "SQUEEZE",
        "STRIDED_SLICE",
        "SUB",
        "SUM",
        "TANH",
        "TRANSPOSE",
        "TRANSPOSE_CONV",
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
    }
)
"""TFLite's names of the operations that Coral lists."""

_WEIGHTED: Final = frozenset({"FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"})


@dataclass(frozen=True, kw_only=True)
class EdgeTpuReadiness:
    """What stands between a model and an Edge TPU.

    Attributes:
        obstacles: what must be mended, in words; empty: ready.
        remarks: what works, but not as well as it could.
        operations: of the graph.
        leading_operations: how many of them, from the input on, nothing speaks against.
        parameter_bytes: weights and biases.
    """

    obstacles: tuple[str, ...]
    remarks: tuple[str, ...]
    operations: int
    leading_operations: int
    parameter_bytes: int

    @property
    def is_ready(self) -> bool:
        """Would the whole model run on the Edge TPU, as far as the documented rules go?"""
        return not self.obstacles


def check_edge_tpu(content: bytes) -> EdgeTpuReadiness:
    """Check a ``.tflite`` against the documented rules.

    Raises:
        ModelFormatError: the bytes are no TFLite model.
    """
    model = _read(content)
    if len(model.subgraphs) != 1:
        return EdgeTpuReadiness(
            obstacles=(f"it has {len(model.subgraphs)} subgraphs; the compiler takes one",),
            remarks=(),
            operations=sum(len(graph.operators) for graph in model.subgraphs),
            leading_operations=0,
            parameter_bytes=0,
        )
    graph = _Graph(model)
    per_operation = [graph.obstacles_of(i) for i in range(len(graph.operators))]
    leading = next((i for i, found in enumerate(per_operation) if found), len(per_operation))
    obstacles = [*graph.obstacles_at_the_ends(), *(text for found in per_operation for text in found)]
    if leading < len(per_operation):
        obstacles.append(
            f"only the first {leading} of {len(per_operation)} operations would run on the Edge TPU, the rest on the processor"
        )
    parameter_bytes = graph.parameter_bytes()
    return EdgeTpuReadiness(
        obstacles=tuple(dict.fromkeys(obstacles)),
        remarks=tuple(_remarks(graph, parameter_bytes)),
        operations=len(per_operation),
        leading_operations=leading,
        parameter_bytes=parameter_bytes,
    )


def _read(content: bytes) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    check_seal(content, "model")
    if content[4:8] != b"TFL3":
        raise ModelFormatError(
            f"not a TFLite flatbuffer: bytes 4 to 8 are {content[4:8]!r}, expected b'TFL3'"
        )
    try:
        return schema.ModelT.InitFromPackedBuf(content, 0)
    except (IndexError, ValueError, TypeError, AttributeError, struct.error) as error:
        # The generated reader follows offsets without checking them.
        raise ModelFormatError(f"a damaged TFLite flatbuffer: {error}") from None


class _Graph:
    """One subgraph with the names that its numbers stand for."""

    def __init__(self, model: Any) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._model = model
        self._graph = model.subgraphs[0]
        self._int8, self._uint8 = schema.TensorType.INT8, schema.TensorType.UINT8
        self._int32 = schema.TensorType.INT32
        self._types = {v: k for k, v in vars(schema.TensorType).items() if isinstance(v, int)}
        names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
        self.operators = [
            (names[model.operatorCodes[operator.opcodeIndex].builtinCode], operator)
            for operator in self._graph.operators
        ]

    def obstacles_at_the_ends(self) -> list[str]:
        found = []
        for role, indices in (("input", self._graph.inputs), ("output", self._graph.outputs)):
            for index in indices:
                tensor = self._graph.tensors[index]
                if len(shape := _shape(tensor)) == 0 or shape[0] != 1:
                    found.append(f"{role} {_name(tensor)} has shape {shape}; the batch must be 1")
        return found

    def obstacles_of(self, index: int) -> list[str]:
        name, operator = self.operators[index]
        where = f"operation {index} ({name})"
        found = [] if name in SUPPORTED else [f"{where} is not among those an Edge TPU runs"]
        for at in (*operator.inputs, *operator.outputs):
            if at >= 0:
                found += self._obstacles_of_tensor(at, where)
        if name in _WEIGHTED:
            found += [
                f"{where}: {_name(self._graph.tensors[at])} is computed, but weights and biases must be constants"
                for at in operator.inputs[1:3]
                if at >= 0 and name != "TRANSPOSE_CONV" and not self._is_constant(at)
            ]
        return found

    def _obstacles_of_tensor(self, at: int, where: str) -> list[str]:
        tensor = self._graph.tensors[at]
        shape, found = _shape(tensor), []
        allowed = {self._int8, self._uint8} | ({self._int32} if self._is_constant(at) else set())
        if tensor.type not in allowed:
            found.append(
                f"{where}: {_name(tensor)} is {self._types[tensor.type].lower()}; everything but biases must be int8"
            )
        signature = tensor.shapeSignature
        if any(size < 0 for size in (*shape, *(signature if signature is not None else ()))):
            found.append(f"{where}: {_name(tensor)} has a size that is only known when it runs: {shape}")
        if len(shape) > 3 and any(size != 1 for size in shape[:-3]) and not self._is_constant(at):
            found.append(
                f"{where}: {_name(tensor)} has shape {shape}; only the three innermost sizes may be above 1"
            )
        return found

    def per_channel_dense(self) -> int:
        """How many fully connected layers have one weight scale for each output."""
        return sum(
            name == "FULLY_CONNECTED" and self._scales(operator.inputs[1]) > 1
            for name, operator in self.operators
        )

    def parameter_bytes(self) -> int:
        constants = {
            at
            for _, operator in self.operators
            for at in operator.inputs
            if at >= 0 and self._is_constant(at)
        }
        return sum(len(self._model.buffers[self._graph.tensors[at].buffer].data) for at in constants)

    def _is_constant(self, at: int) -> bool:
        data = self._model.buffers[self._graph.tensors[at].buffer].data
        return data is not None and len(data) > 0

    def _scales(self, at: int) -> int:
        quantization = self._graph.tensors[at].quantization
        return len(quantization.scale) if quantization is not None and quantization.scale is not None else 0


def _remarks(graph: _Graph, parameter_bytes: int) -> list[str]:
    remarks = []
    if count := graph.per_channel_dense():
        remarks.append(
            f"{count} fully connected layers have one scale for each output; compilers up to 16 are older than that: set weight_scales = 'per-tensor'"
        )
    if parameter_bytes > ON_CHIP_BYTES:
        remarks.append(
            f"{parameter_bytes} bytes of parameters exceed the {ON_CHIP_BYTES} on the chip: the rest is streamed at every window"
        )
    return remarks


def _shape(tensor: Any) -> tuple[int, ...]:
    return () if tensor.shape is None else tuple(int(size) for size in tensor.shape)


def _name(tensor: Any) -> str:
    return repr((tensor.name or b"").decode("utf-8", "replace"))
