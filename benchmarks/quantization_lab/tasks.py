"""Tasks with real recordings: an autoencoder for seventeen bearings, a classifier for digits; trained, and assessed as a fleet would.

A task knows its devices' windows only for training and for what devices answer (`models.local_training.assess`, summed);
whoever quantises gets the sums. The windows that measure are others, or are used for nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.rounds.assessment import Assessment, read_assessment
from models.architecture import Architecture, initial_parameters
from models.export.isolated import export_training_model
from models.local_training import assess, fit
from models.standardiser import fit_standardiser
from models.training_model import TrainingModel
from protocol.questions import assess_layout
from protocol.training import TrainingSettings

__all__ = ["Task", "Trained", "load_task", "train"]

Rows = NDArray[np.float32]
Infer = Callable[[Rows], NDArray[np.floating]]
"""Outputs (n, outputs) of a model for windows (n, F)."""

EPOCHS = {"pronostia": 30, "wide": 30, "mnist": 4}
LAYERS = {"pronostia": (46, 16, 8, 16, 46), "wide": (46, 128, 32, 128, 46)}
FILES = {
    "pronostia": "pronostia/pronostia_features.npz",
    "wide": "pronostia/pronostia_features.npz",
    "mnist": "mnist/mnist.npz",
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """Data of one task.

    Attributes:
        train: windows of all devices to train on; `labels` one-hot, or None.
        devices: each device's own held-out windows, which it assesses.
        fresh: windows for the quantisation error.
        quality: AUC or accuracy in [0, 1] of a model's outputs.
        tolerance: the loss of quality that issue 4 allows int8.
    """

    name: str
    architecture: Architecture
    train: Rows
    labels: Rows | None
    devices: Sequence[Rows]
    fresh: Rows
    quality_name: str
    quality: Callable[[Infer], float]
    tolerance: float


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A task's model of one seed, (P,), and the fleet's summed answers about it."""

    parameters: Rows
    assessment: Assessment


def load_task(name: str) -> Task:
    """Task ``pronostia``, ``wide`` (the same with wider layers) or ``mnist``; ends the program with a reason where its data are absent."""
    root = Path(os.environ.get("FEDGE_DATA", "../shared/data"))
    file = root / FILES[name]
    if not file.exists():
        raise SystemExit(f"no data at {file}: set FEDGE_DATA to the folder that holds {file.parent.name}/")
    with np.load(file, allow_pickle=False) as data:
        return _mnist(data) if name == "mnist" else _pronostia(data, name)


def train(task: Task, seed: int) -> Trained:
    """Train centrally and let each device assess."""
    model = TrainingModel(export_training_model(task.architecture), task.architecture)
    result = fit(
        model,
        initial_parameters(task.architecture, seed),
        task.train,
        TrainingSettings(epochs=EPOCHS[task.name], batch_size=32, learning_rate=0.02, momentum=0.9),
        rng=np.random.default_rng(seed),
        labels=task.labels,
    )
    return Trained(parameters=result.parameters, assessment=_assessed(task, model, result.parameters))


def _assessed(task: Task, model: TrainingModel, parameters: Rows) -> Assessment:
    tensors, features = task.architecture.tensor_count, task.architecture.feature_count
    layout = assess_layout(tensors, features)
    total = np.sum(
        [layout.pack(assess(model, parameters, parameters, rows, quantile=0.999)) for rows in task.devices],
        axis=0,
        dtype=np.float64,
    )
    return read_assessment(total, tensors=tensors, features=features)


def _pronostia(data: Any, name: str) -> Task:
    """Healthy: the first 15 % of a life, every fifth window held out; false alarms 15-50 %, end of life the last 5 %."""
    training, devices, fresh, middles, ends = [], [], [], [], []
    for bearing in sorted(key for key in data.files if key.startswith("B")):
        rows = data[bearing].astype(np.float32)
        healthy = max(20, int(0.15 * len(rows)))
        life = fit_standardiser(rows[:healthy]).apply(rows)
        position = np.arange(healthy) % 5
        training.append(life[:healthy][position < 3])
        devices.append(life[:healthy][position == 3])
        fresh.append(life[:healthy][position == 4])
        middles.append(_thinned(life[healthy : len(life) // 2], 300))
        ends.append(_thinned(life[int(0.95 * len(life)) :], 100))

    def quality(infer: Infer) -> float:
        areas = []
        for middle, end in zip(middles, ends, strict=True):
            scores = [np.mean((infer(rows) - rows) ** 2, axis=1) for rows in (middle, end)]
            areas.append(float(np.mean(scores[1][:, None] > scores[0][None, :])))
        return float(np.mean(areas))

    return Task(
        name=name,
        architecture=Architecture(kind="dense-autoencoder", layers=LAYERS[name]),
        train=np.concatenate(training),
        labels=None,
        devices=devices,
        fresh=np.concatenate(fresh),
        quality_name="AUC",
        quality=quality,
        tolerance=0.01,
    )


def _mnist(data: Any) -> Task:
    def flat(images: NDArray[np.uint8]) -> Rows:
        return (images.reshape(len(images), -1) / np.float32(255)).astype(np.float32)

    x, y = flat(data["X_train"]), data["y_train"]
    test, truth = flat(data["X_test"]), data["y_test"]

    def quality(infer: Infer) -> float:
        return float(np.mean(np.argmax(infer(test), axis=1) == truth))

    return Task(
        name="mnist",
        architecture=Architecture(kind="dense-classifier", layers=(784, 200, 200, 10)),
        train=x[:20_000],
        labels=np.eye(10, dtype=np.float32)[y[:20_000]],
        devices=[x[20_000 + 40 * i : 20_040 + 40 * i] for i in range(100)],
        fresh=test[:2000],
        quality_name="accuracy",
        quality=quality,
        tolerance=0.005,
    )


def _thinned(rows: Rows, most: int) -> Rows:
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)]
