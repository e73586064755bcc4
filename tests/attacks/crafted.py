"""What an attacker puts into a question who wants to know one window: detectors that fire for it and for nothing else.

It knows more than any attacker does: both windows that a device may have, and all its others. What does not tell these two apart for
such an attacker tells nobody anything.

    gate        a first-layer unit with weights v and bias -t fires for x·v > t; what is behind it may then overflow, or move
    narrow      v, t that let one window through and stop all others (least squares on the whitened rows, then the middle of the gap)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.architecture import Architecture, initial_parameters, join_parameters, split_parameters

Float = NDArray[np.float32]

GAINS: Final = (1e-45, 1e-38, 1e-6, 1e-2, 1.0, 31.9, 1e3, 1e9, 1e18, 2e19, 1e30, 3e38)
"""From numbers below float32's normal ones, over those that a model has, to those whose squares overflow."""


def narrow_gate(
    target: NDArray[np.floating], others: NDArray[np.floating]
) -> tuple[NDArray[np.float64], float]:
    """Direction v (F,) and threshold t with target·v > t and, where any linear gate can, every other row below."""
    rows = np.asarray(others, np.float64)
    rows = rows[np.isfinite(rows).all(axis=1)]
    goal = np.nan_to_num(np.asarray(target, np.float64))
    centre = rows.mean(axis=0)
    spread = np.cov(rows.T) + 1e-6 * np.eye(rows.shape[1])
    direction = np.linalg.solve(spread, goal - centre)
    length = np.linalg.norm(direction)
    direction = direction / length if length > 0 else np.eye(rows.shape[1])[0]
    return direction, float((goal @ direction + (rows @ direction).max()) / 2)


def midpoint_gate(
    one: NDArray[np.floating], other: NDArray[np.floating], feature: int
) -> tuple[NDArray[np.float64], float]:
    """The gate that tells the two windows apart by one feature."""
    a, b = np.nan_to_num(one), np.nan_to_num(other)
    sign = 1.0 if a[feature] >= b[feature] else -1.0
    direction = np.zeros(len(a))
    direction[feature] = sign
    return direction, float(sign * (a[feature] + b[feature]) / 2)


def gated(
    architecture: Architecture,
    gates: Sequence[tuple[NDArray[np.float64], float]],
    *,
    sharpness: float,
    gain: float,
    base: Float | None = None,
) -> Float:
    """Parameters (P,) whose first units are the `gates`, each times `sharpness`, and whose output is `gain` times them.

    Over `base`, by default a model of zeros.
    """
    flat = np.zeros(architecture.parameter_count, np.float32) if base is None else base
    parts = [np.array(part, np.float64) for part in split_parameters(architecture, flat)]
    for unit, (direction, threshold) in enumerate(gates[: parts[0].shape[1]]):
        parts[0][:, unit], parts[1][unit] = sharpness * direction, -sharpness * threshold
        parts[2][unit, :] = gain
    with np.errstate(over="ignore"):
        return join_parameters(
            architecture, [np.clip(part, -3.4e38, 3.4e38).astype(np.float32) for part in parts]
        )


def honest(architecture: Architecture, seed: int) -> Float:
    """A model as it leaves its maker."""
    return initial_parameters(architecture, seed)


def window_behind(update: NDArray[np.floating], architecture: Architecture, unit: int) -> NDArray[np.float64]:
    """What a first-layer unit that fired for one window alone says it was: ΔW/Δb (F,)."""
    weights, biases = split_parameters(architecture, np.asarray(update, np.float64))[:2]
    return weights[:, unit] / biases[unit] if biases[unit] else np.full(weights.shape[0], np.nan)
