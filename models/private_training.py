"""DP-SGD on the device: training that hides whether any single window was among the device's own.

    windows ─► Poisson batch ─► clipped, one by one ─► lattice ─► + discrete Gaussian ─► / expected size ─► optimizer
               OS generator     the model's graph         integers   OS generator

Pure given the model, the windows and the random bytes. It counts no ε: what happened is what its settings'
`protocol.training.ExamplePrivacy` says, and `aggregator.privacy.example_level` says what that costs.

What is protected is the trained parameters, against adding or removing one window. The losses of the result, the number of
windows and whatever else a device reports are computed from the raw windows. Windows that overlap, or that show the same
event, each count for themselves: their costs add up.

The noise. A float Gaussian added to a float sum gives away low bits of that sum (Mironov, CCS 2012). Here the sum is rounded
to a lattice and the noise is an integer, so what leaves is an integer of a noisy lattice, and everything after is
arithmetic on it. Rounding may lengthen a difference of sums by one step an entry, √P in all; the noise is made wider by that
and by `FLOAT_SLACK`, so its multiplier is kept and not idealised. At integer Rényi orders the discrete Gaussian costs no more
than the continuous one, sampled or not. Each drawn integer is within 2^-298 of its distribution
(`protocol.privacy.integer_tables`), which every δ has room for.

Invariants: a batch is divided by its expected size, so its real size stays secret; an empty batch is a step along noise alone;
no parameters, a forger's either, make a window count for more than the clip and its slack.

Sources: Abadi et al., "Deep Learning with Differential Privacy", 2016, arXiv:1607.00133v2, Algorithm 1; Poisson batches,
Mironov, Talwar, Zhang, 2019, arXiv:1908.10530v1; Canonne, Kamath, Steinke, "The Discrete Gaussian for Differential Privacy",
arXiv:2004.00010v5; Casacuberta et al., "Widespread Underestimation of Sensitivity", 2022, arXiv:2207.10635v1, on float sums.
"""

from __future__ import annotations

import math
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from models.architecture import LARGEST_PARAMETER, Architecture
from models.errors import ParameterError, TrainingSettingsError
from models.local_training import FitResult, Scorer, mean_loss, require_windows
from protocol.privacy.discrete_gaussian import draw_discrete_gaussian
from protocol.privacy.randomness import RandomBytes, RandomStream
from protocol.training import ExamplePrivacy, TrainingSettings

__all__ = ["FLOAT_SLACK", "PrivatelyTrainable", "fit_privately"]

Floats = NDArray[np.floating]

FLOAT_SLACK: Final = 1e-3
"""Share of the clip that one window may move a float32 sum beyond the clip; a hundred times what tests see."""

_NOISE_STEPS: Final = 2.0**14
"""Standard deviation of the noise in lattice steps: fine enough that rounding costs √P/16384 of it, 0.2 % at P = 1000."""

_LARGEST_ACTIVATION: Final = 1e6
"""Beyond it a window counts as zero. Kernels flush values below 1e-38, squares of 1e-19 among them: a parameter vector made for it
hides a gradient, huge activation times tiny derivative, from the norm. Up to here that is below half of `FLOAT_SLACK` a layer."""


