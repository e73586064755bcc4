"""A machine with two accelerometers, watched sample by sample, and a trained convolutional model of it.

The second sensor follows the first by a lag, in other units. A fault changes the lag alone: level, spread and spectrum
of each channel stay what they were, so only a model of the waveform can see it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.architecture import Architecture
from models.features import raw_spec
from protocol.manifest import ConvolutionSpec

SAMPLES = 12
SPEC = raw_spec(("drive end", "fan end"), SAMPLES, sample_rate_hz=1000.0)
ARCHITECTURE = Architecture(
    kind="conv-autoencoder",
    layers=(2, 5, 3, 5, 2),
    convolution=ConvolutionSpec(samples=SAMPLES, kernel=6, stride=2),
)
"""As in tests/models/model_samples.py, whose training model is used."""

MODELS = Path(__file__).parent / "raw_window_models"
TRAINING = Path(__file__).parents[1] / "models" / "golden" / "convolution.training.tflite"
THRESHOLD = 0.06
HEALTHY_LAG = 1.0
UNITS = np.array([[3.0, 0.2], [9.8, -1.0]], np.float32)
"""Scale and offset of each sensor."""


def int8_model() -> bytes:
    return (MODELS / "machine.int8.tflite").read_bytes()


def parameters() -> np.ndarray:
    return np.fromfile(MODELS / "machine.parameters.f32", "<f4")


def vibration(
    count: int, seed: int = 0, *, lag: float = HEALTHY_LAG, load: float = 1.0, hiss: float = 0.0
) -> np.ndarray:
    """Windows (count, samples, 2) in the sensors' units; `hiss` is noise of the second sensor alone."""
    rng = np.random.default_rng(seed)
    phase, period = rng.uniform(0, 2 * np.pi, (count, 1)), rng.uniform(10, 14, (count, 1))
    angle = 2 * np.pi * np.arange(SAMPLES) / period + phase
    waves = [np.sin(turned) + 0.4 * np.sin(2 * turned) for turned in (angle, angle + lag)]
    x = load * (np.stack(waves, axis=-1) + 0.1 * rng.normal(size=(count, SAMPLES, 2)))
    x[:, :, 1] += hiss * rng.normal(size=(count, SAMPLES))
    return (x * UNITS[0] + UNITS[1]).astype(np.float32)
