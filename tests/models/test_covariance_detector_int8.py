"""The closed-form detectors survive int8: what the cloud quantises keeps the distance."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from recordings import ROOT

from models import reference_model
from models.export import export_int8_model
from models.int8_model import Int8Model
from models.moments import Moments

# The script's folder is on its own import path; a test has to put it there.
sys.path.append(str(ROOT / "benchmarks"))

from learning_tables.covariance_detector import mahalanobis_autoencoder

pytestmark = pytest.mark.slow

F = 6


def windows(n: int, seed: int) -> np.ndarray:
    """Correlated windows with eigenvalues from about 3 down to 0.02."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(np.random.default_rng(99).normal(size=(F, F)))[0]
    return rng.normal(size=(n, F)) * np.geomspace(1.7, 0.15, F) @ turn.T + 0.5


def test_the_int8_model_keeps_the_distance() -> None:
    x, fresh = windows(2000, seed=0), windows(300, seed=1)
    architecture, flat = mahalanobis_autoencoder(Moments.of(x), ridge=0.01)
    low, high = reference_model.ranges(architecture, flat, x)
    model = Int8Model(export_int8_model(architecture, flat, low, high))
    exact = reference_model.infer(architecture, flat, fresh)[1]
    rounded = np.array([model.infer_and_score(row.astype(np.float32))[1] for row in fresh])
    assert np.corrcoef(exact, rounded)[0, 1] > 0.99
    assert np.median(np.abs(rounded / exact - 1)) < 0.05
