"""Digamma and trigamma, which say how far the logarithm of a variance estimate lies from the truth, and by how much it varies.

Recurrence up to 8 and then the asymptotic series (Abramowitz and Stegun, 6.3.18 and 6.4.12): relative error below 1e-10.
SciPy has them, but a device has no SciPy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["digamma", "inverse_trigamma", "trigamma"]

Floats = NDArray[np.float64]
_STEPS = 8
_BISECTIONS = 80


def digamma(x: NDArray[np.floating]) -> Floats:
    """ψ(x) for positive x of any shape."""
    x = np.array(x, np.float64)
    below = np.zeros_like(x)
    for _ in range(_STEPS):
        below -= 1.0 / x
        x = x + 1.0
    f = 1.0 / (x * x)
    return np.asarray(below + np.log(x) - 0.5 / x - f * (1 / 12 - f * (1 / 120 - f * (1 / 252 - f / 240))))


def trigamma(x: NDArray[np.floating]) -> Floats:
    """ψ′(x) for positive x of any shape."""
    x = np.array(x, np.float64)
    below = np.zeros_like(x)
    for _ in range(_STEPS):
        below += 1.0 / (x * x)
        x = x + 1.0
    f = 1.0 / (x * x)
    return np.asarray(below + 1.0 / x + f / 2 + f / x * (1 / 6 - f * (1 / 30 - f * (1 / 42 - f / 30))))


def inverse_trigamma(y: NDArray[np.floating]) -> Floats:
    """The x with ψ′(x) = y, within [1e-3, 1e6], for y of any shape: ψ′ falls, so bisection finds it."""
    y = np.asarray(y, np.float64)
    low, high = np.full_like(y, 1e-3), np.full_like(y, 1e6)
    for _ in range(_BISECTIONS):
        middle = np.sqrt(low * high)
        is_left = trigamma(middle) > y
        low, high = np.where(is_left, middle, low), np.where(is_left, high, middle)
    return np.asarray(np.sqrt(low * high))
