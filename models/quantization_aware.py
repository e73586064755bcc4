"""Quantization-aware local training: gradients are taken at the weights that int8 will have, steps are taken in float.

::

    shadow w (float) ─► rounded as export rounds ─► gradient there ─► optimizer step on w ─► … ─► save() is w

The rounding's own derivative is taken to be one (straight-through). Two training models of the same file are needed: one holds the float
shadow and the optimizer's state, the other is only asked for gradients. What is averaged over devices are shadows, as ever. Only
weights are rounded in training: activations are not, because their ranges are known to nobody before the evaluation
that follows it.

At 8 bits it won nothing that could be measured on bearings and digits, for four to six times the processor time
(`python benchmarks/quantization.py aware`): bias correction at export has taken what there was. So it is a setting that is off.

It is not for example-level privacy, whose clipped sums are taken by `models.private_training` where the model is.

Sources: Jacob et al., arXiv:1712.05877v1, section 3; Bengio, Léonard, Courville, "Estimating or Propagating Gradients Through
Stochastic Neurons for Conditional Computation", arXiv:1308.3432v1 (straight-through).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import TrainingSettingsError
from models.learning_runtimes import LearningModel
from models.local_training import Optimizer
from models.weight_rounding import WeightScales, round_parameters

__all__ = ["QuantizationAwareModel"]

Floats = NDArray[np.floating]
Float = NDArray[np.float32]

_UNCLIPPED: Final = float(np.finfo(np.float32).max)


class QuantizationAwareModel:
    """A `models.local_training.Trainable` that learns parameters which int8 harms little.

    Args:
        shadow: holds the float parameters and the optimizer's state.
        rounded: another model of the same architecture; its parameters are overwritten at every step.
        weight_scales: as the release will have them.

    Raises:
        TrainingSettingsError: the two models are one object, or of different architectures.
    """

    def __init__(
        self, shadow: LearningModel, rounded: LearningModel, weight_scales: WeightScales = "per-channel"
    ) -> None:
        if shadow is rounded or shadow.architecture != rounded.architecture:
            raise TrainingSettingsError(
                "quantization-aware training needs two models of one architecture: each keeps parameters of its own"
            )
        self._shadow, self._rounded = shadow, rounded
        self._weight_scales: WeightScales = weight_scales
        self._anchor: Float | None = None
        self._is_current = False

    def restore(self, flat: Floats, anchor: Floats | None = None, correction: Floats | None = None) -> None:
        """Set the float parameters, anchor and correction (P,); raises as `TrainingModel.restore`."""
        self._shadow.restore(flat, anchor, correction)
        self._anchor = np.array(flat if anchor is None else anchor, np.float32)
        self._is_current = False

    def save(self) -> Float:
        """The float parameters (P,): what is averaged and, rounded, released."""
        return self._shadow.save()

    def train(
        self,
        x: Floats,
        learning_rate: float,
        *,
        labels: Floats | None = None,
        proximal: float = 0.0,
        optimizer: Optimizer = "sgd",
        momentum: float = 0.0,
        gradient_clip: float | None = None,
    ) -> float:
        """One step, by the gradient at the rounded weights; the mean loss there before the step.

        Arguments and errors are those of `TrainingModel.train`.
        """
        weights = self._shadow.save()
        total, loss = self._at_rounded().clipped_sum(x, _UNCLIPPED, labels=labels)
        gradient = total / np.float32(len(x))
        if proximal and self._anchor is not None:
            gradient += np.float32(proximal) * (weights - self._anchor)
        norm = float(np.linalg.norm(gradient))
        if gradient_clip is not None and norm > gradient_clip:
            gradient *= np.float32(gradient_clip / norm)
        self._shadow.step(gradient, learning_rate, optimizer=optimizer, momentum=momentum)
        self._is_current = False
        return loss

    def infer(self, x: Floats) -> tuple[Float, Float]:
        """(output, score) of windows (B, F) at the rounded weights: what the release will come close to."""
        return self._at_rounded().infer(x)

    def ranges(self, x: Floats) -> tuple[Float, Float]:
        """(low (T,), high (T,)) over windows (B, F) at the rounded weights."""
        return self._at_rounded().ranges(x)

    def _at_rounded(self) -> LearningModel:
        if not self._is_current:
            weights = self._shadow.save()
            architecture = self._shadow.architecture
            self._rounded.restore(round_parameters(architecture, weights, self._weight_scales))
            self._is_current = True
        return self._rounded
