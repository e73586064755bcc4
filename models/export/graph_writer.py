"""Writing a float32 ``.tflite`` graph operation by operation, so that every tensor has the name we choose.

It is not a model builder: which operations make up a family is said by the module of that family, e.g.
`models.export.int8_graph`. One subgraph with one signature ``infer``; nothing is optimised, renamed or reordered, and
the same calls give the same bytes.

    writer = GraphWriter()
    x = writer.add_tensor("input", (1, 8))
    w, b = writer.add_tensor("weight_0", (4, 8), weights), writer.add_tensor("bias_0", (4,), bias)
    y = writer.add_tensor("output", (1, 4))
    writer.add_operation("FULLY_CONNECTED", [x, w, b], [y], options=make("FullyConnectedOptionsT"))
    content = writer.pack(x, y, "one dense layer")

Source: the TFLite schema, as ai-edge-litert ships it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.export.flatbuffer import make, pack_model

__all__ = ["GraphWriter"]

_LARGEST_OLD_CODE: Final = 127
"""Operator codes above it do not fit the schema's first, one-byte field, which then holds this number."""


class GraphWriter:
    """Collects the tensors, buffers and operations of one subgraph."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._schema = schema
        self._buffers = [make("BufferT")]  # TFLite's buffer 0 is the empty one of every activation.
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: dict[tuple[int, int], int] = {}

    def add_tensor(self, name: str, shape: tuple[int, ...], value: NDArray[np.generic] | None = None) -> int:
        """Index of a new tensor; constant where a value is given.

        Args:
            name: the name that ranges refer to.
            shape: static, with the batch of one.
            value: a constant of that shape: integers are kept as int32 (shapes, axes, paddings), all else is float32.
        """
        is_integer = value is not None and np.issubdtype(value.dtype, np.integer)
        if value is not None:
            raw = np.ascontiguousarray(value, "<i4" if is_integer else "<f4").tobytes()
            self._buffers.append(make("BufferT", data=np.frombuffer(raw, np.uint8)))
        kinds = self._schema.TensorType
        self._tensors.append(
            make(
                "TensorT",
                name=name.encode(),
                shape=list(shape),
                type=kinds.INT32 if is_integer else kinds.FLOAT32,
                buffer=0 if value is None else len(self._buffers) - 1,
                hasRank=True,
            )
        )
        return len(self._tensors) - 1

    def add_operation(
        self,
        builtin: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        *,
        options: Any = None,
        version: int = 1,
    ) -> None:
        """Append an operation; operations run in the order in which they are added.

        Args:
            builtin: its name in the schema's `BuiltinOperator`, e.g. ``CONV_2D``.
            inputs: tensor indices, in the operation's own order; -1 leaves an optional one out.
            outputs: tensor indices.
            options: its options, e.g. ``make("Conv2DOptionsT", ...)``; their class says which kind they are.
            version: the operation's version, as the runtime counts them.
        """
        key = (int(getattr(self._schema.BuiltinOperator, builtin)), version)
        index = self._codes.setdefault(key, len(self._codes))
        fields = {}
        if options is not None:
            kind = getattr(self._schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
            fields = {"builtinOptionsType": kind, "builtinOptions": options}
        self._operators.append(
            make("OperatorT", opcodeIndex=index, inputs=list(inputs), outputs=list(outputs), **fields)
        )

    def add_dense(self, inputs: Sequence[int], output: int, *, has_relu: bool) -> None:
        """A FULLY_CONNECTED operation over [input, weight (outputs, inputs), bias (outputs,)], with or without ReLU."""
        options = make("FullyConnectedOptionsT", fusedActivationFunction=self.activation(has_relu=has_relu))
        self.add_operation("FULLY_CONNECTED", inputs, [output], options=options)

    def activation(self, *, has_relu: bool) -> int:
        """The schema's number for a fused ReLU, or for none."""
        function = self._schema.ActivationFunctionType
        return int(function.RELU if has_relu else function.NONE)

    def pack(self, first: int, last: int, description: str) -> bytes:
        """The flatbuffer, with one signature ``infer``: tensor `first` as ``input`` → tensor `last` as ``output``."""
        codes = [
            make(
                "OperatorCodeT",
                builtinCode=code,
                deprecatedBuiltinCode=min(code, _LARGEST_OLD_CODE),
                version=version,
            )
            for code, version in self._codes
        ]
        subgraph = make(
            "SubGraphT",
            name=b"main",
            tensors=self._tensors,
            operators=self._operators,
            inputs=[first],
            outputs=[last],
        )
        signature = make(
            "SignatureDefT",
            signatureKey=b"infer",
            subgraphIndex=0,
            inputs=[make("TensorMapT", name=b"input", tensorIndex=first)],
            outputs=[make("TensorMapT", name=b"output", tensorIndex=last)],
        )
        model = make(
            "ModelT",
            version=3,
            description=description.encode(),
            operatorCodes=codes,
            subgraphs=[subgraph],
            buffers=self._buffers,
            signatureDefs=[signature],
        )
        return pack_model(model)
