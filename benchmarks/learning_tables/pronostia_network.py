"""The autoencoder of the PRONOSTIA table: trained by the device's own loop on LiteRT, alone, together or in one place.

Federated averaging here is the loop of the aggregator without its messages: every bearing answers `models.local_training.fit`
from the same parameters, the mean of the answers, weighted by examples, is the next start. Equal work for all: a bearing alone,
and the pooled rows, pass as often over their windows as federated devices do over theirs.

Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", arXiv:1602.05629v4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.architecture import Architecture, initial_parameters
from models.export import isolated
from models.local_training import fit
from models.training_model import TrainingModel
from protocol.training import TrainingSettings

__all__ = [
    "AUTOENCODER",
    "Training",
    "fine_tune",
    "load_training_model",
    "train_in_one_place",
    "train_together",
]

Rows = NDArray[np.float32]

AUTOENCODER = Architecture(kind="dense-autoencoder", layers=(46, 16, 8, 16, 46))


@dataclass(frozen=True, kw_only=True)
class Training:
    """How long and how: the defaults of the demo's family, and enough rounds that the loss no longer falls much."""

    rounds: int = 20
    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 0.05


def load_training_model(architecture: Architecture = AUTOENCODER) -> TrainingModel:
    """The LiteRT training graph of an autoencoder; TensorFlow writes it in a child process."""
    return TrainingModel(isolated.export_training_model(architecture), architecture)


def train_in_one_place(
    model: TrainingModel, rows: Rows, training: Training, *, seed: int
) -> NDArray[np.float32]:
    """Plain training on windows (n, F) that lie on one machine: one bearing's own, or all bearings' in a pool."""
    start = initial_parameters(model.architecture, seed)
    return _fit(model, start, rows, training, epochs=training.rounds * training.epochs, seed=seed)


def train_together(
    model: TrainingModel, devices: Sequence[Rows], training: Training, *, seed: int
) -> NDArray[np.float32]:
    """Federated averaging over the devices' windows (n_i, F), all of them in every round."""
    parameters = initial_parameters(model.architecture, seed)
    examples = np.array([len(rows) for rows in devices], np.float64)
    for number in range(training.rounds):
        answers = [
            _fit(model, parameters, rows, training, epochs=training.epochs, seed=1000 * seed + number)
            for rows in devices
        ]
        parameters = np.average(answers, axis=0, weights=examples).astype(np.float32)
    return parameters


def fine_tune(
    model: TrainingModel, parameters: NDArray[np.float32], rows: Rows, training: Training, *, seed: int
) -> NDArray[np.float32]:
    """One round's worth of epochs on a device's own windows, held near the fleet's model by FedProx' term."""
    return _fit(model, parameters, rows, training, epochs=training.epochs, seed=seed, proximal=1.0)


def _fit(
    model: TrainingModel,
    parameters: NDArray[np.float32],
    rows: Rows,
    training: Training,
    *,
    epochs: int,
    seed: int,
    proximal: float = 0.0,
) -> NDArray[np.float32]:
    return fit(
        model,
        parameters,
        rows,
        TrainingSettings(
            epochs=epochs,
            batch_size=training.batch_size,
            learning_rate=training.learning_rate,
            proximal=proximal,
        ),
        rng=np.random.default_rng(seed),
    ).parameters
