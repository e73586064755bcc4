"""Healthy windows disturbed on purpose: what a detector that never saw a fault can be measured by.

A fleet has no labelled faults, and losses of two models cannot be compared (a constant one has none at all). But any detector
can be asked how many disturbed windows it tells from the healthy ones at the same share of false alarms. Four disturbances, one
for each way in which a machine leaves its habits; each copy draws one magnitude and one set of features:

    shift      some features move at once, up or down, by 1 to 3 deviations       a level, a temperature, an imbalance
    stretch    all features move away from their mean by a factor 1.5 to 3        a load, a speed, a looser fit
    swap       some features come from another healthy window                     each value is normal, together they are not
    noise      white noise of 0.75 to 2 deviations on some features               a sensor, an electrical fault

Not a model of any particular fault: it ranks detectors, its power is no promise about a machine. Nor of healthy ageing: a detector that
sees more of everything also sees that sooner (docs/learning.md has the bearings on which that matters). Pure, NumPy alone.

Source of the idea to judge one-class detectors by surrogate anomalies: Fan, Miller, Stolfo, Lee, Chan, "Using artificial anomalies to
detect unknown and known network intrusions", Knowledge and Information Systems 6(5), 2004.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import InputError

__all__ = ["PERTURBATIONS", "perturb"]

Floats = NDArray[np.floating]

PERTURBATIONS: Final = ("shift", "stretch", "swap", "noise")
"""The order in which `perturb` returns its copies; `protocol.questions.PERTURBED_COPIES` counts them."""

LIMIT: Final = 8.0
"""Standardised windows end here (`models.standardiser.CLIP`), disturbed ones too."""

LARGEST_SHARE: Final = 0.5
"""Of the features that one disturbance touches: more than half is another machine, not a fault of this one."""


def perturb(x: Floats, rng: np.random.Generator) -> NDArray[np.float32]:
    """One copy of each window for each kind of disturbance.

    Args:
        x: standardised windows (n, F), n ≥ 1, finite.
        rng: draws magnitudes, features and partners.

    Returns:
        float32 (4·n, F): all windows shifted, then all stretched, swapped and with noise, within ±8.

    Raises:
        InputError: another rank, or no window.
    """
    if x.ndim != 2 or not len(x):
        raise InputError(f"windows to disturb have the shape (≥1, F), got {x.shape}")
    windows = np.asarray(x, np.float64)
    copies = [_shift(windows, rng), _stretch(windows, rng), _swap(windows, rng), _noise(windows, rng)]
    return np.clip(np.concatenate(copies), -LIMIT, LIMIT).astype(np.float32)


def _shift(x: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    signs = rng.choice((-1.0, 1.0), x.shape)
    return np.asarray(x + _touched(x, rng) * signs * rng.uniform(1.0, 3.0, (len(x), 1)))


def _stretch(x: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    mean = x.mean(axis=0)
    return np.asarray(mean + (x - mean) * rng.uniform(1.5, 3.0, (len(x), 1)))


def _swap(x: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    # Rolled by at least one: a window that meets itself is not disturbed (a lone window has nobody else to meet).
    partners = (np.arange(len(x)) + rng.integers(1, max(len(x), 2), len(x))) % len(x)
    return np.where(_touched(x, rng), x[partners], x)


def _noise(x: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    std = rng.uniform(0.75, 2.0, (len(x), 1))
    return np.asarray(x + _touched(x, rng) * std * rng.normal(size=x.shape))


def _touched(x: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.bool_]:
    """(n, F) True where a window's disturbance acts: 1 … F/2 features, a set of its own for each window."""
    features = x.shape[1]
    most = max(int(features * LARGEST_SHARE), 1)
    count = rng.integers(1, most + 1, (len(x), 1))
    ranks = rng.random(x.shape).argsort(axis=1).argsort(axis=1)
    return np.asarray(ranks < count)
