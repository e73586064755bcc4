"""Trains the small convolutional model beside it and quantises it; needs the aggregator extra, while the tests do not.

Run: PYTHONPATH=.:tests:tests/edge_agent python tests/edge_agent/raw_window_models/make.py
"""

from __future__ import annotations

import numpy as np
import reference_training
from raw_window_world import ARCHITECTURE, MODELS, SPEC, vibration

from models import reference_model
from models.architecture import initial_parameters
from models.export import export_int8_model
from models.sensors import SensorView


def rows(count: int, seed: int) -> np.ndarray:
    view = SensorView(SPEC)
    flat = vibration(count, seed).reshape(count, -1)
    centre, scale = view.scale_of(view.fit_scale(flat))
    return (flat - centre) / scale


def trained(x: np.ndarray, steps: int = 3000) -> np.ndarray:
    """Adam on the NumPy oracle, batches of 32."""
    rng, flat = np.random.default_rng(0), initial_parameters(ARCHITECTURE, 1).astype(np.float64)
    mean, square = np.zeros_like(flat), np.zeros_like(flat)
    for step in range(1, steps + 1):
        _, gradient = reference_training.loss_and_gradient(ARCHITECTURE, flat, x[rng.integers(0, len(x), 32)])
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        flat -= 3e-3 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    return flat.astype(np.float32)


if __name__ == "__main__":
    parameters = trained(rows(4000, 5))
    ranges = reference_model.ranges(ARCHITECTURE, parameters, rows(2000, 6))
    (MODELS / "machine.parameters.f32").write_bytes(parameters.astype("<f4").tobytes())
    (MODELS / "machine.int8.tflite").write_bytes(export_int8_model(ARCHITECTURE, parameters, *ranges))
