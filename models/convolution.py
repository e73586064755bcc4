"""The geometry of a 1-D convolutional autoencoder: which block of a window each layer sees, and how weights lie.

A window of `samples` x channels is read time-major, so `stride` neighbouring samples are one contiguous block. Every
layer is the same small thing: at each of n positions it multiplies the block there and (taps - 1)/2 neighbours on
either side (zeros beyond the ends) with one weight matrix. Going in, blocks are `stride` samples wide; coming out,
a layer writes `stride` samples per position, which a mere reading of memory turns into a finer row.

    window (60, 8) ── blocks of 2 ─► (30, 16) ─ 3 taps ─► (30, 32) ── blocks of 2 ─► (15, 64) ─ 3 taps ─► (15, 16)
    window (60, 8) ◄─ as blocks of 2 ─ (30, 16) ◄─ 3 taps ─ (30, 32) ◄─ as blocks of 2 ─ (15, 64) ◄─ 3 taps ─┘

In a framework's words: the encoder is Conv1D(kernel, stride, "same") with kernel = taps x stride, the decoder a
sub-pixel convolution, Conv1D(taps, 1, "same") and a reshape, which equals a transposed convolution of that kernel and
stride. So int8 runtimes and the Edge TPU need CONV_2D and RESHAPE only, and a gradient a matrix product and shifted
sums.

Source: Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional
Neural Network", arXiv:1609.05158v2, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from models.errors import LayoutError
from protocol.manifest import ConvolutionSpec

__all__ = ["Layer", "convolutional_layers", "require_convolution", "weight_shapes"]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer as a product at each position.

    Attributes:
        positions: n; the layer reads its input as (n, inputs) and writes (n, outputs).
        taps: blocks that enter one position, odd: its own and as many on either side.
        inputs: values of one block.
        outputs: values written per position.
    """

    positions: int
    taps: int
    inputs: int
    outputs: int

    @property
    def reach(self) -> int:
        """Neighbouring blocks on either side, and the blocks of zeros beyond each end."""
        return self.taps // 2

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """The weights as one matrix (taps · inputs, outputs): the same values in the same order."""
        return self.taps * self.inputs, self.outputs


def require_convolution(kind: str, layers: tuple[int, ...], spec: ConvolutionSpec | None) -> None:
    """Check that a convolution is there exactly where the kind has one, and that its numbers make a model.

    Raises:
        LayoutError: what does not fit, and what would.
    """
    if (kind == "conv-autoencoder") != (spec is not None):
        raise LayoutError(
            f"{kind!r} {'needs' if spec is None else 'has no'} convolution; "
            "'conv-autoencoder' has one (samples, kernel, stride), dense kinds have none"
        )
    if spec is None:
        return
    if len(layers) % 2 == 0:
        raise LayoutError(
            f"a conv-autoencoder goes down as often as up, so layers {layers} must be an odd number of widths, at least 3"
        )
    if min(spec.samples, spec.kernel, spec.stride) < 1 or spec.kernel % (2 * spec.stride) != spec.stride:
        raise LayoutError(
            f"kernel {spec.kernel} must be an odd multiple of stride {spec.stride} (e.g. {3 * spec.stride}), over 1 or more samples"
        )
    depth = len(layers) // 2
    if spec.samples % spec.stride**depth:
        raise LayoutError(
            f"a window of {spec.samples} samples does not divide evenly: {depth} layers of stride {spec.stride} "
            f"need a multiple of {spec.stride**depth}"
        )


def convolutional_layers(layers: tuple[int, ...], spec: ConvolutionSpec) -> tuple[Layer, ...]:
    """The layers of a checked convolution, encoder first."""
    depth, taps, stride = len(layers) // 2, spec.kernel // spec.stride, spec.stride
    found = []
    for i, (inputs, outputs) in enumerate(pairwise(layers)):
        if i < depth:
            positions = spec.samples // stride ** (i + 1)
            found.append(Layer(positions=positions, taps=taps, inputs=stride * inputs, outputs=outputs))
        else:
            positions = spec.samples // stride ** (2 * depth - i)
            found.append(Layer(positions=positions, taps=taps, inputs=inputs, outputs=stride * outputs))
    return tuple(found)


def weight_shapes(layers: tuple[int, ...], spec: ConvolutionSpec) -> tuple[tuple[int, ...], ...]:
    """Shapes of W0, b0, W1, ...: (kernel, channels in, channels out), as Keras keeps a Conv1D."""
    depth, taps, stride = len(layers) // 2, spec.kernel // spec.stride, spec.stride
    shapes: list[tuple[int, ...]] = []
    for i, (inputs, outputs) in enumerate(pairwise(layers)):
        kernel, width = (spec.kernel, outputs) if i < depth else (taps, stride * outputs)
        shapes += [(kernel, inputs, width), (width,)]
    return tuple(shapes)
