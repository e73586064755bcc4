"""Autoencoders for SKAB that are trained, not written down: dense on single rows, convolutional on windows of a minute.

Trained by `models.local_training.fit` on LiteRT with Adam, as a device trains: each recording by itself (`local`), or by federated
averaging over the 34, every recording in every round (`federated`). A network by itself passes as often over its rows as one that
learns with others.

Source of the averaging: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
arXiv:1602.05629v4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learning_tables.pronostia_detectors import Model
from learning_tables.skab_recordings import Prepared
from models.architecture import Architecture, initial_parameters
from models.export import isolated
from models.local_training import fit
from models.training_model import TrainingModel
from protocol.manifest import ConvolutionSpec
from protocol.training import TrainingSettings

__all__ = ["SAMPLES", "Training", "conv_autoencoder", "dense_autoencoder", "train_alone", "train_together"]

SAMPLES = 60
"""Rows of a window: a minute, the published Conv-AE's."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How long and how; `every` thins overlapping windows out, which say nearly the same."""

    rounds: int
    epochs: int = 2
    batch_size: int = 32
    learning_rate: float = 2e-3
    every: int = 1


def dense_autoencoder(features: int) -> Architecture:
    """For single rows (F,)."""
    return Architecture(kind="dense-autoencoder", layers=(features, 16, 3, 16, features))


def conv_autoencoder(channels: int) -> Architecture:
    """For windows of `SAMPLES` rows."""
    return Architecture(
        kind="conv-autoencoder",
        layers=(channels, 32, 16, 32, channels),
        convolution=ConvolutionSpec(samples=SAMPLES, kernel=6, stride=2),
    )


def train_together(
    architecture: Architecture, fleet: Sequence[Prepared], training: Training, *, seed: int
) -> list[Model]:
    """One model for all recordings, by federated averaging; the same object once per recording."""
    runner = _runner(architecture)
    parameters = initial_parameters(architecture, seed)
    for number in range(training.rounds):
        answers = [
            _fit(runner, parameters, prepared, training, training.epochs, seed=1000 * seed + number)
            for prepared in fleet
        ]
        parameters = np.asarray(np.mean(answers, axis=0, dtype=np.float64), np.float32)
    held_out = [prepared.training for prepared in fleet]
    return [Model(architecture=architecture, flat=parameters, held_out=held_out)] * len(fleet)


def train_alone(
    architecture: Architecture, fleet: Sequence[Prepared], training: Training, *, seed: int
) -> list[Model]:
    """A model for each recording from its own training rows."""
    runner = _runner(architecture)
    start = initial_parameters(architecture, seed)
    epochs = training.rounds * training.epochs
    return [
        Model(
            architecture=architecture,
            flat=_fit(runner, start, prepared, training, epochs, seed=seed),
            held_out=[prepared.training],
        )
        for prepared in fleet
    ]


def _runner(architecture: Architecture) -> TrainingModel:
    return TrainingModel(isolated.export_training_model(architecture), architecture)


def _fit(
    runner: TrainingModel,
    parameters: NDArray[np.float32],
    prepared: Prepared,
    training: Training,
    epochs: int,
    *,
    seed: int,
) -> NDArray[np.float32]:
    return fit(
        runner,
        parameters,
        prepared.training[:: training.every],
        TrainingSettings(
            epochs=epochs,
            batch_size=training.batch_size,
            learning_rate=training.learning_rate,
            optimizer="adam",
        ),
        rng=np.random.default_rng(seed),
    ).parameters
