"""A dense layer y = x W + b and its derivatives.

The gradient of example i is the outer product of its row of x and its row of delta, and that row of delta for the
bias. So its squared norm is (|x_i|² + 1)·|delta_i|²: two sums over rows, and no gradient per example in memory.

Source of the norm: Goodfellow, "Efficient Per-Example Gradient Computations", 2015, arXiv:1510.01799v2, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from models.export.layer_gradients import Tensor

__all__ = ["DenseGradients"]


class DenseGradients:
    """The layer between `inputs` and `outputs` units; parameters W (inputs, outputs) and b (1, outputs)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self.shapes = ((inputs, outputs), (1, outputs))

    def forward(self, x: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Output (B, outputs)."""
        weight, bias = parameters
        return tf.matmul(x, weight) + bias

    def input_gradient(self, parameters: Sequence[Tensor], delta: Tensor) -> Tensor:
        """Derivative by x (B, inputs)."""
        return tf.matmul(delta, parameters[0], transpose_b=True)

    def parameter_gradients(self, x: Tensor, delta: Tensor) -> list[Tensor]:
        """Gradients of W and b, summed over the batch."""
        return [tf.matmul(x, delta, transpose_a=True), tf.reduce_sum(delta, axis=[0], keepdims=True)]

    def squared_norms(self, x: Tensor, delta: Tensor) -> Tensor:
        """(|x_i|² + 1)·|delta_i|² (B, 1)."""
        # The one stands for the bias, whose input is one.
        inputs = tf.reduce_sum(tf.square(x), axis=[1], keepdims=True) + tf.constant([1.0])
        return inputs * tf.reduce_sum(tf.square(delta), axis=[1], keepdims=True)
