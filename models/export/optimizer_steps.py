"""One step of SGD with momentum, and one of Adam, in TFLite builtins, on flat vectors (P,).

State is flat, although the parameters are not: an operation on one vector is one entry in the file, on every parameter it
would be eight, and a device downloads the file. It reads and writes its own state; the parameters, and when state starts
anew, are the graph's (`models.export.training_graph`).

    gradient ─► + proximal·(w - anchor) ─► clip by global norm ─► + correction ─► momentum or Adam ─► move

The gradient of the local objective, proximal pull included, is clipped as `torch.nn.utils.clip_grad_norm_` does it
after `backward`. The correction comes after: it mends where the step goes, and clipping it would change that.

Adam's moments are kept as sums, Σ decay^k·g, beside Σ decay^k: their quotient is the moment with its bias corrected. That is two
operations less on every parameter, and float32 has no digits left for 1 - 0.999^t.

Sources: FedProx, Li et al., arXiv:1812.06127v5, Eq. (2); SCAFFOLD, Karimireddy et al., arXiv:1910.06378v4, Eq. (3); Adam,
Kingma, Ba, arXiv:1412.6980v9, Algorithm 1 and the reordering that follows it.
"""

from __future__ import annotations

from typing import Final

import tensorflow as tf

from models.export.layer_gradients import Tensor

__all__ = ["OptimizerSteps", "clip_factor", "clipped"]

MEAN_DECAY: Final = 0.9
SQUARE_DECAY: Final = 0.999
EPSILON: Final = 1e-8
"""Adam's constants as its paper and every library have them."""

_NORM_FLOOR: Final = 1e-6
"""Added to a norm before dividing by it: PyTorch's and Opacus' constant, so that all clip alike."""


class OptimizerSteps:
    """The optimizer's side of one graph: the two vectors a step is pulled by, and two moments of the gradient."""

    def __init__(self, parameter_count: int) -> None:
        self._anchor = _variable("anchor", parameter_count)
        self._correction = _variable("correction", parameter_count)
        # Momentum's velocity and Adam's mean share a place: between two restores only one optimizer runs.
        self._mean = _variable("mean", parameter_count)
        self._square = _variable("square", parameter_count)
        self._mean_weight = _variable("mean_weight", 1)
        self._square_weight = _variable("square_weight", 1)
        # All of them, for the module that owns them.
        self.variables = [
            *(self._anchor, self._correction, self._mean, self._square),
            *(self._mean_weight, self._square_weight),
        ]

    def restore(self, anchor: Tensor, correction: Tensor) -> None:
        """Set the two vectors and start anew: no velocity, no moments."""
        self._anchor.assign(anchor)
        self._correction.assign(correction)
        # Subtracted rather than a constant: P zeros would lie in the file. A device refuses vectors that are not finite.
        zeros = anchor - anchor
        self._mean.assign(zeros)
        self._square.assign(zeros)
        self._mean_weight.assign(zeros[0:1])
        self._square_weight.assign(zeros[0:1])

    def pulled(self, value: Tensor, gradient: Tensor, proximal: Tensor) -> Tensor:
        """The gradient (P,) at parameters `value` (P,) with FedProx' pull."""
        return gradient + proximal * (value - self._anchor.read_value())

    def corrected(self, gradient: Tensor) -> Tensor:
        """The gradient (P,) with the correction added."""
        return gradient + self._correction.read_value()

    def momentum_move(self, gradient: Tensor, learning_rate: Tensor, momentum: Tensor) -> Tensor:
        """Velocity v = momentum·v + g; gives back learning_rate·v, to be subtracted from the parameters."""
        return learning_rate * _decayed(self._mean, gradient, momentum)

    def adam_move(self, gradient: Tensor, learning_rate: Tensor) -> Tensor:
        """Moments of the gradient; gives back learning_rate·m̂ / (√v̂ + ε), to be subtracted from the parameters."""
        one, keep_mean, keep_square = (tf.constant([x]) for x in (1.0, MEAN_DECAY, SQUARE_DECAY))
        mean_weight = _decayed(self._mean_weight, one, keep_mean)
        root = tf.sqrt(_decayed(self._square_weight, one, keep_square))
        mean = _decayed(self._mean, gradient, keep_mean)
        square = _decayed(self._square, tf.square(gradient), keep_square)
        # Numerator and denominator times the root of the weight: one operation less on every parameter.
        rate = learning_rate * root / mean_weight
        return rate * mean / (tf.sqrt(square) + tf.constant([EPSILON]) * root)


def clip_factor(clip: Tensor, squared_norm: Tensor) -> Tensor:
    """min(1, clip / norm), of the shape of `squared_norm`."""
    norm = tf.sqrt(squared_norm) + tf.constant([_NORM_FLOOR])
    return tf.minimum(clip / norm, tf.constant([1.0]))


def clipped(gradient: Tensor, clip: Tensor) -> Tensor:
    """The gradient (P,), scaled to norm `clip` (1,) where it is longer."""
    return gradient * clip_factor(clip, tf.reduce_sum(tf.square(gradient), keepdims=True))


def _decayed(variable: Tensor, new: Tensor, decay: Tensor) -> Tensor:
    """decay·old + new, kept in the variable."""
    total = decay * variable.read_value() + new
    variable.assign(total)
    return total


def _variable(name: str, length: int) -> Tensor:
    return tf.Variable(tf.zeros([length]), name=name)
