"""The model families, each defined once: its layers, and where each weight lies in one flat float32 vector.

Everything else follows from an `Architecture`: the training graph, the int8 graph, the NumPy oracle, the size of an
update, the number of activation ranges a device reports. It is not a model: it holds no parameters and runs nothing.

    layers (32, 16, 8, 16, 32)  ->  flat vector  [ W0 (32,16) | b0 (16) | W1 (16,8) | b1 (8) | ... ]   row-major

ReLU between the layers; the last is linear (a reconstruction, or the logits of a softmax). A dense layer computes
``y = x @ W + b`` with W of shape (inputs, outputs). A convolutional layer does the same at each of n positions, on the
block there and its neighbours; `models.convolution` draws it. A dense layer is one with a single position and tap.
"""

from __future__ import annotations

import hashlib
import math
from functools import cached_property
from typing import Literal, Self

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.convolution import Layer, convolutional_layers, require_convolution, weight_shapes
from models.errors import LayoutError, ParameterError
from protocol.manifest import ConvolutionSpec, ModelSpec

__all__ = [
    "LARGEST_PARAMETER",
    "MAX_ACTIVATION",
    "MAX_LAYER_WIDTH",
    "MAX_PARAMETERS",
    "Architecture",
    "Kind",
    "initial_parameters",
    "join_parameters",
    "require_bounded",
    "require_finite",
    "split_parameters",
]

Kind = Literal["dense-autoencoder", "dense-classifier", "conv-autoencoder"]

MAX_LAYER_WIDTH = 4096
"""Widest layer. A manifest from elsewhere must not make a device allocate without bound."""

MAX_PARAMETERS = 4_000_000
"""Most parameters of a model: 16 MB of float32, twice what a Coral holds as int8."""

MAX_ACTIVATION = 262_144
"""Most values of one activation tensor of one window: 1 MB of float32; a convolution's grow with the window."""


LARGEST_PARAMETER = 1e4
"""Largest parameter of a model that may be released. Inputs end at 8 deviations, so trained weights stay below ten and a linear
detector's below a thousand; 3.4e30 is finite in float32 too, and its squares are not."""


