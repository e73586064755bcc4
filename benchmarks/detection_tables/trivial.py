"""What any detector must beat: four rules that a device follows alone, in its own scale, with nothing to choose.

    mean square of z        scale alone: where it does as well as a model, the model adds nothing
    last-value difference   mean square of the step from the row before: what needs no learning but a scale
    PCA                     what the components that hold 90 % of the healthy variance miss of a row
    shrunk Mahalanobis      distance under .95 covariance + .05 identity

The scale is the product's (`models.standardiser`); what is missing counts as the mean. The threshold: `methods.own_quantile_judges`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detection_tables.devices import Device
from detection_tables.methods import Method, Promised, Score, own_quantile_judges
from models.standardiser import Standardiser, fit_standardiser

__all__ = ["TRIVIAL"]

Floats = NDArray[np.floating]
Rows = NDArray[np.float32]

KEPT_VARIANCE: Final = 0.9
SHRINKAGE: Final = 0.05


def _apply(scale: Standardiser, rows: Rows) -> NDArray[np.float64]:
    return np.nan_to_num(scale.apply(rows).astype(np.float64))


def _mean_square(device: Device) -> Score:
    scale = fit_standardiser(device.healthy)
    return lambda rows, _: (_apply(scale, rows) ** 2).mean(axis=1)


def _last_value(device: Device) -> Score:
    scale = fit_standardiser(device.healthy)

    def score(rows: Rows, starts: Sequence[int]) -> Floats:
        steps = np.diff(_apply(scale, rows), axis=0, prepend=np.nan)
        steps[list(starts)] = 0.0  # nothing came before a recording's first row
        return np.asarray((steps**2).mean(axis=1))

    return score


def _principal_components(device: Device) -> Score:
    values, vectors = _spectrum(device)
    kept = np.cumsum(values[::-1]) < KEPT_VARIANCE * values.sum()
    # The first that reaches the share is kept, too: at least one, and one is left to miss something.
    count = min(int(kept.sum()) + 1, len(values) - 1)
    return _quadratic(device, vectors[:, : len(values) - count] if len(values) > 1 else vectors)


def _mahalanobis(device: Device) -> Score:
    values, vectors = _spectrum(device)
    return _quadratic(device, vectors / np.sqrt((1 - SHRINKAGE) * values + SHRINKAGE))


def _spectrum(device: Device) -> tuple[Floats, Floats]:
    z = _apply(fit_standardiser(device.healthy), device.healthy)
    values, vectors = np.linalg.eigh(np.cov(z.T).reshape(z.shape[1], -1))
    return np.maximum(values, 0.0), vectors


def _quadratic(device: Device, directions: Floats) -> Score:
    scale = fit_standardiser(device.healthy)
    return lambda rows, _: ((_apply(scale, rows) @ directions) ** 2).sum(axis=1) / rows.shape[1]


def _method(name: str, score_of: Callable[[Device], Score]) -> Method:
    def fit(devices: Sequence[Device], _: int) -> Promised:
        return own_quantile_judges(devices, [score_of(device) for device in devices])

    return Method(name=f"trivial: {name}", fit=fit)


TRIVIAL: Final = (
    _method("mean square of z", _mean_square),
    _method("last-value difference", _last_value),
    _method("PCA", _principal_components),
    _method("shrunk Mahalanobis", _mahalanobis),
)
