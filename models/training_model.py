"""The training model: a LiteRT graph that holds the parameters and takes gradient steps on this machine.

What the graph computes is written in `models.export.training_graph`; what a device does with it in
`models.local_training`. One object serves one thread at a time.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.architecture import Architecture, require_finite
from models.errors import LayoutError, ModelFormatError
from models.litert import load_interpreter, one_line

__all__ = ["TrainingModel"]

Float = NDArray[np.float32]


class TrainingModel:
    """A model that learns on this machine; holds the current parameters inside the interpreter.

    Raises:
        ModelFormatError: LiteRT cannot load the bytes, or they are not the training model of `architecture`.
    """

    def __init__(self, content: bytes, architecture: Architecture) -> None:
        interpreter = load_interpreter(content, "training model")
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
                f"LiteRT cannot run {signature!r} of the training model: {one_line(error)}"
            ) from None
        return outputs

    def _batch(self, x: NDArray[np.floating]) -> Float:
        # LiteRT would resize its tensors to any shape it is given, and multiply past the end.
        if x.ndim != 2 or x.shape[1] != self.architecture.feature_count or not len(x):
            raise LayoutError(f"a batch has shape (≥1, {self.architecture.feature_count}), got {x.shape}")
        return np.ascontiguousarray(x, np.float32)
