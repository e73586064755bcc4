"""The derivatives of the model families in plain NumPy: the oracle that every runtime's training is tested against.

Written from the equations over `models.reference_model`'s forward pass, in float64; it shares no code with `models.export`.

    autoencoder   loss = mean over batch and features of (output - x)^2
    classifier    loss = mean over batch of -log softmax(output)[label]

The proximal term (mu/2)·|w - anchor|^2 is that of FedProx: Li et al., "Federated Optimization in Heterogeneous
Networks", arXiv:1812.06127v5, Eq. (2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.architecture import Architecture, split_parameters
from models.convolution import Layer
from models.errors import LayoutError
from models.reference_model import activations, softmax

__all__ = ["backward", "loss_and_gradient", "train_step"]

Float = NDArray[np.float64]
Floats = NDArray[np.floating]


def loss_and_gradient(
    architecture: Architecture,
    flat: NDArray[np.floating],
    x: NDArray[np.floating],
    labels: NDArray[np.floating] | None = None,
) -> tuple[float, Float]:
    """(mean loss, its gradient (P,)) for x (B, F); a classifier needs one-hot `labels` (B, classes).

    Raises:
        LayoutError: labels missing for a classifier or of another shape.
    """
    weights = split_parameters(architecture, np.asarray(flat, np.float64))[::2]
    tensors = activations(architecture, flat, x)
    output, batch = tensors[-1], len(tensors[0])
    if not architecture.is_classifier:
        loss = float(np.mean((output - tensors[0]) ** 2))
        delta = 2.0 * (output - tensors[0]) / output.size
    else:
        if labels is None or labels.shape != output.shape:
            raise LayoutError(
                f"a classifier trains on one-hot labels of shape {output.shape}, got {None if labels is None else labels.shape}"
            )
        loss = float(-np.sum(labels * np.log(np.maximum(softmax(output), 1e-300))) / batch)
        delta = (softmax(output) - labels) / batch
    inputs = [tensors[0], *tensors[2:-1:2]]
    gradient: list[Float] = []
    for i, layer in reversed(list(enumerate(architecture.geometry))):
        slopes, delta = backward(layer, inputs[i], weights[i], delta)
        gradient = [*slopes, *gradient]
        delta = delta * (inputs[i] > 0)
    return loss, np.concatenate(gradient)


def train_step(
    architecture: Architecture,
    flat: NDArray[np.floating],
    x: NDArray[np.floating],
    learning_rate: float,
    *,
    labels: NDArray[np.floating] | None = None,
    anchor: NDArray[np.floating] | None = None,
    proximal: float = 0.0,
) -> tuple[Float, float]:
    """One step of gradient descent: (new parameters (P,), loss before the step without the proximal term)."""
    loss, gradient = loss_and_gradient(architecture, flat, x, labels)
    pull = 0.0 if anchor is None else proximal * (np.asarray(flat, np.float64) - anchor)
    return np.asarray(flat - learning_rate * (gradient + pull), np.float64), loss


def backward(layer: Layer, x: Float, weight: Floats, delta: Float) -> tuple[list[Float], Float]:
    """([gradient of the weights, of the biases], derivative by x) for `delta`, the derivative by the layer's sums."""
    taps = weight.reshape(layer.taps, layer.inputs, layer.outputs)
    # Zeros beyond both ends, as in the forward pass.
    blocks = np.pad(
        x.reshape(len(x), layer.positions, layer.inputs), ((0, 0), (layer.reach, layer.reach), (0, 0))
    )
    sums = delta.reshape(len(x), layer.positions, layer.outputs)
    slope = np.zeros_like(blocks)
    gradient = np.zeros_like(taps)
    for j in range(layer.taps):
        seen = slice(j, j + layer.positions)
        gradient[j] = np.einsum("bti,bto->io", blocks[:, seen], sums)
        slope[:, seen] += sums @ taps[j].T
    inner = slope[:, layer.reach : layer.reach + layer.positions]
    return [gradient.ravel(), sums.sum(axis=(0, 1))], inner.reshape(x.shape)
