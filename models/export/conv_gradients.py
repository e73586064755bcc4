"""A convolutional layer and its derivatives: shifted slices, one matrix product, shifted sums.

`unfold` lays the blocks that one position sees side by side; `fold`, its transpose, moves each tap's share to the
position it belongs to and adds up. Both cost more time than the products, so they are done on the narrower side of a
layer, which makes two forms of the same thing:

    narrow input    y = unfold(x) @ W     by x: fold(delta @ Wᵀ)      by W: unfold(x)ᵀ @ delta
    narrow output   y = fold(x @ M)       by x: unfold(delta) @ Mᵀ    by M: xᵀ @ unfold(delta)

with M (inputs, taps·outputs) the taps of W (taps·inputs, outputs) side by side, last tap first. Everything is a builtin of
every TFLite runtime; LiteRT's CONV_2D has no derivative among them.

The gradient of one example is AᵀD, with A and D the two factors above, n rows of that example; its squared norm is
either summed up from AᵀD or, where that matrix is larger than n x n, as the sum of (AAᵀ)∘(DDᵀ).

Source of the second form of the norm, and of choosing it by layer: Bu, Mao, Xu, "Scalable and Efficient Training of
Large Convolutional Neural Networks with Differential Privacy", arXiv:2205.10683v1 (mixed ghost clipping).
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
        self._is_narrow_in = layer.inputs <= layer.outputs
        self.shapes = (layer.matrix_shape, (1, layer.outputs))

    def forward(self, x: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Sums (B, positions · outputs)."""
        weight, bias = parameters
        layer = self._layer
        if self._is_narrow_in:
            sums = tf.matmul(self._unfold(x, layer.inputs), weight)
        else:
            sums = self._fold(tf.matmul(_rows(x, layer.inputs), self._side_by_side(weight)), layer.outputs)
        return tf.reshape(_rows(sums, layer.outputs) + bias, [-1, layer.positions * layer.outputs])

    def input_gradient(self, parameters: Sequence[Tensor], delta: Tensor) -> Tensor:
        """Derivative by x (B, positions · inputs)."""
        layer, weight = self._layer, parameters[0]
        if self._is_narrow_in:
            moved = self._fold(tf.matmul(_rows(delta, layer.outputs), weight, transpose_b=True), layer.inputs)
        else:
            seen = self._unfold(delta, layer.outputs)
            moved = tf.matmul(seen, self._side_by_side(weight), transpose_b=True)
        return tf.reshape(moved, [-1, layer.positions * layer.inputs])

    def parameter_gradients(self, x: Tensor, delta: Tensor) -> list[Tensor]:
        """Gradients of W and b, summed over the batch and the positions."""
        left, right = self._factors(x, delta)
        weight = tf.matmul(left, right, transpose_a=True)
        if not self._is_narrow_in:
            taps, outputs = self._layer.taps, self._layer.outputs
            weight = tf.concat(
                [weight[:, j * outputs : (j + 1) * outputs] for j in reversed(range(taps))], axis=0
            )
        bias = tf.reduce_sum(_rows(delta, self._layer.outputs), axis=[0], keepdims=True)
        return [weight, bias]

    def squared_norms(self, x: Tensor, delta: Tensor) -> Tensor:
        """|gradient of example i|² (B, 1)."""
        layer = self._layer
        left, right = (
            tf.reshape(factor, [-1, layer.positions, factor.shape[1]]) for factor in self._factors(x, delta)
        )
        if layer.positions**2 < layer.matrix_shape[0] * layer.outputs:
            products = tf.matmul(left, left, transpose_b=True) * tf.matmul(right, right, transpose_b=True)
        else:
            products = tf.square(tf.matmul(left, right, transpose_a=True))
        weight = tf.reduce_sum(products, axis=[1, 2])
        slopes = tf.reshape(delta, [-1, layer.positions, layer.outputs])
        bias = tf.reduce_sum(tf.square(tf.reduce_sum(slopes, axis=[1])), axis=[1])
        return tf.reshape(weight + bias, [-1, 1])

    def _factors(self, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """The matrices (B · positions, ·) whose product over rows is the gradient of W, or of M."""
        layer = self._layer
        if self._is_narrow_in:
            return self._unfold(x, layer.inputs), _rows(delta, layer.outputs)
        return _rows(x, layer.inputs), self._unfold(delta, layer.outputs)

    def _side_by_side(self, weight: Tensor) -> Tensor:
        """M (inputs, taps · outputs)."""
        inputs = self._layer.inputs
        taps = reversed(range(self._layer.taps))
        return tf.concat([weight[j * inputs : (j + 1) * inputs] for j in taps], axis=1)

    def _unfold(self, values: Tensor, width: int) -> Tensor:
        """What each position sees of values (B, positions · width), as rows (B · positions, taps · width)."""
        n, reach = self._layer.positions, self._layer.reach
        if not reach:
            return _rows(values, width)
        padded = tf.pad(tf.reshape(values, [-1, n, width]), [[0, 0], [reach, reach], [0, 0]])
        blocks = [padded[:, j : j + n] for j in range(self._layer.taps)]
        return _rows(tf.concat(blocks, axis=2), self._layer.taps * width)

    def _fold(self, columns: Tensor, width: int) -> Tensor:
        """The transpose of `_unfold`: (B · positions, taps · width) to (B, positions, width)."""
        n, reach = self._layer.positions, self._layer.reach
        seen = tf.reshape(columns, [-1, n, self._layer.taps * width])
        total = None
        # A tap further out than the row is long saw nothing but zeros.
        for j in range(max(0, reach - n + 1), min(self._layer.taps, reach + n)):
            # Position t + j - reach gets what tap j of position t says; zeros take its place at the ends.
            ahead, behind = max(j - reach, 0), max(reach - j, 0)
            inside = seen[:, behind : n - ahead, j * width : (j + 1) * width]
            moved = tf.pad(inside, [[0, 0], [ahead, behind], [0, 0]]) if ahead or behind else inside
            total = moved if total is None else total + moved
        return total


def _rows(values: Tensor, width: int) -> Tensor:
    return tf.reshape(values, [-1, width])
