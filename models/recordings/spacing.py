"""Numbers that float32 does not tell apart: 101325.001 and 101325.002 Pa, a latitude of a parked machine, a long odometer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["doubt_of_spacing", "hides_in_float32", "may_hide"]

_NARROW: Final = 10.0
_ROUNDING: Final = 1e-13
"""Of a number; so much differ two of float64 that were meant to be one (0.1 + 0.2 and 0.3)."""


def hides_in_float32(numbers: Sequence[float] | NDArray[np.floating]) -> bool:
    """Do numbers that differ lie within ten of float32's steps, so that a column has to be looked at in float64?"""
    told = np.asarray(numbers, np.float64)
    told = told[np.isfinite(told)]
    return bool(len(told)) and 0 < float(np.ptp(told)) < _NARROW * _step(told)


def may_hide(values: NDArray[np.float32]) -> bool:
    """Do numbers of float32 lie so near each other that those they were made of may have said more?"""
    lowest, highest = (float(pick(values)) for pick in (np.fmin.reduce, np.fmax.reduce))
    extremes = np.array([lowest, highest])
    return (
        bool(np.isfinite(extremes).all()) and highest - lowest < _NARROW * _step(extremes) and any(extremes)
    )


def doubt_of_spacing(values: NDArray[np.floating]) -> str:
    """What is to be said of a column whose values, all of them, float32 takes for one or two; "" where nothing is."""
    lowest, highest = float(np.nanmin(values)), float(np.nanmax(values))
    spread, step = highest - lowest, _step(np.array([lowest, highest]))
    if not _ROUNDING * max(abs(lowest), abs(highest)) < spread < step:
        return ""
    return f"lies between {lowest:.12g} and {highest:.12g}, all within one step ({step:.2g}) of float32, in which models compute"


def _step(numbers: NDArray[np.float64]) -> float:
    return float(np.spacing(np.float32(min(np.abs(numbers).max(), 3e38))))
