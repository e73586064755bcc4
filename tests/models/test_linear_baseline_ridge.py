"""The ridge of the linear baseline: between the Mahalanobis distance and the plain mean square."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from recordings import ROOT

from models import reference_model
from models.architecture import Architecture
from models.errors import InputError
from models.linear_baseline import mahalanobis_parameters
from models.moments import Moments

# The script's folder is on its own import path; a test has to put it there.
sys.path.append(str(ROOT / "benchmarks"))

from learning_tables.covariance_detector import mahalanobis_autoencoder

pytestmark = pytest.mark.edge
FULL = Architecture(kind="dense-autoencoder", layers=(5, 9, 5))


def windows(n: int = 800) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 5)) @ np.linalg.qr(rng.normal(size=(5, 5)))[0] * [1.5, 1.2, 1, 0.6, 0.3] + 0.2


def test_at_full_rank_the_score_is_the_distance_with_that_ridge_up_to_a_factor() -> None:
    x, moments = windows(), Moments.of(windows())
    got = reference_model.infer(FULL, mahalanobis_parameters(FULL, moments, ridge=0.5), x)[1]
    expected = reference_model.infer(*mahalanobis_autoencoder(moments, ridge=0.5), x)[1]
    factor = np.linalg.eigvalsh(moments.covariance)[0] + 0.5
    np.testing.assert_allclose(got, expected * factor, rtol=2e-3)


def test_a_large_ridge_leaves_the_mean_square() -> None:
    x = windows()
    got = reference_model.infer(FULL, mahalanobis_parameters(FULL, Moments.of(x), ridge=1e6), x)[1]
    np.testing.assert_allclose(got, ((x - x.mean(axis=0)) ** 2).mean(axis=1), rtol=1e-3)


def test_a_negative_ridge_is_refused() -> None:
    with pytest.raises(InputError, match=r"at least 0, got -1\.0"):
        mahalanobis_parameters(FULL, Moments.of(windows()), ridge=-1.0)
