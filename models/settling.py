"""Has a machine shown enough of itself? When the estimates of its scale may be believed, sensor by sensor.

A mean of n windows is as good as n/memory independent ones, and it is worth nothing if the second half of the windows
says something else than the first. Both are asked of every sensor; nearly all must agree, because one that creeps for
hours must not keep the others from being watched.

Bounds and the rule: chosen on PRONOSTIA and SKAB, which never settle; a machine like those is told to be provisional.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.drift.reference import memory_of

__all__ = ["are_settled", "unsettled"]

MEAN_ERROR: Final = 0.15
"""Standard error of a sensor's mean, in its own standard deviations."""
HALF_DIFFERENCE: Final = 0.25
"""How far the mean of either half may lie from that of the whole, in standard deviations."""
SETTLED_SHARE: Final = 0.9
"""Of the sensors."""


def unsettled(rows: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which sensors (F,) of standardised rows (n, F), in the order of time, n ≥ 4, need more windows."""
    x = np.asarray(rows, np.float64)
    half = len(x) // 2
    difference = np.abs(x[:half].mean(axis=0) - x[half:].mean(axis=0)) / 2
    error = np.sqrt(memory_of(x) / len(x))
    return np.asarray((error >= MEAN_ERROR) | (difference >= HALF_DIFFERENCE))


def are_settled(unsettled_sensors: NDArray[np.bool_]) -> bool:
    """May commissioning end, with these sensors (F,) unsettled?"""
    return bool(unsettled_sensors.mean() <= 1 - SETTLED_SHARE + 1e-9)