class Architecture(Struct, frozen=True, kw_only=True, dict=True, omit_defaults=True):
    """A family member: its kind and its layer widths from input to output.

    For ``dense-autoencoder`` the first and the last width are both the number of features; for ``dense-classifier``
    the last is the number of classes; for ``conv-autoencoder`` the widths are channels, of the window at both ends,
    and `convolution` says how the layers slide over it.

    Raises:
        LayoutError: fewer than two widths, a width outside 1..4096, too many parameters or activations, an autoencoder
            whose ends differ, a classifier with fewer than two classes, or a convolution that does not fit.

    >>> architecture = Architecture(kind="dense-autoencoder", layers=(32, 16, 8, 16, 32))
    >>> architecture.parameter_count
    1352
    >>> [part.shape for part in split_parameters(architecture, np.zeros(1352))][:4]
    [(32, 16), (16,), (16, 8), (8,)]
    """

    kind: Kind
    layers: tuple[int, ...]
    convolution: ConvolutionSpec | None = None

    def __post_init__(self) -> None:
        if self.kind not in {"dense-autoencoder", "dense-classifier", "conv-autoencoder"}:
            raise LayoutError(
                f"unknown model kind {self.kind!r}; known: 'dense-autoencoder', 'dense-classifier', 'conv-autoencoder'"
            )
        if len(self.layers) < 2 or not all(1 <= width <= MAX_LAYER_WIDTH for width in self.layers):
            raise LayoutError(
                f"layers {self.layers} must be at least two widths between 1 and {MAX_LAYER_WIDTH}"
            )
        if not self.is_classifier and self.layers[0] != self.layers[-1]:
            raise LayoutError(
                f"an autoencoder gives back what it gets, so the first and last of layers {self.layers} must be equal"
            )
        if self.is_classifier and self.layers[-1] < 2:
            raise LayoutError(f"a classifier needs at least two classes, layers {self.layers} end in one")
        require_convolution(self.kind, self.layers, self.convolution)
        if self.parameter_count > MAX_PARAMETERS:
            raise LayoutError(
                f"layers {self.layers} hold {self.parameter_count} parameters; at most {MAX_PARAMETERS} are allowed"
            )
        largest = max(self.feature_count, *(layer.positions * layer.outputs for layer in self.geometry))
        if largest > MAX_ACTIVATION:
            raise LayoutError(
                f"layers {self.layers} make {largest} activations of one window; at most {MAX_ACTIVATION} are allowed"
            )

    @classmethod
    def from_manifest(cls, spec: ModelSpec) -> Self:
        """The architecture a manifest names; raises LayoutError where its count or layout hash contradicts it."""
        architecture = cls(kind=spec.kind, layers=tuple(spec.layers), convolution=spec.convolution)
        if (spec.parameter_count, spec.layout_sha256) != (
            architecture.parameter_count,
            architecture.layout_sha256,
        ):
            raise LayoutError(
                f"the manifest promises {spec.parameter_count} parameters of layout {spec.layout_sha256[:12]}…, but "
                f"{spec.kind} {spec.layers} has {architecture.parameter_count} of layout {architecture.layout_sha256[:12]}…"
            )
        return architecture

    def to_manifest(self) -> ModelSpec:
        """The manifest's description of this architecture."""
        return ModelSpec(
            kind=self.kind,
            layers=self.layers,
            parameter_count=self.parameter_count,
            layout_sha256=self.layout_sha256,
            convolution=self.convolution,
        )

    @property
    def is_classifier(self) -> bool:
        """Does it give logits, and train on labels? An autoencoder gives back its input."""
        return self.kind == "dense-classifier"

    @property
    def feature_count(self) -> int:
        """Width F of the input: features, or samples × channels of a window, time-major."""
        return self.layers[0] * (self.convolution.samples if self.convolution else 1)

    @property
    def output_count(self) -> int:
        """Width of the output: F of an autoencoder, classes of a classifier."""
        return self.layers[-1] * (self.convolution.samples if self.convolution else 1)

    @cached_property
    def geometry(self) -> tuple[Layer, ...]:
        """What each layer does, in order: see `models.convolution`."""
        if self.convolution is not None:
            return convolutional_layers(self.layers, self.convolution)
        pairs = zip(self.layers, self.layers[1:], strict=False)
        return tuple(Layer(positions=1, taps=1, inputs=a, outputs=b) for a, b in pairs)

    @cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of W0, b0, W1, b1, ... in the order of the flat vector."""
        if self.convolution is not None:
            return weight_shapes(self.layers, self.convolution)
        pairs = zip(self.layers, self.layers[1:], strict=False)
        return tuple(shape for a, b in pairs for shape in ((a, b), (b,)))

    @cached_property
    def parameter_count(self) -> int:
        """Length P of the flat vector."""
        return sum(math.prod(shape) for shape in self.shapes)

    @cached_property
    def layout_sha256(self) -> str:
        """SHA-256 that two machines compare before they add up vectors: kind, order, shapes, type, byte order."""
        order = " ".join("x".join(map(str, shape)) for shape in self.shapes)
        if self.convolution is not None:
            order += f" over {self.convolution.samples} samples by {self.convolution.stride}"
        return hashlib.sha256(f"fedge/layout/v1 {self.kind} f32le rows {order}".encode()).hexdigest()

    @cached_property
    def tensor_names(self) -> tuple[str, ...]:
        """Names of the T activation tensors in order of computation: the order of all range vectors.

        ``input``, then for each hidden layer ``sum_i`` (before the ReLU) and ``relu_i``, then ``output``.
        """
        hidden = range(len(self.layers) - 2)
        return ("input", *(f"{stage}_{i}" for i in hidden for stage in ("sum", "relu")), "output")

    @property
    def tensor_count(self) -> int:
        """T: how many activation tensors a device reports a range for."""
        return len(self.tensor_names)


def initial_parameters(architecture: Architecture, seed: int) -> NDArray[np.float32]:
    """A fresh flat vector (P,): Glorot normal weights, zero biases; the same seed gives the same vector everywhere.

    Source: Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010,
    Eq. (12) for the variance 2 / (inputs + outputs); a convolution counts each of them once per tap.
    """
    rng = np.random.default_rng(seed)
    return join_parameters(
        architecture,
        [
            rng.normal(0.0, (2.0 / (math.prod(shape[:-2]) * sum(shape[-2:]))) ** 0.5, shape).astype(
                np.float32
            )
            if len(shape) > 1
            else np.zeros(shape, np.float32)
            for shape in architecture.shapes
        ],
    )


def split_parameters(architecture: Architecture, flat: NDArray[np.floating]) -> list[NDArray[np.floating]]:
    """Views of a flat vector (P,) as [W0, b0, W1, b1, ...]; raises LayoutError for another length."""
    if flat.shape != (architecture.parameter_count,):
        raise LayoutError(
            f"a flat vector for {architecture.kind} {architecture.layers} has shape ({architecture.parameter_count},), got {flat.shape}"
        )
    parts, at = [], 0
    for shape in architecture.shapes:
        size = int(np.prod(shape))
        parts.append(flat[at : at + size].reshape(shape))
        at += size
    return parts


def join_parameters(architecture: Architecture, arrays: list[NDArray[np.floating]]) -> NDArray[np.float32]:
    """The flat float32 vector (P,) of [W0, b0, W1, b1, ...]; raises LayoutError for other shapes."""
    shapes = tuple(array.shape for array in arrays)
    if shapes != architecture.shapes:
        raise LayoutError(
            f"{architecture.kind} {architecture.layers} needs arrays {architecture.shapes}, got {shapes}"
        )
    return np.concatenate([np.asarray(array, np.float32).ravel() for array in arrays])


def require_finite(architecture: Architecture, flat: NDArray[np.floating]) -> NDArray[np.float32]:
    """The vector as contiguous float32 (P,).

    Raises:
        LayoutError: another length.
        ParameterError: NaN or infinity in it; the message names the first.
    """
    if flat.shape != (architecture.parameter_count,):
        split_parameters(architecture, flat)
    vector = np.ascontiguousarray(flat, np.float32)
    bad = np.flatnonzero(~np.isfinite(vector))
    if len(bad):
        raise ParameterError(
            f"{len(bad)} of {len(vector)} parameters are not finite, the first is {vector[bad[0]]} at index {bad[0]}"
        )
    return vector


def require_bounded(architecture: Architecture, flat: NDArray[np.floating]) -> NDArray[np.float32]:
    """The vector as contiguous float32 (P,), none of it beyond `LARGEST_PARAMETER`: what may become a release.

    Raises:
        LayoutError: another length.
        ParameterError: NaN, infinity or a larger magnitude in it; the message names one.
    """
    vector = require_finite(architecture, flat)
    worst = int(np.argmax(np.abs(vector)))
    if abs(vector[worst]) > LARGEST_PARAMETER:
        raise ParameterError(
            f"parameter {worst} of {len(vector)} is {vector[worst]:.3g}; none of a model that has learned is beyond"
            f" ±{LARGEST_PARAMETER:g}: the training diverged, lower the learning rate"
        )
    return vector
