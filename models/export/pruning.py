"""Structured pruning at export: hidden units that never fire are left out of the int8 graph.

A ReLU unit whose sum is never above zero adds nothing to the next layer, so leaving it out changes no output, however large
its weights; widths shrink, and with them bytes and time. The training model keeps its architecture: devices go on learning from
all parameters, and a unit that wakes up is back in the next release.

Two ways to know that a unit is silent:

* ``proven``: interval arithmetic over the ranges that the fleet reported bounds its sum by zero. An int8 model saturates at
  those ranges, so this holds for every window it can be given, anomalous ones too.
* ``seen``: it is silent on typical windows. Exact on windows like those and on no
  others: it may well be the unit that an anomaly wakes, so look at detection before using it
  (`python benchmarks/quantization.py pruned`).

Single weights are not pruned: LiteRT's int8 kernels multiply zeros like everything else, and a bundle is not compressed.

Source: Hu, Peng, Tai, Tang, "Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep Architectures",
arXiv:1607.03250v1 (units that fire rarely); interval bounds as in Gowal et al., arXiv:1810.12715v4, Eq. (6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from models import reference_model
from models.architecture import Architecture, join_parameters, split_parameters
from models.errors import LayoutError, RangeError

__all__ = ["Pruned", "proven_silent_units", "remove_units", "seen_silent_units"]

Floats = NDArray[np.floating]
Masks = tuple[NDArray[np.bool_], ...]
"""For each hidden layer, which of its units (width,) are silent."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pruned:
    """A smaller model with the same outputs: its architecture, parameters (P',), and how many units each layer lost."""

    architecture: Architecture
    parameters: NDArray[np.float32]
    removed: tuple[int, ...]


def proven_silent_units(architecture: Architecture, parameters: Floats, low: Floats, high: Floats) -> Masks:
    """Hidden units that cannot fire while activations stay within [low, high].

    Args:
        architecture: a dense family; a convolution's units are positions times channels and are left alone.
        parameters: flat vector (P,).
        low: smallest value of each activation tensor (T,), by `Architecture.tensor_names`.
        high: largest value of each (T,).

    Raises:
        LayoutError: parameters of another length.
        RangeError: ranges of another length.
    """
    if low.shape != (architecture.tensor_count,) or high.shape != low.shape:
        raise RangeError(
            f"{architecture.kind} {architecture.layers} has {architecture.tensor_count} activation tensors, got ranges of shapes {low.shape} and {high.shape}"
        )
    if architecture.convolution is not None:
        return ()
    parts = split_parameters(architecture, np.asarray(parameters, np.float64))
    names = architecture.tensor_names
    # As export encloses zero: int8 can represent it, so a window can bring it, whatever was seen.
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    masks = []
    for i in range(len(architecture.layers) - 2):
        source = names.index("input" if i == 0 else f"relu_{i - 1}")
        weight, bias = parts[2 * i], parts[2 * i + 1]
        largest = bias + np.maximum(weight * high[source], weight * low[source]).sum(axis=0)
        masks.append(largest <= 0)
    return tuple(masks)


def seen_silent_units(architecture: Architecture, parameters: Floats, windows: Floats) -> Masks:
    """Hidden units that do not fire on any of these windows (N, F); raises LayoutError for other shapes."""
    if architecture.convolution is not None:
        return ()
    tensors = reference_model.activations(architecture, parameters, windows)
    return tuple(tensor.max(axis=0) <= 0 for tensor in tensors[2:-1:2])


def remove_units(
    architecture: Architecture, parameters: Floats, silent: Sequence[NDArray[np.bool_]]
) -> Pruned:
    """The model without these hidden units; one of each layer stays, silent or not.

    Raises:
        LayoutError: parameters of another length, or a mask that does not fit its layer.
    """
    widths = architecture.layers[1:-1]
    if silent and [mask.shape for mask in silent] != [(width,) for width in widths]:
        raise LayoutError(
            f"masks of shapes {[mask.shape for mask in silent]} do not fit hidden layers {widths}"
        )
    kept = [~mask for mask in silent]
    for mask in kept:
        mask[0] |= not mask.any()
    parts = split_parameters(architecture, parameters)
    if not kept or all(mask.all() for mask in kept):
        flat = np.ascontiguousarray(parameters, np.float32)
        return Pruned(architecture=architecture, parameters=flat, removed=(0,) * len(kept))
    ends = np.ones(architecture.feature_count, bool), np.ones(architecture.output_count, bool)
    masks = [ends[0], *kept, ends[1]]
    smaller = Architecture(kind=architecture.kind, layers=tuple(int(mask.sum()) for mask in masks))
    arrays = []
    for i, (before, after) in enumerate(pairwise(masks)):
        arrays += [parts[2 * i][before][:, after], parts[2 * i + 1][after]]
    return Pruned(
        architecture=smaller,
        parameters=join_parameters(smaller, arrays),
        removed=tuple(int((~mask).sum()) for mask in kept),
    )
