"""How many windows stand behind each entry of a model's gradient: what only a few of them move would say what they are.

    entry p     g_p(n) = ∂ loss(window n) / ∂ w_p            support = (Σ|g_p|)² / Σ g_p²      from 1, one window, to n, all alike

For ΔW/Δb of a unit that one window switches on *is* that window, however many steps were taken. The same happens one layer
further in, where a broad unit feeds only what one window switches on, and at the output, where a row of ΔW is what is missing of the
window. So entries are counted and not units: a gate anywhere on the way makes the gradients of all windows but one vanish, and the
support says so. Soft gates count too: a window that weighs ten times as much as each of thirty others leaves a support below 16.

A convolutional unit is the same unit at each position of a window; what it does anywhere in a window is that window's part.

Not seen: sums over many units whose supports are broad, but whose differences are not. Against these stands the distance to a model
that a person approved, and that nobody but the device knows which windows it has used.

Source: the effective number of observations, L. Kish, "Survey Sampling", 1965, chapter 11.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.architecture import Architecture, split_parameters
from models.convolution import Layer
from models.errors import LayoutError

__all__ = ["gradient_support"]

Floats = NDArray[np.floating]
Float = NDArray[np.float64]

_CHUNK_ENTRIES: Final = 1_000_000
"""Gradient entries held at once: 8 MB."""


def gradient_support(architecture: Architecture, flat: Floats, x: Floats) -> Float:
    """Effective number of windows behind each parameter's gradient (P,), 0 where no window has any, or one has none that is finite.

    Args:
        architecture: of an autoencoder; classifiers are not trained on devices, which have no labels.
        flat: parameters (P,).
        x: standardised windows (n, F), n ≥ 1.

    Raises:
        LayoutError: a classifier, or parameters or windows of another shape.
    """
    if architecture.is_classifier or x.ndim != 2 or x.shape[1] != architecture.feature_count:
        raise LayoutError(
            f"support is counted for autoencoders of (n, {architecture.feature_count}) windows, got"
            f" {architecture.kind} and {x.shape}"
        )
    parts = split_parameters(architecture, np.asarray(flat, np.float64))
    total, squares = np.zeros(architecture.parameter_count), np.zeros(architecture.parameter_count)
    rows = max(1, _CHUNK_ENTRIES // architecture.parameter_count)
    with np.errstate(all="ignore"):
        for at in range(0, len(x), rows):
            gradients = np.abs(_gradients(architecture, parts, np.asarray(x[at : at + rows], np.float64)))
            total += gradients.sum(axis=0)
            squares += np.square(gradients, out=gradients).sum(axis=0)
        support = total * total / squares
    # NaN where nothing moved, and where something overflowed: nobody stands behind either.
    return np.where(np.isfinite(support), support, 0.0)


def _gradients(architecture: Architecture, parts: list[Floats], x: Float) -> Float:
    """Each window's own gradient (B, P), up to a common factor."""
    geometry = architecture.geometry
    inputs, blocks = x, []
    for i, layer in enumerate(geometry):
        blocks.append(_blocks(layer, inputs))
        sums = blocks[-1] @ parts[2 * i].reshape(layer.matrix_shape) + parts[2 * i + 1]
        inputs = (sums if i == len(geometry) - 1 else np.maximum(sums, 0.0)).reshape(len(x), -1)
    signal = inputs - x
    found: list[Float] = []
    for i, layer in reversed(list(enumerate(geometry))):
        delta = signal.reshape(len(x), layer.positions, layer.outputs)
        weights = np.matmul(blocks[i].transpose(0, 2, 1), delta)
        found += [delta.sum(axis=1), weights.reshape(len(x), -1)]
        if i:
            signal = _inputs_signal(layer, delta, parts[2 * i]) * (_centre(layer, blocks[i]) > 0)
    return np.concatenate(found[::-1], axis=1)


def _blocks(layer: Layer, inputs: Float) -> Float:
    """What enters each position (B, positions, taps · inputs), zeros beyond both ends."""
    blocks = inputs.reshape(len(inputs), layer.positions, layer.inputs)
    if layer.taps == 1:
        return blocks
    padded = np.pad(blocks, ((0, 0), (layer.reach, layer.reach), (0, 0)))
    return np.concatenate([padded[:, j : j + layer.positions] for j in range(layer.taps)], axis=2)


def _centre(layer: Layer, blocks: Float) -> Float:
    """The layer's input again (B, positions · inputs): the middle tap."""
    at = layer.reach * layer.inputs
    return blocks[:, :, at : at + layer.inputs].reshape(len(blocks), -1)


def _inputs_signal(layer: Layer, delta: Float, weight: Floats) -> Float:
    """∂ loss / ∂ the layer's input (B, positions · inputs)."""
    taps = weight.reshape(layer.taps, layer.inputs, layer.outputs)
    padded = np.zeros((len(delta), layer.positions + 2 * layer.reach, layer.inputs))
    for j in range(layer.taps):
        padded[:, j : j + layer.positions] += delta @ taps[j].T
    return padded[:, layer.reach : layer.reach + layer.positions].reshape(len(delta), -1)
