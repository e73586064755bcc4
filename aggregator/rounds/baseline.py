"""The linear detectors of a run, from the fleet's summed moments: what a network has to beat.

Pure. No device's window and no device's mean goes in, only Σ n, Σ x and Σ x xᵀ over the cohort; so the secure sum may stand before it.
The detectors themselves are `models.linear_baseline`, in the champion's own layout (docs/decisions/0007).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from aggregator.errors import SumError
from models.architecture import Architecture
from models.errors import ModelError
from models.linear_baseline import mahalanobis_parameters, principal_component_parameters
from models.moments import Moments
from protocol.questions import moments_layout

__all__ = ["RIDGE", "fit_baselines", "read_moments"]

RIDGE: Final = 3.0
"""Variance, in squared healthy deviations, that each feature is expected to wander by while nothing is wrong, of "mahalanobis_ridge":
added to the covariance it gives the Mahalanobis distance of a machine whose means are not quite known. Its root, 1.7 deviations, is little beside
what a failing machine shows and about what bearings do in mid-life; ridges of 1 to 10 rank those nearly alike (docs/learning.md)."""


def read_moments(total: NDArray[np.floating], features: int) -> Moments:
    """The fleet's moments from a cohort's sum, shape (moments_layout(features).total,).

    Raises:
        SumError: no window was counted, or the sum is not finite.
    """
    parts = moments_layout(features).unpack(np.asarray(total))
    outer = np.zeros((features, features))
    upper = np.triu_indices(features)
    outer[upper] = parts["feature_products"]
    outer.T[upper] = parts["feature_products"]
    n = float(parts["examples"][0])
    if not np.isfinite(total).all() or n <= 0:
        raise SumError(f"the moments count {n:g} windows; at least one, and finite sums, are needed")
    return Moments(n=n, sum=parts["feature_sum"], outer=outer)


def fit_baselines(architecture: Architecture, total: NDArray[np.floating]) -> dict[str, NDArray[np.float32]]:
    """Flat parameters (P,) of each linear detector, by its name in `protocol.questions.CONTENDERS`.

    Raises:
        SumError: sums that give no detector; the message says why.
    """
    moments = read_moments(total, architecture.feature_count)
    try:
        return {
            "mahalanobis_ridge": mahalanobis_parameters(architecture, moments, ridge=RIDGE),
            "mahalanobis": mahalanobis_parameters(architecture, moments),
            "principal_components": principal_component_parameters(architecture, moments),
        }
    except (ModelError, np.linalg.LinAlgError) as error:
        raise SumError(f"no linear detector can be fitted: {error}") from None
