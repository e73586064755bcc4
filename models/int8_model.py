"""The int8 model that detects: one window in, a reconstruction or logits and an anomaly score out.

    x float32 (F,) ─ ÷ scale + zero ─► int8 ─► interpreter ─► int8 ─ (q - zero) · scale ─► output float32

It is not a loader of bundles and does not decide anything. One object serves one thread at a time.
"""

from __future__ import annotations

import math
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from models.architecture import Kind
from models.errors import InputError, ModelFormatError
from models.litert import Execution, load_model
from models.reference_model import scores

__all__ = ["Int8Model", "WindowModel"]

Float = NDArray[np.float32]


class WindowModel(Protocol):
    """What judges one window at a time: an `Int8Model`, or what stands in front of one."""

    def infer_and_score(self, x: NDArray[np.floating]) -> tuple[NDArray[np.float32], float]:
        """(output, anomaly score) of one window (F,)."""


class Int8Model:
    """An int8 model with a static batch of one; its buffers are reused from call to call.

    Args:
        content: the ``.tflite`` bytes; they are kept alive as LiteRT points into them.
        kind: decides what `infer_and_score` calls a score.
        execution: what runs it; by default the processor through XNNPACK.

    Raises:
        ModelFormatError: LiteRT cannot load the bytes, or input and output are not one int8 row each.
    """

    def __init__(
        self, content: bytes, kind: Kind = "dense-autoencoder", execution: Execution | None = None
    ) -> None:
        loaded = load_model(content, "int8 model", execution)
        interpreter = loaded.interpreter
        source, target = _only(interpreter.get_input_details()), _only(interpreter.get_output_details())
        for role, tensor in (("input", source), ("output", target)):
            if tensor["dtype"] is not np.int8 or len(tensor["shape"]) != 2 or tensor["shape"][0] != 1:
                raise ModelFormatError(
                    f"the int8 model's {role} is {np.dtype(tensor['dtype'])} of shape {tuple(tensor['shape'])}; expected int8 of shape (1, n)"
                )
            if not tensor["quantization"][0] > 0:
                raise ModelFormatError(f"the int8 model's {role} has no quantization scale")
        self.feature_count = int(source["shape"][1])
        self.output_count = int(target["shape"][1])
        if kind != "dense-classifier" and self.feature_count != self.output_count:
            raise ModelFormatError(
                f"an autoencoder gives back its {self.feature_count} features, this int8 model gives {self.output_count}"
            )
        self.kind: Final[Kind] = kind
        self.output_scale = float(target["quantization"][0])
        self._run_row = loaded.run_row
        self._source, self._target = int(source["index"]), int(target["index"])
        self._shape = (self.feature_count,)
        # Arrays of rank 0: NumPy would wrap a scalar into one again in every call, for half of a call's time.
        self._per_step = np.array(1.0 / source["quantization"][0], np.float32)
        self._zero = np.array(source["quantization"][1], np.float32)
        self._lowest = np.array(-128, np.float32)
        self._highest = np.array(127, np.float32)
        self._output_step = np.array(self.output_scale, np.float32)
        self._output_zero = np.array(target["quantization"][1], np.float32)
        self._scaled = np.empty(self._shape, np.float32)
        self._quantised = np.zeros((1, self.feature_count), np.int8)

    def infer_int8(self, x: NDArray[np.floating]) -> NDArray[np.int8]:
        """Raw output steps (outputs,) for one standardised window x (F,); values beyond int8's range saturate.

        Raises:
            InputError: x has another shape, or holds NaN or infinity: a sensor check comes before the model.
            ExecutionError: LiteRT, or the delegate, failed.
        """
        if x.shape != self._shape:
            raise InputError(f"the model takes one window of shape {self._shape}, got {x.shape}")
        scaled = self._scaled
        np.multiply(x, self._per_step, out=scaled)
        # One sum of squares finds any NaN or infinity for a fifth of what np.isfinite().all() costs.
        if not math.isfinite(scaled.dot(scaled)):
            raise InputError(f"a window must be finite and below 1e18, got {_first_bad(x)}")
        np.add(scaled, self._zero, out=scaled)
        np.rint(scaled, out=scaled)
        np.maximum(scaled, self._lowest, out=scaled)
        np.minimum(scaled, self._highest, out=scaled)
        self._quantised[0] = scaled
        raw: NDArray[np.int8] = self._run_row(self._source, self._quantised, self._target)[0]
        return raw

    def infer(self, x: NDArray[np.floating]) -> Float:
        """Output (outputs,) as float32, a new array, for one standardised window x (F,); raises as `infer_int8`."""
        output = self.infer_int8(x).astype(np.float32)
        np.subtract(output, self._output_zero, out=output)
        np.multiply(output, self._output_step, out=output)
        return output

    def infer_and_score(self, x: NDArray[np.floating]) -> tuple[Float, float]:
        """(output (outputs,), anomaly score) for one window: the score of `models.reference_model.scores`."""
        output = self.infer(x)
        if self.kind != "dense-classifier":
            difference = output - x
            return output, float(difference.dot(difference)) / self.feature_count
        return output, float(scores(self.kind, x, output))


def _only(tensors: list[dict[str, Any]]) -> dict[str, Any]:
    if len(tensors) != 1:
        raise ModelFormatError(f"an int8 model has one input and one output, this one has {len(tensors)}")
    return tensors[0]


def _first_bad(x: NDArray[np.floating]) -> str:
    bad = np.flatnonzero(~(np.abs(x) < 1e18))
    return f"{x[bad[0]]} at feature {bad[0]}" if len(bad) else "values whose squares overflow"
