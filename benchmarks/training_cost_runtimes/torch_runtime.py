"""PyTorch, eager and through torch.compile, on tensors made beforehand."""

from __future__ import annotations

import torch

from models.torch_model import TorchModel
from training_cost_runtimes.workloads import BATCHES, MOMENTUM, Float, Workload

torch.set_num_threads(1)


class TorchEager:
    """The loop of every tutorial: zero_grad, loss, backward, step."""

    def load(self, workload: Workload) -> None:
        """Build the module and its optimiser."""
        self._model = TorchModel(workload.architecture)
        self._model.load_flat(workload.start())
        if workload.optimizer == "adam":
            self._optimizer: torch.optim.Optimizer = torch.optim.Adam(
                self._model.parameters(), workload.learning_rate
            )
        else:
            momentum = MOMENTUM if workload.optimizer == "momentum" else 0.0
            self._optimizer = torch.optim.SGD(
                self._model.parameters(), workload.learning_rate, momentum=momentum
            )
        self._batches = [
            (torch.from_numpy(x), None if labels is None else torch.from_numpy(labels))
            for x, labels in workload.batches()
        ]
        self._loss = self._model.loss

    def step(self, i: int) -> None:
        """One step; reading the loss is what a loop does to report it."""
        self._optimizer.zero_grad()
        loss = self._loss(*self._batches[i % BATCHES])
        loss.backward()
        self._optimizer.step()
        loss.item()

    def flat(self) -> Float:
        """The module's parameters."""
        return self._model.flat()


class TorchCompiled(TorchEager):
    """The loss, and so its gradient, through torch.compile; needs a C++ compiler, which a device rarely has."""

    def load(self, workload: Workload) -> None:
        """Build, then compile at the first step."""
        super().load(workload)
        self._loss = torch.compile(self._model.loss)
