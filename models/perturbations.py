"""Healthy windows aged and disturbed on purpose: what a detector that never saw a fault can be measured by.

A fleet has no labelled faults, and losses of two models cannot be compared (one that has learned to copy has none at all). But any
detector can be asked whether disturbed windows score higher than healthy ones. Healthy ones of today would not do: a machine settles, wears in,
meets another season, and a detector that cries at that is no better for having seen more of everything. So both sides are made:

    aged        all windows of a device moved by one common offset, up to half a deviation a feature; a new offset for each copy

    shift       some features move together, by 2 to 6 deviations                 a level, a temperature, an imbalance
    stretch     all features move away from their mean by a factor 1.5 to 3       a load, a speed, a looser fit
    jump        one feature moves by 4 to 8 deviations                            a broken sensor, a new frequency
    noise       white noise of 2 to 4 deviations on some features                 an electrical fault, a rattle

Not a model of any particular fault or of any real ageing: it ranks detectors, its figure is no promise about a machine. That
ageing is part of it was decided after disturbances alone (smaller ones, at equal false alarms) had ranked the PRONOSTIA bearings' detectors the
wrong way round; on those recordings its agreement is in-sample. Pure, NumPy alone.

Source of the idea to judge one-class detectors by surrogate anomalies: Fan, Miller, Stolfo, Lee, Chan, "Using artificial anomalies to
detect unknown and known network intrusions", Knowledge and Information Systems 6(5), 2004.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import InputError

__all__ = ["AGEING", "DISTURBANCES", "age", "disturb"]

Floats = NDArray[np.floating]
Double = NDArray[np.float64]

DISTURBANCES: Final = ("shift", "stretch", "jump", "noise")
"""The order in which `disturb` returns its copies; `protocol.questions.COPIES` counts them."""

AGEING: Final = 0.5
"""Largest offset of a feature in `age`, in healthy deviations. Twice as much hides what only the correlation of features tells."""

LIMIT: Final = 8.0
"""Standardised windows end here (`models.standardiser.CLIP`), disturbed ones too."""

LARGEST_SHARE: Final = 0.5
"""Of the features that one disturbance touches: more than half is another machine, not a fault of this one."""


def age(x: Floats, rng: np.random.Generator) -> NDArray[np.float32]:
    """As many aged copies of a device's windows as there are disturbances.

    Args:
        x: standardised windows (n, F) of one device, n ≥ 1, finite.
        rng: draws the offsets.

    Returns:
        float32 (4·n, F): copy after copy, within ±8.

    Raises:
        InputError: another rank, or no window.
    """
    windows = _checked(x)
    offsets = rng.uniform(-AGEING, AGEING, (len(DISTURBANCES), 1, windows.shape[1]))
    return _limited((windows + offsets).reshape(-1, windows.shape[1]))


def disturb(x: Floats, rng: np.random.Generator) -> NDArray[np.float32]:
    """One copy of each window for each kind of disturbance.

    Args:
        x: standardised windows (n, F), n ≥ 1, finite.
        rng: draws magnitudes and features.

    Returns:
        float32 (4·n, F): all windows shifted, then all stretched, with a jump, with noise; within ±8.

    Raises:
        InputError: another rank, or no window.
    """
    windows = _checked(x)
    return _limited(
        np.concatenate(
            [_shift(windows, rng), _stretch(windows, rng), _jump(windows, rng), _noise(windows, rng)]
        )
    )


def _shift(x: Double, rng: np.random.Generator) -> Double:
    return np.asarray(x + _touched(x, rng) * _signs(x, rng) * rng.uniform(2.0, 6.0, (len(x), 1)))


def _stretch(x: Double, rng: np.random.Generator) -> Double:
    mean = x.mean(axis=0)
    return np.asarray(mean + (x - mean) * rng.uniform(1.5, 3.0, (len(x), 1)))


def _jump(x: Double, rng: np.random.Generator) -> Double:
    moved = x.copy()
    rows = np.arange(len(x))
    moved[rows, rng.integers(0, x.shape[1], len(x))] += (_signs(x, rng) * rng.uniform(4.0, 8.0, (len(x), 1)))[
        :, 0
    ]
    return moved


def _noise(x: Double, rng: np.random.Generator) -> Double:
    return np.asarray(x + _touched(x, rng) * rng.uniform(2.0, 4.0, (len(x), 1)) * rng.normal(size=x.shape))


def _signs(x: Double, rng: np.random.Generator) -> Double:
    return rng.choice((-1.0, 1.0), (len(x), 1))


def _touched(x: Double, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(n, F) True where a window's disturbance acts: 1 … F/2 features, a set of its own for each window."""
    features = x.shape[1]
    most = max(int(features * LARGEST_SHARE), 1)
    count = rng.integers(1, most + 1, (len(x), 1))
    ranks = rng.random(x.shape).argsort(axis=1).argsort(axis=1)
    return np.asarray(ranks < count)


def _checked(x: Floats) -> Double:
    if x.ndim != 2 or not len(x):
        raise InputError(f"windows to disturb have the shape (≥1, F), got {x.shape}")
    return np.asarray(x, np.float64)


def _limited(x: Double) -> NDArray[np.float32]:
    return np.clip(x, -LIMIT, LIMIT).astype(np.float32)
