"""The two networks of the MNIST table: the dense 2NN on LiteRT, as a device trains it, and a small CNN on PyTorch.

    2NN   784 - 200 - 200 - 10, ReLU, 199 210 parameters: `models.local_training.fit` on the product's training graph
    CNN   28 x 28 ─ 16 filters 5 x 5, stride 2 ─ 32 filters 5 x 5, stride 2 ─ 10, ReLU, 28 938 parameters: PyTorch

The product's families are dense and one-dimensional, so the CNN has no graph on the device: its rows say what the federated method
does on a network that can see shapes, not what LiteRT does. Both keep the biases of the logits last, where the
logit adjustment expects them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from learning_tables.mnist_federation import Flat
from learning_tables.pronostia_detectors import Model
from models.architecture import Architecture, initial_parameters
from models.export import isolated
from models.int8_model import Int8Model
from models.local_training import fit
from models.training_model import TrainingModel
from protocol.training import TrainingSettings

__all__ = ["TWO_NN", "ConvNetwork", "DenseNetwork", "int8_accuracy"]

TWO_NN = Architecture(kind="dense-classifier", layers=(784, 200, 200, 10))

Images = NDArray[np.float32]


class DenseNetwork:
    """The 2NN, trained and judged by LiteRT."""

    def __init__(self) -> None:
        self._model = TrainingModel(isolated.export_training_model(TWO_NN), TWO_NN)

    def initial(self, seed: int) -> Flat:
        """First parameters (P,)."""
        return initial_parameters(TWO_NN, seed)

    def fit(
        self,
        parameters: Flat,
        x: Images,
        labels: Images,
        work: TrainingSettings,
        rng: np.random.Generator,
        correction: Flat | None,
    ) -> tuple[Flat, int]:
        """See `mnist_federation.Runner`."""
        result = fit(
            self._model,
            parameters,
            x,
            work,
            rng=rng,
            labels=labels,
            correction=correction,
        )
        return result.parameters, result.steps

    def accuracy(self, parameters: Flat, x: Images, y: NDArray[np.int64]) -> float:
        """See `mnist_federation.Runner`."""
        self._model.restore(parameters)
        logits, _ = self._model.infer(x)
        return float((logits.argmax(axis=1) == y).mean())


def int8_accuracy(flat: Flat, reports: Sequence[Images], x: Images, y: NDArray[np.int64]) -> float:
    """Accuracy of the 2NN's int8 model on images (n, 784), its ranges the union of what devices with `reports` saw."""
    model = Model(architecture=TWO_NN, flat=flat, held_out=reports)
    int8 = Int8Model(model.int8_content(), TWO_NN.kind)
    return float(np.mean([int8.infer_int8(row).argmax() == label for row, label in zip(x, y, strict=True)]))


class ConvNetwork:
    """The CNN, trained by plain SGD in PyTorch on one thread."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._layers = _layers()
        self._parameters: list[torch.Tensor] = list(self._layers.parameters())

    def initial(self, seed: int) -> Flat:
        """First parameters (P,), PyTorch's own initialisation."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            flat = nn.utils.parameters_to_vector(_layers().parameters())
        return np.asarray(flat.detach().numpy(), np.float32)

    def fit(
        self,
        parameters: Flat,
        x: Images,
        labels: Images,
        work: TrainingSettings,
        rng: np.random.Generator,
        correction: Flat | None,
    ) -> tuple[Flat, int]:
        """See `mnist_federation.Runner`; raises ValueError for a proximal term or a correction, which no row here needs."""
        if work.proximal or correction is not None:
            raise ValueError("the CNN's rows have no proximal term and no correction")
        self._load(parameters)
        images, targets = torch.from_numpy(x).reshape(-1, 1, 28, 28), torch.from_numpy(labels)
        steps = 0
        for _ in range(work.epochs):
            order = torch.from_numpy(rng.permutation(len(x)))
            for chosen in torch.split(order, work.batch_size):
                loss = nn.functional.cross_entropy(self._layers(images[chosen]), targets[chosen])
                gradients = torch.autograd.grad(loss, self._parameters)
                with torch.no_grad():
                    torch._foreach_add_(self._parameters, gradients, alpha=-work.learning_rate)
                steps += 1
        flat = nn.utils.parameters_to_vector(self._parameters).detach().numpy()
        return np.array(flat, np.float32), steps

    def accuracy(self, parameters: Flat, x: Images, y: NDArray[np.int64]) -> float:
        """See `mnist_federation.Runner`."""
        self._load(parameters)
        with torch.no_grad():
            parts = [
                self._layers(part.reshape(-1, 1, 28, 28)).argmax(dim=1)
                for part in torch.split(torch.from_numpy(x), 1000)
            ]
        return float((torch.cat(parts).numpy() == y).mean())

    def _load(self, parameters: Flat) -> None:
        nn.utils.vector_to_parameters(torch.from_numpy(np.array(parameters)), self._parameters)
        # `vector_to_parameters` hands out views of one vector; steps in place need memory of their own.
        with torch.no_grad():
            for parameter in self._parameters:
                parameter.data = parameter.data.clone()


def _layers() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 10),
    )