class PrivatelyTrainable(Scorer, Protocol):
    """The part of `models.training_model.TrainingModel` that private training needs."""

    @property
    def architecture(self) -> Architecture:
        """What the flat vector means."""

    def restore(self, flat: Floats, correction: Floats | None = None) -> None:
        """Set parameters, which the proximal term pulls to, and correction (P,); the optimizer starts anew."""

    def save(self) -> NDArray[np.float32]:
        """Current parameters (P,)."""

    def clipped_sum(
        self, x: Floats, clip_norm: float, *, labels: Floats | None = None
    ) -> tuple[NDArray[np.float32], float]:
        """(sum of each window's gradient clipped to norm `clip_norm` (P,), mean loss)."""

    def ranges(self, x: Floats) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(low (T,), high (T,)) over windows (B, F)."""

    def step(self, gradient: Floats, settings: TrainingSettings) -> None:
        """One step of the optimizer along a gradient (P,)."""


def fit_privately(
    model: PrivatelyTrainable,
    parameters: Floats,
    x: Floats,
    settings: TrainingSettings,
    *,
    random_bytes: RandomBytes,
    labels: Floats | None = None,
    correction: Floats | None = None,
) -> FitResult:
    """Train from `parameters` on windows x (n, F) so that the resulting parameters hide any single one of them; losses do not.

    Args:
        model: the runner; its state is overwritten.
        parameters: where to start, and the anchor of the proximal term (P,).
        x: standardised windows, finite.
        settings: how, with `example_privacy`; there are no epochs, because a window is in each batch by chance. The optimizer starts
            anew with each call.
        random_bytes: `os.urandom` in production: a predictable generator gives no privacy.
        labels: one-hot (n, classes), for a classifier.
        correction: added to every gradient (P,); it must not come from these windows other than through earlier results of this
            function.

    Raises:
        InputError: no windows, or one that is not finite.
        LayoutError: parameters, labels or correction of another shape.
        TrainingSettingsError: settings without `example_privacy`, or noise so wide that the lattice cannot carry it.
        ParameterError: training diverged to NaN or infinity; lower the learning rate, answer nothing.
    """
    privacy = settings.example_privacy
    if privacy is None:
        raise TrainingSettingsError("private training needs settings with example_privacy, got none")
    require_windows(x)
    windows = np.ascontiguousarray(x, np.float32)
    stream = RandomStream.fresh(random_bytes)
    lattice_step = _lattice_step(privacy, len(parameters))
    expected = privacy.sampling_rate * len(windows)
    model.restore(parameters, correction=correction)
    loss_before = mean_loss(model, windows, labels)
    for _ in range(privacy.steps):
        chosen = _poisson_batch(len(windows), privacy.sampling_rate, stream)
        total = _clipped_total(model, windows, labels, chosen, privacy.clip_norm, len(parameters))
        noise = draw_discrete_gaussian(len(parameters), _NOISE_STEPS, stream)
        noisy = np.rint(total / lattice_step).astype(np.int64) + noise
        gradient = noisy * (lattice_step / expected)
        model.step(gradient, settings)
    trained = model.save()
    loss_after = mean_loss(model, windows, labels)
    if not (np.abs(trained).max() <= LARGEST_PARAMETER and math.isfinite(loss_after)):
        raise ParameterError(
            f"private training diverged within {privacy.steps} steps at learning rate {settings.learning_rate}: "
            "its parameters or its loss are not finite, or absurdly large"
        )
    return FitResult(
        parameters=trained,
        loss_before=loss_before,
        loss_after=loss_after,
        steps=privacy.steps,
        learning_rate=settings.learning_rate,
    )


def _lattice_step(privacy: ExamplePrivacy, dimension: int) -> float:
    """Width g of a lattice step: 2^14 of them are noise_multiplier · (clip + slack + √P·g), the noise that is needed."""
    free = _NOISE_STEPS - privacy.noise_multiplier * math.sqrt(dimension)
    if free < _NOISE_STEPS / 2:
        raise TrainingSettingsError(
            f"noise multiplier {privacy.noise_multiplier} over {dimension} parameters would be half rounding; "
            f"at most {_NOISE_STEPS / 2 / math.sqrt(dimension):.3g} is possible"
        )
    return privacy.noise_multiplier * privacy.clip_norm * (1 + FLOAT_SLACK) / free


def _poisson_batch(count: int, rate: float, stream: RandomStream) -> NDArray[np.intp]:
    """Indices of a batch that each of `count` windows is in with probability `rate`, independently; maybe none."""
    # 53 bits of each word: exact in float64, and 1.0 is beyond every one of them.
    return np.flatnonzero(stream.fractions(count) < rate)


def _clipped_total(
    model: PrivatelyTrainable,
    windows: NDArray[np.float32],
    labels: Floats | None,
    chosen: NDArray[np.intp],
    clip_norm: float,
    dimension: int,
) -> NDArray[np.float64]:
    """Sum of clipped gradients (P,) over the chosen windows, finite; zeros for none.

    Each window is taken by itself, and all of them alike: what one counts must not depend on its neighbours, nor the time that it
    takes on whether it can be measured. One call for many windows, which does not say which of them cannot, would be fifty times faster.
    """
    total = np.zeros(dimension)
    for i in chosen:
        one = slice(i, i + 1)
        total += _clipped(model, windows[one], None if labels is None else labels[one], clip_norm)
    return total


def _clipped(
    model: PrivatelyTrainable, x: NDArray[np.float32], labels: Floats | None, clip_norm: float
) -> NDArray[np.float64]:
    """Clipped gradient (P,) of one window x (1, F); zeros where it cannot be measured in float32.

    Measured again after the graph did: a convolution's norm is a sum of terms of either sign, which may cancel to less than nothing.
    """
    low, high = model.ranges(x)
    gradient = model.clipped_sum(x, clip_norm, labels=labels)[0].astype(np.float64)
    norm = float(np.linalg.norm(gradient))
    # NaN is too large as well: it compares as false.
    if not (np.maximum(-low, high).max() <= _LARGEST_ACTIVATION and math.isfinite(norm)):
        return np.zeros_like(gradient)
    return gradient * (clip_norm / max(norm, clip_norm))
