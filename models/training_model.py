"""The training model: a LiteRT graph that holds the parameters and takes gradient steps on this machine.

What the graph computes is written in `models.export.training_graph`; what a device does with it in
`models.local_training` and `models.private_training`. One object serves one thread at a time, and between two calls of
`restore` one optimizer.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.architecture import Architecture, require_finite
from models.errors import LayoutError, ModelFormatError
from models.litert import VERIFIES_MODELS, Execution, load_model
from models.local_training import require_clip, require_optimizer
from protocol.training import Optimizer, TrainingSettings

__all__ = ["TrainingModel"]

Float = NDArray[np.float32]

_EXECUTION: Final = Execution(uses_xnnpack=VERIFIES_MODELS)
"""Not through XNNPACK under tflite-runtime 2.14: there two signatures spoil each other's memory once a batch size changes
(heap corruption within 300 steps); it costs 43 instead of 37 µs a step. LiteRT is three to twenty times slower without it."""

_UNCLIPPED: Final = float(np.finfo(np.float32).max)
"""A clip that no gradient reaches."""


class TrainingModel:
    """A model that learns on this machine; holds the current parameters inside the interpreter.

    Raises:
        ModelFormatError: LiteRT cannot load the bytes, or they are not the training model of `architecture`.
    """

    def __init__(self, content: bytes, architecture: Architecture) -> None:
        loaded = load_model(content, "training model", _EXECUTION)
        expected = _signatures(is_classifier=architecture.kind == "dense-classifier")
        if loaded.signatures != expected:
            raise ModelFormatError(
                f"a training model has the signatures {expected}, this one has {loaded.signatures}"
            )
        if architecture.layout_sha256.encode() not in content:
            raise ModelFormatError(
                f"this training model was built for another layout than {architecture.kind} {architecture.layers} ({architecture.layout_sha256[:12]}…)"
            )
        self.architecture: Final = architecture
        self._call = loaded.call
        self._is_restored = self._is_corrected = False
        self._optimizer: Optimizer | None = None

    def restore(
        self,
        flat: NDArray[np.floating],
        correction: NDArray[np.floating] | None = None,
    ) -> None:
        """Set the parameters (P,), which the proximal term pulls to; the optimizer forgets its velocity and moments.

        Args:
            flat: the parameters.
            correction: added to every gradient (P,), as SCAFFOLD's c - c_i; default none.

        Raises:
            LayoutError: a vector of another length.
            ParameterError: a vector that is not finite.
        """
        parameters = require_finite(self.architecture, flat)
        constant = np.zeros_like(parameters) if correction is None else correction
        constant = require_finite(self.architecture, constant)
        self._call("restore", parameters=parameters, anchor=parameters, correction=constant)
        self._is_restored, self._is_corrected = True, bool(constant.any())
        self._optimizer = None

    def save(self) -> Float:
        """The current parameters, a new vector (P,)."""
        self._require_restored()
        flat: Float = self._call("save")["parameters"]
        return flat

    def train(
        self,
        x: NDArray[np.floating],
        settings: TrainingSettings,
        *,
        labels: NDArray[np.floating] | None = None,
    ) -> float:
        """One step of the optimizer on a batch x (B, F); returns the mean loss before the step.

        Args:
            x: standardised windows.
            settings: of the step: learning rate, momentum, proximal pull and clip; the optimizer is the same until the next `restore`.
            labels: one-hot (B, classes), for a classifier only.

        Raises:
            LayoutError: shapes that do not fit, or `train` before `restore`.
            TrainingSettingsError: another optimizer than before.
        """
        self._require_restored()
        self._use(settings.optimizer)
        inputs = self._batch_and_labels(x, labels)
        proximal, clip = settings.proximal, settings.gradient_clip
        if self._is_corrected or proximal or clip is not None:
            limit = _scalar(_UNCLIPPED if clip is None else clip)
            result = self._call("gradient", proximal=_scalar(proximal), clip=limit, **inputs)
            # The pull is in the gradient already.
            self._step(result["gradient"], settings, proximal=0.0)
            return float(result["loss"][0])
        inputs["learning_rate"] = _scalar(settings.learning_rate)
        if settings.optimizer == "adam":
            return float(self._call("train_adam", **inputs)["loss"][0])
        if settings.momentum:
            inputs["momentum"] = _scalar(settings.momentum)
            return float(self._call("train_momentum", **inputs)["loss"][0])
        return float(self._call("train", **inputs)["loss"][0])

    def clipped_sum(
        self, x: NDArray[np.floating], clip_norm: float, *, labels: NDArray[np.floating] | None = None
    ) -> tuple[Float, float]:
        """(sum over the batch of each example's gradient clipped to L2 norm `clip_norm` (P,), mean loss); changes nothing.

        Raises:
            LayoutError: shapes that do not fit, or nothing restored yet.
            TrainingSettingsError: a clip that is not positive.
        """
        self._require_restored()
        result = self._call(
            "clipped_sum", clip=_scalar(require_clip(clip_norm)), **self._batch_and_labels(x, labels)
        )
        return result["total"], float(result["loss"][0])

    def step(self, gradient: NDArray[np.floating], settings: TrainingSettings) -> None:
        """One step of the optimizer along a given gradient (P,), without its clip; settings as in `train`.

        Raises:
            LayoutError: a gradient of another length, or nothing restored yet.
            ParameterError: a gradient that is not finite.
            TrainingSettingsError: as `train`.
        """
        self._require_restored()
        vector = require_finite(self.architecture, gradient)
        self._use(settings.optimizer)
        self._step(vector, settings, proximal=settings.proximal)

    def infer(self, x: NDArray[np.floating]) -> tuple[Float, Float]:
        """(output (B, outputs), score (B,)) for windows x (B, F) under the current parameters."""
        self._require_restored()
        result = self._call("infer", x=self._batch(x))
        return result["output"], result["score"]

    def ranges(self, x: NDArray[np.floating]) -> tuple[Float, Float]:
        """(lowest (T,), highest (T,)) value of each activation tensor over x (B, F), by `Architecture.tensor_names`."""
        self._require_restored()
        result = self._call("ranges", x=self._batch(x))
        return result["low"], result["high"]

    def _require_restored(self) -> None:
        # The file holds no initial values: LiteRT would compute with whatever lies in memory.
        if not self._is_restored:
            raise LayoutError("restore parameters first: the training model holds none until then")

    def _step(self, gradient: Float, settings: TrainingSettings, *, proximal: float) -> None:
        inputs = {
            "gradient": gradient,
            "learning_rate": _scalar(settings.learning_rate),
            "proximal": _scalar(proximal),
        }
        if settings.optimizer == "adam":
            self._call("step_adam", **inputs)
        else:
            self._call("step_momentum", momentum=_scalar(settings.momentum), **inputs)

    def _use(self, optimizer: Optimizer) -> None:
        require_optimizer(optimizer, before=self._optimizer)
        self._optimizer = optimizer

    def _batch_and_labels(
        self, x: NDArray[np.floating], labels: NDArray[np.floating] | None
    ) -> dict[str, Float]:
        inputs = {"x": self._batch(x)}
        if self.architecture.kind == "dense-classifier":
            shape = (len(x), self.architecture.output_count)
            if labels is None or labels.shape != shape:
                raise LayoutError(
                    f"a classifier trains on one-hot labels of shape {shape}, got {None if labels is None else labels.shape}"
                )
            inputs["labels"] = np.ascontiguousarray(labels, np.float32)
        return inputs

    def _batch(self, x: NDArray[np.floating]) -> Float:
        # LiteRT would resize its tensors to any shape it is given, and multiply past the end.
        if x.ndim != 2 or x.shape[1] != self.architecture.feature_count or not len(x):
            raise LayoutError(f"a batch has shape (≥1, {self.architecture.feature_count}), got {x.shape}")
        return np.ascontiguousarray(x, np.float32)


def _signatures(*, is_classifier: bool) -> dict[str, set[str]]:
    """Input names by signature, as `models.export.training_graph` has them."""
    batch = {"x", "labels"} if is_classifier else {"x"}
    return {
        "infer": {"x"},
        "ranges": {"x"},
        "restore": {"parameters", "anchor", "correction"},
        "save": set(),
        "train": batch | {"learning_rate"},
        "train_momentum": batch | {"learning_rate", "momentum"},
        "train_adam": batch | {"learning_rate"},
        "gradient": batch | {"proximal", "clip"},
        "clipped_sum": batch | {"clip"},
        "step_momentum": {"gradient", "learning_rate", "momentum", "proximal"},
        "step_adam": {"gradient", "learning_rate", "proximal"},
    }


def _scalar(value: float) -> Float:
    # Rank 1: a rank-0 input crashes LiteRT on aarch64.
    return np.array([value], np.float32)
