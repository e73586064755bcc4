"""The model families in plain NumPy: the oracle that every other runtime is tested against.

It is written from the equations, in float64 where the graphs use float32, and shares no code with `models.export`.
The cloud also uses it to train a first release on reference recordings; a device runs LiteRT instead.

    a_0 = x;  z_i = a_i W_i + b_i;  a_{i+1} = max(z_i, 0);  output = z_last
    convolution   z_i[t] = sum over taps j of a_i[t + j - reach] W_i[j] + b_i at each position t, zeros beyond the ends
    autoencoder   loss = mean over batch and features of (output - x)^2      score = mean over features
    classifier    loss = mean over batch of -log softmax(output)[label]      score = 1 - max softmax(output)

The proximal term (mu/2)·|w - anchor|^2 is that of FedProx: Li et al., "Federated Optimization in Heterogeneous
Networks", arXiv:1812.06127v5, Eq. (2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.architecture import Architecture, Kind, split_parameters
from models.convolution import Layer
from models.errors import LayoutError

__all__ = ["activations", "infer", "loss_and_gradient", "ranges", "scores", "softmax", "train_step"]

Float = NDArray[np.float64]
Floats = NDArray[np.floating]


def activations(
    architecture: Architecture, flat: NDArray[np.floating], x: NDArray[np.floating]
) -> list[Float]:
    """Every activation tensor for x (B, F), in the order of `architecture.tensor_names`."""
    parts = split_parameters(architecture, np.asarray(flat, np.float64))
    tensors = [_batch(architecture, x)]
    for i, layer in enumerate(architecture.geometry):
        tensors.append(_forward(layer, tensors[-1], parts[2 * i], parts[2 * i + 1]))
        if i != len(architecture.geometry) - 1:
            tensors.append(np.maximum(tensors[-1], 0.0))
    return tensors


def infer(
    architecture: Architecture, flat: NDArray[np.floating], x: NDArray[np.floating]
) -> tuple[Float, Float]:
    """(output (B, outputs), score (B,)) for x (B, F)."""
    output = activations(architecture, flat, x)[-1]
    return output, scores(architecture.kind, x, output)


def scores(kind: Kind, x: NDArray[np.floating], output: NDArray[np.floating]) -> Float:
    """Anomaly score (B,) of inputs (B, F) and outputs (B, outputs): see the module's equations."""
    if kind != "dense-classifier":
        difference = np.asarray(output, np.float64) - x
        return np.asarray(np.mean(difference * difference, axis=-1))
    return np.asarray(1.0 - np.max(softmax(output), axis=-1))


def softmax(logits: NDArray[np.floating]) -> Float:
    """Class probabilities along the last axis."""
    shifted = np.exp(logits - np.max(logits, axis=-1, keepdims=True), dtype=np.float64)
    return np.asarray(shifted / np.sum(shifted, axis=-1, keepdims=True))


def ranges(
    architecture: Architecture, flat: NDArray[np.floating], x: NDArray[np.floating]
) -> tuple[Float, Float]:
    """(lowest (T,), highest (T,)) value of every activation tensor over the batch."""
    tensors = activations(architecture, flat, x)
    return np.array([t.min() for t in tensors]), np.array([t.max() for t in tensors])


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
        slopes, delta = _backward(layer, inputs[i], weights[i], delta)
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


def _forward(layer: Layer, x: Float, weight: Floats, bias: Floats) -> Float:
    """Sums (B, positions · outputs) of a layer for its input (B, positions · inputs)."""
    blocks, taps = _padded(layer, x), weight.reshape(layer.taps, layer.inputs, layer.outputs)
    sums = sum(blocks[:, j : j + layer.positions] @ taps[j] for j in range(layer.taps)) + bias
    return np.asarray(sums).reshape(len(x), -1)


def _backward(layer: Layer, x: Float, weight: Floats, delta: Float) -> tuple[list[Float], Float]:
    """([gradient of the weights, of the biases], derivative by x) for `delta`, the derivative by the layer's sums."""
    blocks, taps = _padded(layer, x), weight.reshape(layer.taps, layer.inputs, layer.outputs)
    sums = delta.reshape(len(x), layer.positions, layer.outputs)
    slope = np.zeros_like(blocks)
    gradient = np.zeros_like(taps)
    for j in range(layer.taps):
        seen = slice(j, j + layer.positions)
        gradient[j] = np.einsum("bti,bto->io", blocks[:, seen], sums)
        slope[:, seen] += sums @ taps[j].T
    inner = slope[:, layer.reach : layer.reach + layer.positions]
    return [gradient.ravel(), sums.sum(axis=(0, 1))], inner.reshape(x.shape)


def _padded(layer: Layer, x: Float) -> Float:
    """The input as blocks (B, positions + 2 · reach, inputs), with zeros beyond both ends."""
    blocks = x.reshape(len(x), layer.positions, layer.inputs)
    return np.pad(blocks, ((0, 0), (layer.reach, layer.reach), (0, 0)))


def _batch(architecture: Architecture, x: NDArray[np.floating]) -> Float:
    if x.ndim != 2 or x.shape[1] != architecture.feature_count or not len(x):
        raise LayoutError(f"a batch has shape (≥1, {architecture.feature_count}), got {x.shape}")
    return np.asarray(x, np.float64)
