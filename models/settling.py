"""Has a machine shown enough of itself? When the estimates of its scale may be believed, sensor by sensor.

A mean of n windows is as good as n/memory independent ones, and it is worth nothing if the second half of the windows
says something else than the first. Both are asked of every sensor; nearly all must agree, because one that creeps for
hours must not keep the others from being watched. What so few windows cannot show is not held against them: the memory
counts as far as it is beyond doubt, and the halves may differ by what chance makes of them.

Bounds: chosen on PRONOSTIA and SKAB, which never settle; a machine like those is told to be provisional. The spread of a
memory that was estimated by overlapping batch means is that of Meketon and Schmeiser (WSC 1984): 4b/3n of its square.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.drift.reference import memory_of

__all__ = ["are_settled", "unsettled"]

MEAN_ERROR: Final = 0.15
"""Standard error of a sensor's mean, in its own standard deviations; no fewer than 45 windows reach it."""
HALF_DIFFERENCE: Final = 0.25
"""How far the mean of either half may lie from that of the whole, in standard deviations."""
SETTLED_SHARE: Final = 0.9
"""Of the sensors."""
_MEMORY_DOUBT: Final = 1.64
"""Standard deviations of the estimate: the lower end of its 90 % interval."""
_CHANCE: Final = 2.8
"""Standard errors that the halves may differ by: one sensor in two hundred does so without a reason."""


def unsettled(rows: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which sensors (F,) of standardised rows (n, F), in the order of time, n ≥ 4, need more windows."""
    x = np.asarray(rows, np.float64)
    half = len(x) // 2
    difference = np.abs(x[:half].mean(axis=0) - x[half:].mean(axis=0)) / 2
    doubt = _MEMORY_DOUBT * (4 / (3 * len(x) ** 0.5)) ** 0.5  # batches of √n windows
    error = np.sqrt(np.maximum(1.0, memory_of(x) / (1 + doubt)) / len(x))
    is_elsewhere = difference >= np.maximum(HALF_DIFFERENCE, _CHANCE * error)
    return np.asarray((error >= MEAN_ERROR) | is_elsewhere)


def are_settled(unsettled_sensors: NDArray[np.bool_]) -> bool:
    """May commissioning end, with these sensors (F,) unsettled?"""
    return bool(unsettled_sensors.mean() <= 1 - SETTLED_SHARE + 1e-9)
