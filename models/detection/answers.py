"""A fleet's sums as the flat parts of answers, and back: what a device packs, and what the aggregator reads and sends on.

    ScaleSums    ─► parts of ``evaluate.scale``        ScalePrior  ─► arrays that go with the next two questions
    SpreadSums   ─► parts of ``evaluate.covariance``   SpreadSums  ─► arrays that go with ``evaluate.curve``
    OpeningsSums ─► parts of ``evaluate.curve``

Layouts are `protocol.questions`'. Matrices travel as upper triangles, row by row; variances as logarithms, for a sensor's unit may
make them larger or smaller than float32 holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.detection.openings import AGES, LEVELS, Openings, OpeningsSums
from models.detection.scale import ScalePrior, ScaleSums
from models.detection.spread import SpreadSums
from models.errors import LayoutError
from protocol.grids import SQUARED
from protocol.secure_answers import LOG_LIMIT

__all__ = [
    "curve_parts",
    "read_curve",
    "read_scale",
    "read_scale_prior",
    "read_spread",
    "scale_arrays",
    "scale_parts",
    "spread_parts",
    "square",
]

Floats = NDArray[np.float64]
Parts = Mapping[str, NDArray[np.floating]]

_WIDEST_LOG: Final = 1.1 * LOG_LIMIT


def scale_parts(sums: ScaleSums) -> dict[str, Floats]:
    """Of ``evaluate.scale``, but for the examples."""
    return {
        "scale_devices": sums.devices,
        "scale_logs": sums.logs,
        "scale_squares": sums.squares,
        "scale_uncertainty": sums.uncertainty,
    }


def read_scale(parts: Parts) -> ScaleSums:
    """What `scale_parts` of all devices add up to."""
    names = ("scale_devices", "scale_logs", "scale_squares", "scale_uncertainty")
    devices, logs, squares, uncertainty = (np.asarray(parts[name], np.float64) for name in names)
    return ScaleSums(devices=devices, logs=logs, squares=squares, uncertainty=uncertainty)


def scale_arrays(prior: ScalePrior) -> dict[str, NDArray[np.float32]]:
    """Of a `CovarianceQuestion` and a `CurveQuestion`."""
    log_variance = np.log(np.where(prior.freedom > 0, prior.variance, 1.0))
    return {
        "scale_log_variance": log_variance.astype(np.float32),
        "scale_freedom": prior.freedom.astype(np.float32),
    }


def read_scale_prior(arrays: Parts, features: int) -> ScalePrior:
    """What `scale_arrays` says of so many sensors.

    Raises:
        LayoutError: an array is missing, has another shape, or holds what cannot be.
    """
    log_variance, freedom = (
        _array(arrays, name, features) for name in ("scale_log_variance", "scale_freedom")
    )
    if (np.abs(log_variance) > _WIDEST_LOG).any() or (freedom < 0).any():
        raise LayoutError(
            f"a scale's prior has log variances within ±{_WIDEST_LOG:g} and freedoms of at least 0, got up to"
            f" {np.abs(log_variance).max():g} and down to {freedom.min():g}"
        )
    return ScalePrior(variance=np.where(freedom > 0, np.exp(log_variance), 0.0), freedom=freedom)


def spread_parts(sums: SpreadSums) -> dict[str, Floats]:
    """Of ``evaluate.covariance``, but for the examples; the two matrices are the arrays of a `CurveQuestion` as well."""
    upper = np.triu_indices(len(sums.correlation))
    return {
        "spread_devices": np.array([sums.devices]),
        "correlation": sums.correlation[upper],
        "wander": sums.wander[upper],
        "spread_squares": np.array([sums.squares]),
        "spread_error": np.array([sums.error]),
    }


def read_spread(parts: Parts, features: int) -> SpreadSums:
    """What `spread_parts` of all devices add up to; raises LayoutError as `read_scale_prior`."""
    size = features * (features + 1) // 2
    devices, squares, error = (
        float(_array(parts, name, 1)[0]) for name in ("spread_devices", "spread_squares", "spread_error")
    )
    return SpreadSums(
        devices=devices,
        correlation=square(_array(parts, "correlation", size)),
        wander=square(_array(parts, "wander", size)),
        squares=squares,
        error=error,
    )


def square(triangle: Floats) -> Floats:
    """The symmetric matrix (F, F) whose upper triangle this is, row by row.

    >>> square(np.array([1.0, 0.5, 2.0]))
    array([[1. , 0.5],
           [0.5, 2. ]])
    """
    size = (math.isqrt(8 * len(triangle) + 1) - 1) // 2
    matrix = np.zeros((size, size))
    matrix[np.triu_indices(size)] = triangle
    return matrix + np.triu(matrix, 1).T


def curve_parts(counts: Mapping[int, Openings]) -> dict[str, Floats]:
    """Of ``evaluate.curve``, but for the examples; zeros for ages that the device has not reached."""
    parts: dict[str, Floats] = {}
    nothing = np.zeros(len(LEVELS))
    for age in AGES:
        one = OpeningsSums.of(counts[age]) if age in counts else None
        parts |= {
            f"age_devices_{age}": np.array([one.devices if one else 0.0]),
            f"age_windows_{age}": np.array([one.windows if one else 0.0]),
            f"openings_{age}": one.openings if one else nothing,
            f"in_alarm_{age}": one.in_alarm if one else nothing,
            f"openings_squares_{age}": one.squares if one else nothing[::SQUARED],
        }
    return parts


def read_curve(parts: Parts) -> dict[int, OpeningsSums]:
    """What `curve_parts` of all devices add up to, by age; ages that nobody has reached are left out."""
    found = {}
    for age in AGES:
        devices, windows = (float(parts[f"{name}_{age}"][0]) for name in ("age_devices", "age_windows"))
        if devices < 1 or windows < 1:
            continue
        openings, in_alarm, squares = (
            np.maximum(parts[f"{name}_{age}"], 0.0) for name in ("openings", "in_alarm", "openings_squares")
        )
        found[age] = OpeningsSums(
            devices=devices,
            windows=windows,
            openings=np.minimum(openings, windows),
            in_alarm=np.minimum(in_alarm, windows),
            squares=squares,
        )
    return found


def _array(arrays: Parts, name: str, size: int) -> Floats:
    if name not in arrays:
        raise LayoutError(f"the array {name!r} is missing; there are {sorted(arrays)[:8]}")
    values = np.asarray(arrays[name], np.float64)
    if values.shape != (size,) or not np.isfinite(values).all():
        raise LayoutError(f"{name!r} must be ({size},) and finite, got {values.shape}")
    return values
