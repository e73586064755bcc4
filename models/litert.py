"""The LiteRT adapter: int8 inference, and training, on one thread.

Everything about the interpreter's Python API stays in this file; other modules see NumPy arrays and the errors of
`models.errors`. It is not a loader of bundles and does not decide anything.

    x float32 (F,) ─ ÷ scale + zero ─► int8 ─► interpreter ─► int8 ─ (q - zero) · scale ─► output float32

LiteRT follows offsets in the model's bytes without checking each: damaged bytes can crash the process. So the seal
behind the model is checked before LiteRT sees it (`models.seal`); against a forger, a bundle's signature is verified
before that. One object serves one thread at a time.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from models.architecture import Architecture, Kind, require_finite
from models.errors import InputError, LayoutError, ModelFormatError
from models.native_noise import silent_stderr
from models.reference_model import scores
from models.seal import check_seal

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter
else:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:  # Coral and older Jetson images carry the runtime under its former name.
        from tflite_runtime.interpreter import Interpreter

__all__ = ["Int8Model", "TrainingModel"]

Float = NDArray[np.float32]

MAX_MODEL_BYTES: Final = 32 * 1024 * 1024
"""Largest .tflite that is loaded: twice the training model of the largest architecture."""

_MIN_MODEL_BYTES: Final = 64
_IDENTIFIER: Final = b"TFL3"


class Int8Model:
    """An int8 model with a static batch of one; its buffers are reused from call to call.

    Args:
        content: the ``.tflite`` bytes; they are kept alive as LiteRT points into them.
        kind: decides what `infer_and_score` calls a score.

    Raises:
        ModelFormatError: LiteRT cannot load the bytes, or input and output are not one int8 row each.
    """

    def __init__(self, content: bytes, kind: Kind = "dense-autoencoder") -> None:
        interpreter = _load(content, "int8 model")
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
        if kind == "dense-autoencoder" and self.feature_count != self.output_count:
            raise ModelFormatError(
                f"an autoencoder gives back its {self.feature_count} features, this int8 model gives {self.output_count}"
            )
        self.kind: Final[Kind] = kind
        self.output_scale = float(target["quantization"][0])
        self._interpreter = interpreter
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
        interpreter = self._interpreter
        interpreter.set_tensor(self._source, self._quantised)
        interpreter.invoke()
        raw: NDArray[np.int8] = interpreter.get_tensor(self._target)[0]
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
        if self.kind == "dense-autoencoder":
            difference = output - x
            return output, float(difference.dot(difference)) / self.feature_count
        return output, float(scores(self.kind, x, output))


class TrainingModel:
    """A model that learns on this machine; holds the current parameters inside the interpreter.

    Raises:
        ModelFormatError: LiteRT cannot load the bytes, or they are not the training model of `architecture`.
    """

    def __init__(self, content: bytes, architecture: Architecture) -> None:
        interpreter = _load(content, "training model")
        is_classifier = architecture.kind == "dense-classifier"
        expected = {
            "infer": {"x"},
            "ranges": {"x"},
            "restore": {"parameters", "anchor"},
            "save": set[str](),
            "train": {"x", "learning_rate", "proximal"} | ({"labels"} if is_classifier else set()),
        }
        found = {name: set(value["inputs"]) for name, value in interpreter.get_signature_list().items()}
        if found != expected:
            raise ModelFormatError(f"a training model has the signatures {expected}, this one has {found}")
        if architecture.layout_sha256.encode() not in content:
            raise ModelFormatError(
                f"this training model was built for another layout than {architecture.kind} {architecture.layers} ({architecture.layout_sha256[:12]}…)"
            )
        self.architecture: Final = architecture
        self._runners = {name: interpreter.get_signature_runner(name) for name in expected}
        self._anchor: Float | None = None

    def restore(self, flat: NDArray[np.floating], anchor: NDArray[np.floating] | None = None) -> None:
        """Set the parameters (P,), and the anchor of the proximal term (default: the same vector).

        Raises:
            LayoutError: a vector of another length.
            ParameterError: a vector that is not finite.
        """
        parameters = require_finite(self.architecture, flat)
        # A copy: `train` compares with it, and the caller may go on writing into his array.
        self._anchor = require_finite(self.architecture, parameters if anchor is None else anchor).copy()
        self._call("restore", parameters=parameters, anchor=self._anchor)

    def save(self) -> Float:
        """The current parameters, a new vector (P,)."""
        flat: Float = self._call("save")["parameters"]
        return flat

    def train(
        self,
        x: NDArray[np.floating],
        learning_rate: float,
        *,
        labels: NDArray[np.floating] | None = None,
        anchor: NDArray[np.floating] | None = None,
        proximal: float = 0.0,
    ) -> float:
        """One step of gradient descent on a batch x (B, F); returns the mean loss before the step.

        Args:
            x: standardised windows.
            learning_rate: per step.
            labels: one-hot (B, classes), for a classifier only.
            anchor: FedProx' reference (P,); default the one given to `restore`. Changing it costs a save and a restore.
            proximal: FedProx' μ.

        Raises:
            LayoutError: shapes that do not fit, or `train` before `restore`.
        """
        if self._anchor is None:
            raise LayoutError("restore parameters before training: the graph starts with zeros")
        if anchor is not None and proximal and not np.array_equal(anchor, self._anchor):
            self.restore(self.save(), anchor)
        inputs = {
            "x": self._batch(x),
            "learning_rate": np.array([learning_rate], np.float32),
            "proximal": np.array([proximal], np.float32),
        }
        if self.architecture.kind == "dense-classifier":
            shape = (len(x), self.architecture.output_count)
            if labels is None or labels.shape != shape:
                raise LayoutError(
                    f"a classifier trains on one-hot labels of shape {shape}, got {None if labels is None else labels.shape}"
                )
            inputs["labels"] = np.ascontiguousarray(labels, np.float32)
        return float(self._call("train", **inputs)["loss"][0])

    def infer(self, x: NDArray[np.floating]) -> tuple[Float, Float]:
        """(output (B, outputs), score (B,)) for windows x (B, F) under the current parameters."""
        result = self._call("infer", x=self._batch(x))
        return result["output"], result["score"]

    def ranges(self, x: NDArray[np.floating]) -> tuple[Float, Float]:
        """(lowest (T,), highest (T,)) value of each activation tensor over x (B, F), by `Architecture.tensor_names`."""
        result = self._call("ranges", x=self._batch(x))
        return result["low"], result["high"]

    def _call(self, signature: str, **inputs: Float) -> dict[str, Float]:
        try:
            outputs: dict[str, Float] = self._runners[signature](**inputs)
        except (ValueError, RuntimeError) as error:
            raise ModelFormatError(
                f"LiteRT cannot run {signature!r} of the training model: {_one_line(error)}"
            ) from None
        return outputs

    def _batch(self, x: NDArray[np.floating]) -> Float:
        # LiteRT would resize its tensors to any shape it is given, and multiply past the end.
        if x.ndim != 2 or x.shape[1] != self.architecture.feature_count or not len(x):
            raise LayoutError(f"a batch has shape (≥1, {self.architecture.feature_count}), got {x.shape}")
        return np.ascontiguousarray(x, np.float32)


def _load(content: bytes, what: str) -> Any:
    if content[4:8] != _IDENTIFIER:
        raise ModelFormatError(
            f"the {what} is not a TFLite flatbuffer: bytes 4 to 8 are {content[4:8]!r}, expected {_IDENTIFIER!r}"
        )
    if not _MIN_MODEL_BYTES <= len(content) <= MAX_MODEL_BYTES:
        raise ModelFormatError(
            f"the {what} has {len(content)} bytes; expected {_MIN_MODEL_BYTES} to {MAX_MODEL_BYTES}"
        )
    check_seal(content, what)
    try:
        with silent_stderr():
            interpreter = Interpreter(model_content=content, num_threads=1)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ModelFormatError(
            f"LiteRT cannot load the {what} of {len(content)} bytes: {_one_line(error)}"
        ) from None
    return interpreter


def _only(tensors: list[dict[str, Any]]) -> dict[str, Any]:
    if len(tensors) != 1:
        raise ModelFormatError(f"an int8 model has one input and one output, this one has {len(tensors)}")
    return tensors[0]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _first_bad(x: NDArray[np.floating]) -> str:
    bad = np.flatnonzero(~(np.abs(x) < 1e18))
    return f"{x[bad[0]]} at feature {bad[0]}" if len(bad) else "values whose squares overflow"
