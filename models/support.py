"""Which entries of an update have enough windows behind them: what only a few of them move would say what they are.

    unit j of a layer      its signal on window n,  s_j(n) = |∂ loss(n) / ∂ (its sum)|        0 where it does not fire, or nothing follows
    what a unit is fed     a_i(n) = |its input i on window n|
    W_ij may move          if s_j and a_i each have at least `FEWEST_WINDOWS` windows, worth at least `fewest_effective` alike ones

For ΔW/Δb of a unit that one window switches on *is* that window, however many steps were taken; at the output, the row of ΔW of a
unit that one window switches on is what is missing of it. Signals and not only firing are counted: a unit that fires for all, but
feeds only what one window switches on, has that window's gradient alone. And their worth, (Σs)²/Σs², not only their number: else a
gate that is not quite shut would pass. Of what n others add, each a little and not all to one side, only about √n is left, and an
attacker knows what windows are like on average. So a window may have no larger share q than leaves it hidden by a quarter of
itself, (1 - q)/(q √n) ≥ 1/4: of a thousand windows none may have more than a ninth, of thirteen one may have half.

A convolutional unit is one unit at all its positions: what it does anywhere in a window is that window's.

Not seen: sums over several units with broad support whose differences are not. Against these stand the distance to a model that a
person approved, and that nobody but the device knows which windows it used.

Source: L. Kish, "Survey Sampling", 1965, chapter 11, for the effective number.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.architecture import Architecture, split_parameters
from models.convolution import Layer
from models.errors import LayoutError

__all__ = ["FEWEST_WINDOWS", "fewest_effective", "supported_entries"]

Floats = NDArray[np.floating]
Float = NDArray[np.float64]
Bools = NDArray[np.bool_]

FEWEST_WINDOWS: Final = 8

_HIDDEN_BY: Final = 0.25
_FEWEST_EFFECTIVE: Final = 4.0

_CHUNK_VALUES: Final = 1_000_000
"""Values of one activation tensor held at once: 8 MB."""


def fewest_effective(windows: int) -> float:
    """How many alike windows those that move an entry must be worth, of so many that are trained on.

    >>> [round(fewest_effective(n), 1) for n in (8, 50, 1000)]
    [4.0, 7.7, 79.3]
    """
    return max(_FEWEST_EFFECTIVE, (1.0 + _HIDDEN_BY * math.sqrt(windows)) ** 2)


def supported_entries(architecture: Architecture, flat: Floats, x: Floats) -> Bools:
    """Whether each parameter (P,) may move by a gradient that is taken at `flat` on these windows.

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
    largest = max(layer.positions * max(layer.inputs, layer.outputs) for layer in architecture.geometry)
    rows = max(1, _CHUNK_VALUES // largest)
    fewest = fewest_effective(len(x))
    fed = [_Tally(layer.inputs, fewest) for layer in architecture.geometry]
    signalled = [_Tally(layer.outputs, fewest) for layer in architecture.geometry]
    with np.errstate(all="ignore"):
        for at in range(0, len(x), rows):
            _tally(architecture, parts, np.asarray(x[at : at + rows], np.float64), fed, signalled)
        found: list[Bools] = []
        for layer, inputs, outputs in zip(architecture.geometry, fed, signalled, strict=True):
            moves = outputs.is_broad()
            pairs = np.logical_and.outer(np.tile(inputs.is_broad(), layer.taps), moves)
            found += [pairs.ravel(), moves]
    return np.concatenate(found)


class _Tally:
    """For each of so many units: windows in which it takes part, and how much."""

    def __init__(self, units: int, fewest: float) -> None:
        self._fewest = fewest
        self._count, self._total, self._squares = np.zeros(units), np.zeros(units), np.zeros(units)

    def add(self, values: Float) -> None:
        """Of windows (B, positions, units)."""
        magnitudes = np.abs(values).sum(axis=1)
        self._count += (magnitudes > 0).sum(axis=0)
        self._total += magnitudes.sum(axis=0)
        self._squares += np.square(magnitudes).sum(axis=0)

    def is_broad(self) -> Bools:
        """NaN, where nothing moved or something overflowed, is not."""
        effective = self._total * self._total / self._squares
        return np.asarray((self._count >= FEWEST_WINDOWS) & (effective >= self._fewest))


def _tally(
    architecture: Architecture, parts: list[Floats], x: Float, fed: list[_Tally], signalled: list[_Tally]
) -> None:
    geometry, inputs = architecture.geometry, [x]
    for i, layer in enumerate(geometry):
        blocks = inputs[i].reshape(len(x), layer.positions, layer.inputs)
        fed[i].add(blocks)
        sums = _spread_out(layer, blocks) @ parts[2 * i].reshape(layer.matrix_shape) + parts[2 * i + 1]
        is_last = i == len(geometry) - 1
        inputs.append((sums if is_last else np.maximum(sums, 0.0)).reshape(len(x), -1))
    signal = inputs[-1] - x
    for i, layer in reversed(list(enumerate(geometry))):
        delta = signal.reshape(len(x), layer.positions, layer.outputs)
        signalled[i].add(delta)
        if i:
            signal = _gathered(layer, delta, parts[2 * i]) * (inputs[i] > 0)


def _spread_out(layer: Layer, blocks: Float) -> Float:
    """What enters each position (B, positions, taps · inputs), zeros beyond both ends."""
    if layer.taps == 1:
        return blocks
    padded = np.pad(blocks, ((0, 0), (layer.reach, layer.reach), (0, 0)))
    return np.concatenate([padded[:, j : j + layer.positions] for j in range(layer.taps)], axis=2)


def _gathered(layer: Layer, delta: Float, weight: Floats) -> Float:
    """∂ loss / ∂ the layer's input (B, positions · inputs)."""
    taps = weight.reshape(layer.taps, layer.inputs, layer.outputs)
    padded = np.zeros((len(delta), layer.positions + 2 * layer.reach, layer.inputs))
    for j in range(layer.taps):
        padded[:, j : j + layer.positions] += delta @ taps[j].T
    return padded[:, layer.reach : layer.reach + layer.positions].reshape(len(delta), -1)
