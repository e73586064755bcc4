"""What a device makes of its own rows for a release: its scores, its threshold, its drift monitor.

Pure functions of rows and model; when to call them is `edge_agent.pipeline`'s business.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.drift.bootstrap import fit_calibrated_reference
from models.drift.monitor import DriftMonitor, DriftSettings
from models.int8_model import WindowModel
from models.sensors import SensorView
from models.thresholds import PersonalThreshold, personal_threshold
from protocol.manifest import ThresholdSpec

__all__ = ["calm_rows", "fit_monitor", "fit_threshold", "score_rows"]

Float = NDArray[np.float32]
Scores = NDArray[np.float64]

FEWEST_ROWS: Final = 20
"""Fewer cannot fill the ten bins of a drift reference."""


def score_rows(model: WindowModel, rows: Float) -> Scores:
    """The score (n,) of each standardised row (n, F)."""
    return np.array([model.infer_and_score(row)[1] for row in rows], np.float64)


def fit_threshold(spec: ThresholdSpec, scores: Scores, *, is_personal: bool) -> PersonalThreshold:
    """The release's threshold, moved to this device's own scores (n,) where `is_personal`."""
    usable = scores[np.isfinite(scores) & (scores <= spec.score * spec.personal_maximum)]
    return personal_threshold(spec, usable if is_personal else usable[:0])


def calm_rows(spec: ThresholdSpec, scores: Scores) -> NDArray[np.bool_]:
    """Which rows (n,) may become this device's normal: not those that are anomalies under the new model itself."""
    calm = scores <= spec.score * spec.personal_maximum
    if np.count_nonzero(calm) < max(FEWEST_ROWS, len(scores) // 2):
        calm = np.isfinite(scores)
    return np.asarray(calm)


def fit_monitor(
    sensors: SensorView, rows: Float, scores: Scores, settings: DriftSettings
) -> DriftMonitor | None:
    """A drift monitor whose normal are rows (n, F) with their scores; None where they are too few."""
    if len(rows) < FEWEST_ROWS:
        return None
    # A fixed seed: the same windows give the same thresholds, on every device and after a restart.
    random = np.random.default_rng(0)
    reference = fit_calibrated_reference(sensors.watch(rows), scores, settings, rng=random)
    return DriftMonitor(reference, settings, sensors=sensors.watched)
