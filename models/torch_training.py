"""A learner for devices that run PyTorch: the same port as `models.training_model.TrainingModel`, DP-SGD by Opacus.

Training is `torch.optim` on a `models.torch_model.TorchModel`; gradients of single windows and their clipping are
Opacus' GradSampleModule and DPOptimizer. Batches and noise are not: Opacus draws both from PyTorch's generator, a Mersenne
Twister, unless `torchcsprng` is installed, which no longer exists for current PyTorch; and its noise is a float. Here
`models.private_training` draws both, from the operating system, for this model as for the LiteRT one.

Importing this module costs nothing: PyTorch is loaded with the first model, Opacus with the first clipped sum. Nothing here runs
on a device unless its owner installed the extra.

Source: Yousefpour et al., "Opacus: User-Friendly Differential Privacy Library in PyTorch", 2021, arXiv:2109.12298v4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from models.architecture import Architecture, require_finite, split_parameters
from models.errors import LayoutError, RuntimeMissingError
from models.local_training import require_clip, require_optimizer
from protocol.training import Optimizer, TrainingSettings

if TYPE_CHECKING:
    import torch

    from models.torch_model import TorchModel

__all__ = ["TorchTrainingModel"]

Float = NDArray[np.float32]
Floats = NDArray[np.floating]


class TorchTrainingModel:
    """A model that learns on this machine through PyTorch.

    Args:
        architecture: what to train; it needs no exported file.
        device: where PyTorch keeps it, "cpu" or "cuda".

    Raises:
        RuntimeMissingError: PyTorch is not installed.
    """

    def __init__(self, architecture: Architecture, *, device: str = "cpu") -> None:
        try:
            # Only here: it takes a second and two hundred megabytes, and most devices have neither.
            import torch

            from models.torch_model import TorchModel
        except ImportError as error:
            raise RuntimeMissingError(
                f"training with PyTorch needs it: pip install 'fedge[torch]' ({error})"
            ) from None
        self.architecture: Final = architecture
        self._torch = torch
        self._model = TorchModel(architecture).to(device)
        self._device = device
        self._anchor: list[torch.Tensor] | None = None
        self._correction: list[torch.Tensor] | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._optimizer_name: Optimizer | None = None
        self._clipper: _OpacusClipper | None = None

    def restore(self, flat: Floats, correction: Floats | None = None) -> None:
        """As `TrainingModel.restore`."""
        anchor = require_finite(self.architecture, flat)
        added = None if correction is None else require_finite(self.architecture, correction)
        self._model.load_flat(flat)
        self._anchor = self._tensors(anchor)
        self._correction = None if added is None else self._tensors(added)
        self._optimizer, self._optimizer_name = None, None

    def save(self) -> Float:
        """The current parameters, a new vector (P,)."""
        self._require_restored()
        return self._model.flat()

    def train(self, x: Floats, settings: TrainingSettings, *, labels: Floats | None = None) -> float:
        """One step of the optimizer, as `TrainingModel.train`; returns the mean loss before it."""
        self._require_restored()
        batch, targets = self._batch(x), self._labels(x, labels)
        stepper = self._stepper(settings)
        stepper.zero_grad()
        loss = self._model.loss(batch, targets)
        loss.backward()  # type: ignore[no-untyped-call]  # PyTorch leaves it untyped
        self._pull(settings.proximal)
        if settings.gradient_clip is not None:
            self._torch.nn.utils.clip_grad_norm_(self._model.parameters(), settings.gradient_clip)
        self._correct()
        stepper.step()
        return float(loss.detach())

    def clipped_sum(
        self, x: Floats, clip_norm: float, *, labels: Floats | None = None
    ) -> tuple[Float, float]:
        """Opacus' summed gradient (P,), each window's clipped to `clip_norm`, and the mean loss; changes nothing.

        Raises:
            RuntimeMissingError: Opacus is not installed.
        """
        self._require_restored()
        require_clip(clip_norm)
        batch, targets = self._batch(x), self._labels(x, labels)
        if self._clipper is None:
            twin = type(self._model)(self.architecture).to(self._device)
            self._clipper = _OpacusClipper(twin)
        return self._clipper.clipped_sum(self._model.flat(), batch, targets, clip_norm)

    def step(self, gradient: Floats, settings: TrainingSettings) -> None:
        """One step of the optimizer along a given gradient (P,), as `TrainingModel.step`."""
        self._require_restored()
        parts = self._tensors(require_finite(self.architecture, gradient))
        stepper = self._stepper(settings)
        for parameter, part in zip(self._model.parameters(), parts, strict=True):
            parameter.grad = part
        self._pull(settings.proximal)
        self._correct()
        stepper.step()

    def infer(self, x: Floats) -> tuple[Float, Float]:
        """(output (B, outputs), score (B,)) for windows x (B, F) under the current parameters."""
        self._require_restored()
        batch = self._batch(x)
        with self._torch.no_grad():
            return self._model(batch).cpu().numpy(), self._model.scores(batch).cpu().numpy()

    def ranges(self, x: Floats) -> tuple[Float, Float]:
        """(lowest (T,), highest (T,)) value of each activation tensor over x (B, F), by `Architecture.tensor_names`."""
        self._require_restored()
        with self._torch.no_grad():
            tensors = self._model.activations(self._batch(x))
        low, high = ([float(extreme(t)) for t in tensors] for extreme in (self._torch.amin, self._torch.amax))
        return np.array(low, np.float32), np.array(high, np.float32)

    def _require_restored(self) -> None:
        if self._anchor is None:
            raise LayoutError("restore parameters first: the training model holds random ones until then")

    def _stepper(self, settings: TrainingSettings) -> torch.optim.Optimizer:
        require_optimizer(settings.optimizer, before=self._optimizer_name)
        self._optimizer_name = settings.optimizer
        if self._optimizer is None:
            parameters, kinds = self._model.parameters(), self._torch.optim
            self._optimizer = (
                kinds.Adam(parameters) if settings.optimizer == "adam" else kinds.SGD(parameters, lr=1.0)
            )
        for group in self._optimizer.param_groups:
            group["lr"] = settings.learning_rate
            if settings.optimizer == "sgd":
                group["momentum"] = settings.momentum
        return self._optimizer

    def _pull(self, proximal: float) -> None:
        """Add FedProx' μ(w - anchor) to the gradients."""
        if proximal:
            self._add(
                [
                    proximal * (p.detach() - a)
                    for p, a in zip(self._model.parameters(), self._anchor or (), strict=True)
                ]
            )

    def _correct(self) -> None:
        if self._correction is not None:
            self._add(self._correction)

    def _add(self, parts: list[torch.Tensor]) -> None:
        for parameter, part in zip(self._model.parameters(), parts, strict=True):
            parameter.grad = part.clone() if parameter.grad is None else parameter.grad + part

    def _tensors(self, flat: Floats) -> list[torch.Tensor]:
        """A flat vector (P,) as tensors shaped as `parameters()`: PyTorch keeps a weight transposed."""
        return [
            self._torch.from_numpy(np.array(part.T, np.float32)).reshape(parameter.shape).to(self._device)
            for part, parameter in zip(
                split_parameters(self.architecture, flat), self._model.parameters(), strict=True
            )
        ]

    def _batch(self, x: Floats) -> torch.Tensor:
        if x.ndim != 2 or x.shape[1] != self.architecture.feature_count or not len(x):
            raise LayoutError(f"a batch has shape (≥1, {self.architecture.feature_count}), got {x.shape}")
        # A copy: the caller's array must not be what Opacus takes gradients by.
        return self._torch.tensor(np.asarray(x, np.float32), device=self._device)

    def _labels(self, x: Floats, labels: Floats | None) -> torch.Tensor | None:
        if not self.architecture.is_classifier:
            return None
        shape = (len(x), self.architecture.output_count)
        if labels is None or labels.shape != shape:
            raise LayoutError(
                f"a classifier trains on one-hot labels of shape {shape}, got {None if labels is None else labels.shape}"
            )
        return self._torch.from_numpy(np.ascontiguousarray(labels, np.float32)).to(self._device)


