"""The model families as PyTorch modules: what a Jetson trains, and what Opacus is given.

A `TorchModel` reads and writes the same flat vector as every other runtime; PyTorch keeps a weight the other way round
(outputs first), so vectors are transposed on the way in and out. It is not a learner: optimisers, epochs and privacy
are `models.torch_training`. The only other module that imports PyTorch is that one; import both where they are used.

Invariants: `flat()` gives back what `load_flat` was given, bit by bit; outputs, scores, losses and gradients are those
of `models.reference_model` within float32.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.architecture import Architecture, require_finite, split_parameters
from models.errors import LayoutError

__all__ = ["TorchModel"]


class TorchModel(nn.Module):
    """One architecture as a module: `forward` maps standardised windows (B, F) to outputs (B, outputs).

    Made of plain layers without shared weights or buffers, as Opacus asks; its weights are PyTorch's random ones
    until `load_flat`.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.layers = nn.ModuleList(_layers(architecture))

    def forward(self, x: Tensor) -> Tensor:
        """Output (B, outputs): a reconstruction, or the logits of a softmax."""
        return self.activations(x)[-1]

    def activations(self, x: Tensor) -> list[Tensor]:
        """Every activation tensor of x (B, F), in the order of `Architecture.tensor_names`."""
        tensors = [x]
        for i, layer in enumerate(self.layers):
            if i:
                tensors.append(torch.relu(tensors[-1]))
            tensors.append(
                layer(tensors[-1])
                if isinstance(layer, nn.Linear)
                else self._convolve(layer, tensors[-1], self.architecture.layers[i])
            )
        return tensors

    def _convolve(self, layer: nn.Module, x: Tensor, channels: int) -> Tensor:
        """A convolution over rows as all runtimes keep them, time-major (B, samples · channels)."""
        # PyTorch convolves channel-major.
        rows: Tensor = layer(x.reshape(len(x), -1, channels).transpose(1, 2))
        return rows.transpose(1, 2).flatten(1)

    def scores(self, x: Tensor) -> Tensor:
        """Anomaly score (B,) of each window (B, F): see `models.reference_model`."""
        output = self(x)
        if self.architecture.is_classifier:
            return 1.0 - torch.softmax(output, dim=-1).amax(dim=-1)
        return torch.mean((output - x) ** 2, dim=-1)

    def losses(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Loss (B,) of each window x (B, F); a classifier needs one-hot `labels` (B, classes).

        Raises:
            LayoutError: labels missing for a classifier or of another shape.
        """
        output = self(x)
        if not self.architecture.is_classifier:
            return torch.mean((output - x) ** 2, dim=-1)
        if labels is None or labels.shape != output.shape:
            raise LayoutError(
                f"a classifier trains on one-hot labels of shape {tuple(output.shape)}, got {None if labels is None else tuple(labels.shape)}"
            )
        return -torch.sum(labels * torch.log_softmax(output, dim=-1), dim=-1)

    def loss(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Mean of `losses` over the batch: what training goes down."""
        return self.losses(x, labels).mean()

    def load_flat(self, flat: NDArray[np.floating]) -> None:
        """Set all parameters from a flat vector (P,).

        Raises:
            LayoutError: another length; ParameterError: not finite. Nothing is changed then.
        """
        parts = split_parameters(self.architecture, require_finite(self.architecture, flat))
        with torch.no_grad():
            for parameter, part in zip(self.parameters(), parts, strict=True):
                # Not from_numpy: it warns about vectors that may not be written to, as a bundle's.
                parameter.copy_(torch.tensor(part.T))

    def flat(self) -> NDArray[np.float32]:
        """The parameters, a new flat vector (P,)."""
        return self.flatten(self.parameters())

    def flatten(self, tensors: Iterable[Tensor]) -> NDArray[np.float32]:
        """Tensors shaped and ordered as `parameters()` (gradients, Opacus' summed gradients) as one flat vector (P,)."""
        return np.concatenate(
            [np.asarray(tensor.detach().cpu().numpy().T, np.float32).ravel() for tensor in tensors]
        )


def _layers(architecture: Architecture) -> list[nn.Module]:
    """Plain layers whose weights are those of the flat vector, transposed: Opacus knows how to clip each of them."""
    pairs = list(zip(architecture.layers, architecture.layers[1:], strict=False))
    spec = architecture.convolution
    if spec is None:
        return [nn.Linear(inputs, outputs) for inputs, outputs in pairs]
    found: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(pairs):
        taps = architecture.geometry[i].taps
        if i < len(pairs) // 2:
            padding = spec.stride * (taps // 2)
            found.append(nn.Conv1d(inputs, outputs, spec.kernel, stride=spec.stride, padding=padding))
        else:
            # The samples of one position come out as channels; read time-major they are neighbours.
            found.append(nn.Conv1d(inputs, spec.stride * outputs, taps, padding=taps // 2))
    return found
