"""LiteRT as the device uses it: `models.training_model.TrainingModel`, NumPy arrays in, checks included."""

from __future__ import annotations

from pathlib import Path

from models.training_model import TrainingModel
from protocol.training import TrainingSettings
from training_cost_runtimes.workloads import BATCHES, MOMENTUM, Float, Workload


class LiteRt:
    """The device's own training."""

    def load(self, workload: Workload) -> None:
        """Read the exported graph."""
        self._model = TrainingModel(Path(workload.training_model).read_bytes(), workload.architecture)
        self._model.restore(workload.start())
        self._batches = workload.batches()
        self._settings = TrainingSettings(
            learning_rate=workload.learning_rate,
            optimizer="adam" if workload.optimizer == "adam" else "sgd",
            momentum=MOMENTUM if workload.optimizer == "momentum" else 0.0,
        )

    def step(self, i: int) -> None:
        """One call of the graph."""
        x, labels = self._batches[i % BATCHES]
        self._model.train(x, self._settings, labels=labels)

    def flat(self) -> Float:
        """As saved."""
        return self._model.save()
