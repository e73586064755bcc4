"""What the training graph asks of a layer: its output, and three derivatives, each in TFLite builtins.

A layer owns no variables and holds no activation: the graph hands it the values it needs, in the order in which they
lie in the flat vector. ReLU between layers, the loss and the optimizer are the graph's (`models.export.training_graph`).

    x (B,inputs) ──► forward ──► y (B,outputs)
                                   │ delta = derivative of the loss by y, one row an example
    input_gradient ◄───────────────┤            derivative by x, for the layer before
    parameter_gradients ◄──────────┤            summed over the examples of the batch
    squared_norms ◄────────────────┘            |gradient of one example|², without building that gradient

Invariants: tensors between layers are rows, (batch, width) — a layer with more axes reshapes inside; parameters are
matrices — a bias is a row, because rank 1 would be broadcast in every step; no input of an operation has rank 0 (LiteRT on
aarch64 crashes where a scalar meets a matrix).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

__all__ = ["LayerGradients", "Tensor"]

Tensor = Any
"""TensorFlow ships no types: a tensor is Any, under this name."""


class LayerGradients(Protocol):
    """One layer y = f(x; parameters), linear in x and in its parameters."""

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Shape of each parameter, in the order of the flat vector; each has two axes."""

    def forward(self, x: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Output (B, outputs) for x (B, inputs)."""

    def input_gradient(self, parameters: Sequence[Tensor], delta: Tensor) -> Tensor:
        """Derivative by x (B, inputs), from the derivative by y (B, outputs)."""

    def parameter_gradients(self, x: Tensor, delta: Tensor) -> list[Tensor]:
        """Gradient of each parameter in its shape, summed over the batch."""

    def squared_norms(self, x: Tensor, delta: Tensor) -> Tensor:
        """|gradient of example i|² over all of this layer's parameters, (B, 1); `delta` is not divided by the batch."""
