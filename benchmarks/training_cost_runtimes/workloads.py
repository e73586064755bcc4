"""What every runtime is given to do, and the port through which it does it."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.architecture import Architecture, initial_parameters

Float = NDArray[np.float32]
OptimizerName = Literal["sgd", "momentum", "adam"]

BATCHES = 16
"""Different batches that are trained on in turn; few enough to stay in memory everywhere."""
MOMENTUM = 0.9


class Workload(Struct, frozen=True, kw_only=True):
    """An architecture trained with batches of `batch` windows. `training_model` is the path of its .tflite for LiteRT."""

    architecture: Architecture
    batch: int
    optimizer: OptimizerName
    training_model: str
    learning_rate: float = 0.01

    @property
    def name(self) -> str:
        """As it stands in the figures' names."""
        widths = "-".join(map(str, self.architecture.layers))
        return f"{widths} batch {self.batch} {self.optimizer}"

    def start(self) -> Float:
        """Parameters (P,) that every runtime starts with."""
        return initial_parameters(self.architecture, 1)

    def batches(self) -> list[tuple[Float, Float | None]]:
        """BATCHES pairs of windows (batch, F) and one-hot labels (batch, classes), None for an autoencoder."""
        rng = np.random.default_rng(2)
        architecture, shape = self.architecture, (self.batch, self.architecture.feature_count)
        pairs: list[tuple[Float, Float | None]] = []
        for _ in range(BATCHES):
            x = rng.normal(size=shape).astype(np.float32)
            classes = rng.integers(0, architecture.output_count, self.batch)
            one_hot = np.eye(architecture.output_count, dtype=np.float32)[classes]
            pairs.append((x, one_hot if architecture.is_classifier else None))
        return pairs


class Runtime(Protocol):
    """One training step after another. Batches may be brought into the runtime's own form before; that is not timed."""

    def load(self, workload: Workload) -> None:
        """Build the model at the workload's start and prepare its batches."""

    def step(self, i: int) -> None:
        """Train on batch i modulo BATCHES."""

    def flat(self) -> Float:
        """The parameters (P,) now."""