class _OpacusClipper:
    """Opacus around a twin of the learner's model, so that its hooks never slow ordinary training."""

    def __init__(self, twin: TorchModel) -> None:
        try:
            # Only here: Opacus brings SciPy with it.
            from opacus.grad_sample import GradSampleModule
            from opacus.optimizers import DPOptimizer
            from torch.optim import SGD
        except ImportError as error:
            raise RuntimeMissingError(
                f"private training with PyTorch needs Opacus: pip install 'fedge[torch]' ({error})"
            ) from None
        self._twin = twin
        # Held: the hooks live as long as this does.
        self._hooked = GradSampleModule(twin, loss_reduction="sum")
        # It clips and adds up; the step is the learner's own, so noise and rate are idle here.
        self._optimizer = DPOptimizer(
            SGD(twin.parameters(), lr=1.0),
            noise_multiplier=0.0,
            max_grad_norm=1.0,
            expected_batch_size=1,
            loss_reduction="sum",
        )

    def clipped_sum(
        self, flat: Float, x: torch.Tensor, labels: torch.Tensor | None, clip_norm: float
    ) -> tuple[Float, float]:
        """(sum of clipped gradients (P,), mean loss) at parameters (P,)."""
        self._twin.load_flat(flat)
        self._optimizer.max_grad_norm = clip_norm
        self._optimizer.zero_grad(set_to_none=True)
        # PyTorch warns of a backward hook on a layer whose input needs no gradient.
        loss = self._twin.losses(x.requires_grad_(), labels).sum()
        loss.backward()  # type: ignore[no-untyped-call]  # PyTorch leaves it untyped
        self._optimizer.clip_and_accumulate()
        summed = self._twin.flatten(p.summed_grad for p in self._twin.parameters())  # type: ignore[attr-defined]  # Opacus' own
        return summed, float(loss.detach()) / len(x)
