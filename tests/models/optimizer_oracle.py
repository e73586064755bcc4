"""Momentum, Adam, clipping and correction in float64 NumPy, from their papers: what the training graph is held against."""

from __future__ import annotations

import numpy as np
import reference_training

from models.architecture import Architecture


class OracleOptimizer:
    """One training from `parameters`; `step` takes what `TrainingModel.train` takes."""

    def __init__(
        self,
        architecture: Architecture,
        parameters: np.ndarray,
        *,
        correction: np.ndarray | None = None,
    ) -> None:
        self.architecture = architecture
        self.parameters = np.asarray(parameters, np.float64)
        self.anchor = self.parameters
        self.correction = 0.0 if correction is None else np.asarray(correction, np.float64)
        self.mean = np.zeros_like(self.parameters)
        self.square = np.zeros_like(self.parameters)
        self.count = 0

    def step(
        self,
        x: np.ndarray,
        learning_rate: float,
        *,
        labels: np.ndarray | None = None,
        proximal: float = 0.0,
        optimizer: str = "sgd",
        momentum: float = 0.0,
        gradient_clip: float | None = None,
    ) -> float:
        loss, gradient = reference_training.loss_and_gradient(self.architecture, self.parameters, x, labels)
        gradient = gradient + proximal * (self.parameters - self.anchor)
        norm = float(np.linalg.norm(gradient))
        if gradient_clip is not None and norm > gradient_clip:
            gradient *= gradient_clip / norm
        self.follow(gradient + self.correction, learning_rate, optimizer=optimizer, momentum=momentum)
        return loss

    def follow(
        self, gradient: np.ndarray, learning_rate: float, *, optimizer: str = "sgd", momentum: float = 0.0
    ) -> None:
        self.count += 1
        if optimizer == "sgd":
            self.mean = momentum * self.mean + gradient
            self.parameters = self.parameters - learning_rate * self.mean
            return
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = 0.999 * self.square + 0.001 * gradient**2
        mean, square = self.mean / (1 - 0.9**self.count), self.square / (1 - 0.999**self.count)
        self.parameters = self.parameters - learning_rate * mean / (np.sqrt(square) + 1e-8)
