"""A convolutional layer and its derivatives: shifted slices, one matrix product, shifted sums.

`unfold` lays the blocks that one position sees side by side, so the layer is a matrix product over positions; `fold`,
its transpose, adds the overlapping derivatives up again.

    x (B, n·inputs) ─ pad ─ unfold ─► (B·n, taps·inputs) @ W ─► (B, n·outputs)
    derivative by x ◄─ crop ─ fold ◄─ (B·n, taps·inputs) ◄─ delta @ Wᵀ

The gradient of one example is UᵀD, with U (n, taps·inputs) its unfolded input and D (n, outputs) its derivative; its
squared norm is either summed up from UᵀD or, where that matrix is larger than n x n, as the sum of (UUᵀ)∘(DDᵀ).
Everything is a builtin of every TFLite runtime; LiteRT's CONV_2D has no derivative among them.

Source of the second form: Bu, Mao, Xu, "Scalable and Efficient Training of Large Convolutional Neural Networks with
Differential Privacy", arXiv:2205.10683v3, section 3 (ghost norm, mixed layerwise).
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from models.convolution import Layer
from models.export.layer_gradients import Tensor

__all__ = ["ConvolutionGradients"]


class ConvolutionGradients:
    """The layer of one `models.convolution.Layer`; parameters W (taps·inputs, outputs) and b (1, outputs)."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Shapes of W and b."""
        return (self._layer.matrix_shape, (1, self._layer.outputs))

    def forward(self, x: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Sums (B, positions · outputs)."""
        weight, bias = parameters
        sums = tf.matmul(self._unfold(x), weight) + bias
        return tf.reshape(sums, [-1, self._layer.positions * self._layer.outputs])

    def input_gradient(self, parameters: Sequence[Tensor], delta: Tensor) -> Tensor:
        """Derivative by x (B, positions · inputs)."""
        return self._fold(tf.matmul(self._per_position(delta), parameters[0], transpose_b=True))

    def parameter_gradients(self, x: Tensor, delta: Tensor) -> list[Tensor]:
        """Gradients of W and b, summed over the batch and the positions."""
        rows = self._per_position(delta)
        return [
            tf.matmul(self._unfold(x), rows, transpose_a=True),
            tf.reduce_sum(rows, axis=[0], keepdims=True),
        ]

    def squared_norms(self, x: Tensor, delta: Tensor) -> Tensor:
        """|gradient of example i|² (B, 1)."""
        layer = self._layer
        seen = tf.reshape(self._unfold(x), [-1, layer.positions, layer.matrix_shape[0]])
        slopes = tf.reshape(delta, [-1, layer.positions, layer.outputs])
        if layer.positions**2 < layer.matrix_shape[0] * layer.outputs:
            products = tf.matmul(seen, seen, transpose_b=True) * tf.matmul(slopes, slopes, transpose_b=True)
        else:
            products = tf.square(tf.matmul(seen, slopes, transpose_a=True))
        weight = tf.reduce_sum(products, axis=[1, 2])
        bias = tf.reduce_sum(tf.square(tf.reduce_sum(slopes, axis=[1])), axis=[1])
        return tf.reshape(weight + bias, [-1, 1])

    def _per_position(self, delta: Tensor) -> Tensor:
        return tf.reshape(delta, [-1, self._layer.outputs])

    def _unfold(self, x: Tensor) -> Tensor:
        """What each position sees, (B · positions, taps · inputs)."""
        n, width, reach = self._layer.positions, self._layer.inputs, self._layer.reach
        if not reach:
            return tf.reshape(x, [-1, width])
        # Rows are padded and sliced flat: a shift by a block is a shift by its width, and needs no further axis.
        padded = tf.pad(x, [[0, 0], [reach * width, reach * width]])
        blocks = [
            tf.reshape(padded[:, j * width : (j + n) * width], [-1, n, width])
            for j in range(self._layer.taps)
        ]
        return tf.reshape(tf.concat(blocks, axis=2), [-1, self._layer.taps * width])

    def _fold(self, columns: Tensor) -> Tensor:
        """The transpose of `_unfold`: (B · positions, taps · inputs) to (B, positions · inputs)."""
        n, width, reach = self._layer.positions, self._layer.inputs, self._layer.reach
        seen = tf.reshape(columns, [-1, n, self._layer.taps * width])
        total = None
        # A tap further out than the row is long saw nothing but zeros.
        for j in range(max(0, reach - n + 1), min(self._layer.taps, reach + n)):
            block = tf.reshape(seen[:, :, j * width : (j + 1) * width], [-1, n * width])
            # Block t + j - reach of the input gets what tap j of position t says; zeros take its place at the ends.
            shift = (j - reach) * width
            inside = block[:, max(-shift, 0) : n * width - max(shift, 0)]
            moved = tf.pad(inside, [[0, 0], [max(shift, 0), max(-shift, 0)]])
            total = moved if total is None else total + moved
        return total
