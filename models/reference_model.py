"""The model families in plain NumPy: the oracle that every other runtime is tested against.

It is written from the equations, in float64 where the graphs use float32, and shares no code with `models.export`. Its
derivatives are the tests' (`tests/reference_training.py`): the product trains with LiteRT or PyTorch.

    a_0 = x;  z_i = a_i W_i + b_i;  a_{i+1} = max(z_i, 0);  output = z_last
    convolution   z_i[t] = sum over taps j of a_i[t + j - reach] W_i[j] + b_i at each position t, zeros beyond the ends
    autoencoder   score = mean over features of (output - x)^2
    classifier    score = 1 - max softmax(output)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.architecture import Architecture, Kind, split_parameters
from models.convolution import Layer
from models.errors import LayoutError

__all__ = ["activations", "infer", "ranges", "scores", "softmax"]

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


def _forward(layer: Layer, x: Float, weight: Floats, bias: Floats) -> Float:
    """Sums (B, positions · outputs) of a layer for its input (B, positions · inputs)."""
    blocks, taps = _padded(layer, x), weight.reshape(layer.taps, layer.inputs, layer.outputs)
    sums = sum(blocks[:, j : j + layer.positions] @ taps[j] for j in range(layer.taps)) + bias
    return np.asarray(sums).reshape(len(x), -1)


def _padded(layer: Layer, x: Float) -> Float:
    """The input as blocks (B, positions + 2 · reach, inputs), with zeros beyond both ends."""
    blocks = x.reshape(len(x), layer.positions, layer.inputs)
    return np.pad(blocks, ((0, 0), (layer.reach, layer.reach), (0, 0)))


def _batch(architecture: Architecture, x: NDArray[np.floating]) -> Float:
    if x.ndim != 2 or x.shape[1] != architecture.feature_count or not len(x):
        raise LayoutError(f"a batch has shape (≥1, {architecture.feature_count}), got {x.shape}")
    return np.asarray(x, np.float64)
