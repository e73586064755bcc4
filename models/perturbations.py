"""Healthy windows aged and disturbed on purpose: what a detector that never saw a fault can be measured by.

A fleet has no labelled faults, and losses of two models cannot be compared (one that has learned to copy has none at all). But any
detector can be asked whether disturbed windows score higher than healthy ones. Healthy ones of today would not do: a machine settles, wears in,
meets another season, and a detector that cries at that is no better for having seen more of everything. So both sides are made:

    aged        all windows of a copy moved by one common offset, about three times as far as the device's own windows
                wandered from their older half to their newer one: as if that went on; a machine that stands still is not aged
    disturbed   the same copies with a fault on top, a kind for each copy:

    shift       some features move together, by 2 to 6 deviations                 a level, a temperature, an imbalance
    stretch     all features move away from their mean by a factor 1.5 to 3       a load, a speed, a looser fit
    jump        one feature moves by 4 to 8 deviations                            a broken sensor, a new frequency
    noise       white noise of 2 to 4 deviations on some features                 an electrical fault, a rattle

Not a model of any particular fault or of any real ageing: it ranks detectors, its figure is no promise about a machine. Why ageing decides:
on the PRONOSTIA bearings each of these disturbances against windows as they are, at whatever size, prefers the detector that ranks real ends
worst (principal components), because what sees more of everything also sees healthy wear. The factor of three was chosen in view of those
recordings, whose mid-life is that far or a little less from what was learned on: the agreement with them (docs/learning.md) is in-sample. Pure, NumPy alone.

Source of the idea to judge one-class detectors by surrogate anomalies: Fan, Miller, Stolfo, Lee, Chan, "Using artificial anomalies to
detect unknown and known network intrusions", Knowledge and Information Systems 6(5), 2004.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import InputError

__all__ = ["AGEING", "DISTURBANCES", "age", "disturb", "wander"]

Floats = NDArray[np.floating]
Double = NDArray[np.float64]

DISTURBANCES: Final = ("shift", "stretch", "jump", "noise")
"""The order in which `disturb` returns its copies; `protocol.questions.COPIES` counts them."""

AGEING: Final = 3.0
"""Standard deviation of an offset over what the means of the device's features moved by, older to newer half of the windows. The halves' middles
are half a recording apart, so it is what lies one and a half recordings ahead if the move goes on."""

LIMIT: Final = 8.0
"""Standardised windows end here (`models.standardiser.CLIP`), disturbed ones too."""

LARGEST_SHARE: Final = 0.5
"""Of the features that one disturbance touches: more than half is another machine, not a fault of this one."""


def wander(x: Floats) -> float:
    """By how many deviations a feature's mean differs between the older and the newer half, root mean square over the features.

    What the halves would differ by without any wander, because they are samples, is taken off. 0 for fewer than four windows.

    Args:
        x: standardised windows (n, F) of one device, oldest first.
    """
    windows = _checked(x)
    half = len(windows) // 2
    if half < 2:
        return 0.0
    older, newer = windows[:half], windows[half:]
    luck = older.var(axis=0, ddof=1) / len(older) + newer.var(axis=0, ddof=1) / len(newer)
    moved = (newer.mean(axis=0) - older.mean(axis=0)) ** 2 - luck
    return math.sqrt(max(float(moved.mean()), 0.0))


def age(x: Floats, rng: np.random.Generator) -> NDArray[np.float32]:
    """As many aged copies of a device's windows as there are disturbances.

    Args:
        x: standardised windows (n, F) of one device, n ≥ 1, finite, oldest first.
        rng: draws the offsets.

    Returns:
        float32 (4·n, F): copy after copy, within ±8.

    Raises:
        InputError: another rank, or no window.
    """
    windows = _checked(x)
    offsets = AGEING * wander(windows) * rng.normal(size=(len(DISTURBANCES), 1, windows.shape[1]))
    return _limited((windows + offsets).reshape(-1, windows.shape[1]))


def disturb(copies: Floats, rng: np.random.Generator) -> NDArray[np.float32]:
    """Another kind of disturbance on each copy.

    Args:
        copies: (4·n, F), from `age`.
        rng: draws magnitudes and features.

    Returns:
        float32 (4·n, F): the first copy shifted, then one stretched, one with jumps, one with noise; within ±8.

    Raises:
        InputError: another rank, no window, or not as many copies as kinds.
    """
    windows = _checked(copies)
    if len(windows) % len(DISTURBANCES):
        raise InputError(f"{len(windows)} windows are not {len(DISTURBANCES)} copies of the same number")
    parts = np.split(windows, len(DISTURBANCES))
    kinds = (_shift, _stretch, _jump, _noise)
    return _limited(np.concatenate([kind(part, rng) for kind, part in zip(kinds, parts, strict=True)]))


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
