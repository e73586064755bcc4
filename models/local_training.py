"""What a device does with a round's question: train on its own windows, and say how good two models are on them.

Pure given the model, the windows, the settings and the random generator; it knows no files and no Flower. The
learner of the edge agent calls it, and so do benchmarks and simulations.

    train.fit         w ── epochs x shuffled batches of SGD or Adam, pulled to w by the proximal term ──► w'
    evaluate.assess   x ── candidate and champion ──► counts that add up over devices (protocol.questions)
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from models.architecture import LARGEST_PARAMETER
from models.errors import InputError, ParameterError, TrainingSettingsError
from models.sight import disturb_each
from protocol.grids import FEATURE_GRID, RANGE_GRID, SCORE_GRID
from protocol.training import Optimizer, TrainingSettings

__all__ = [
    "FitResult",
    "Scorer",
    "Trainable",
    "assess",
    "fit",
    "mean_loss",
    "require_clip",
    "require_optimizer",
    "require_windows",
]

Floats = NDArray[np.floating]

_RUINED: Final = 10.0
"""Times the loss that it began with, and that of answering nothing: a training that ends above both has diverged, finite or not."""


class Scorer(Protocol):
    """What gives the score of a window: every training model does."""

    def infer(self, x: Floats) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(output, score) of windows (B, F)."""


class Trainable(Scorer, Protocol):
    """The part of `models.training_model.TrainingModel` that training needs."""

    def restore(self, flat: Floats, correction: Floats | None = None) -> None:
        """Set parameters, which the proximal term pulls to, and correction (P,); the optimizer starts anew."""

    def save(self) -> NDArray[np.float32]:
        """Current parameters (P,)."""

    def train(self, x: Floats, settings: TrainingSettings, *, labels: Floats | None = None) -> float:
        """One step; the loss before it."""

    def ranges(self, x: Floats) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(low (T,), high (T,)) over windows (B, F)."""


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """Parameters (P,) after training, the mean score of all windows before and after, how many steps it took and how long they were.

    For an autoencoder the mean score is its loss; for a classifier the losses are the mean cross-entropy.
    """

    parameters: NDArray[np.float32]
    loss_before: float
    loss_after: float
    steps: int
    learning_rate: float


def fit(
    model: Trainable,
    parameters: Floats,
    x: Floats,
    settings: TrainingSettings,
    *,
    rng: np.random.Generator,
    labels: Floats | None = None,
    correction: Floats | None = None,
) -> FitResult:
    """Train from `parameters` on windows x (n, F); each epoch visits every window once, in a new order.

    Args:
        model: the runner; its state is overwritten.
        parameters: where to start, and the anchor of the proximal term (P,).
        x: standardised windows, finite.
        settings: how; the optimizer starts anew with each call, so a round carries nothing over from the last. The method, how many
            examples count, their privacy and staleness are the caller's business.
        rng: shuffles.
        labels: one-hot (n, classes), for a classifier.
        correction: added to every gradient (P,): SCAFFOLD's c - c_i, or FedDyn's linear term.

    Raises:
        InputError: no windows, or one that is not finite.
        LayoutError: parameters or correction of another length.
        ParameterError: training diverged: parameters or loss are not finite, or absurdly large; lower the learning rate, answer nothing.
    """
    require_windows(x)
    windows = np.ascontiguousarray(x, np.float32)
    model.restore(parameters, correction=correction)
    loss_before = mean_loss(model, windows, labels)
    steps, is_sound = 0, True
    for _ in range(settings.epochs):
        order = rng.permutation(len(windows))
        for at in range(0, len(windows), settings.batch_size):
            chosen = order[at : at + settings.batch_size]
            batch_labels = None if labels is None else labels[chosen]
            is_sound = math.isfinite(model.train(windows[chosen], settings, labels=batch_labels)) and is_sound
            steps += 1
    # Not ended early where it cannot come back: how long a training takes must not tell what it was made of.
    trained = model.save()
    loss_after = mean_loss(model, windows, labels)
    # Written positively, so that NaN fails. The loss too: fused multiply-adds (aarch64) keep parameters just below overflow where x86
    # reaches infinity.
    largest = float(np.abs(trained).max())
    if not (
        is_sound
        and largest <= LARGEST_PARAMETER
        and loss_after <= _RUINED * max(loss_before, _idle_loss(windows, labels))
    ):
        raise ParameterError(
            f"training diverged after {steps} steps at learning rate {settings.learning_rate}: the loss is {loss_after},"
            f" {loss_before:.4g} before, the largest parameter {largest:.4g}; lower the learning rate"
        )
    return FitResult(
        parameters=trained,
        loss_before=loss_before,
        loss_after=loss_after,
        steps=steps,
        learning_rate=settings.learning_rate,
    )


def _idle_loss(windows: NDArray[np.float32], labels: Floats | None) -> float:
    """Loss of a model that answers zeros: nothing reconstructed, or all classes alike."""
    return float(np.square(windows).mean(dtype=np.float64)) if labels is None else math.log(labels.shape[1])


def assess(
    model: Trainable,
    candidate: Floats,
    champion: Floats,
    x: Floats,
    *,
    quantile: float,
    trained_on: Floats | None = None,
    sensors: int | None = None,
) -> dict[str, NDArray[np.float64]]:
    """The parts of an ``evaluate.assess`` answer for held-out windows x (n, F), by `protocol.questions.assess_layout`.

    Ranges are those of the candidate: they calibrate its int8 model. The model ends up holding the candidate. For a threshold the device
    has one vote, the `quantile` of the candidate's scores of all its healthy windows. Those that were `trained_on` (m, F) count for the
    vote and the ranges, beside the held-out ones, and for nothing else: a tail of one window in a thousand cannot be read from a fifth
    of what a device has, and no more can an extreme. The candidate has seen them, which makes the vote a little too low;
    `docs/learning.md` has by how much. `sensors` is how many a window's samples are of, by default F.

    Raises:
        InputError: no windows, or one that is not finite.
    """
    require_windows(x)
    if trained_on is not None:
        require_windows(trained_on)
    windows = np.ascontiguousarray(x, np.float32)
    # Devices with few windows begin with different sensors, so that together they try all.
    probes = disturb_each(windows, sensors=sensors, first=zlib.crc32(windows.tobytes()))
    model.restore(champion)
    champion_scores = model.infer(windows)[1].astype(np.float64)
    champion_probe_scores = model.infer(probes)[1]
    model.restore(candidate)
    candidate_scores = model.infer(windows)[1].astype(np.float64)
    candidate_probe_scores = model.infer(probes)[1]
    low, high = model.ranges(windows)
    healthy_scores = candidate_scores
    if trained_on is not None:
        others = np.ascontiguousarray(trained_on, np.float32)
        healthy_scores = np.concatenate([healthy_scores, model.infer(others)[1]])
        low, high = (
            pick(side, other)
            for pick, side, other in zip(
                (np.minimum, np.maximum), (low, high), model.ranges(others), strict=True
            )
        )
    exact = windows.astype(np.float64)
    return {
        "examples": np.array([len(windows)], np.float64),
        "candidate_loss": candidate_scores.sum(keepdims=True),
        "champion_loss": champion_scores.sum(keepdims=True),
        "candidate_scores": SCORE_GRID.count(candidate_scores),
        "champion_scores": SCORE_GRID.count(champion_scores),
        "candidate_probe_scores": SCORE_GRID.count(candidate_probe_scores),
        "champion_probe_scores": SCORE_GRID.count(champion_probe_scores),
        "threshold_votes": SCORE_GRID.count(np.quantile(healthy_scores, [quantile])),
        "range_low": np.concatenate([RANGE_GRID.count(low[t : t + 1]) for t in range(len(low))]),
        "range_high": np.concatenate([RANGE_GRID.count(high[t : t + 1]) for t in range(len(high))]),
        "feature_counts": np.concatenate([FEATURE_GRID.count(column) for column in exact.T]),
        "feature_sum": exact.sum(axis=0),
        "feature_squares": (exact * exact).sum(axis=0),
    }


def mean_loss(model: Scorer, windows: NDArray[np.float32], labels: Floats | None) -> float:
    """Mean score of windows (n, F), or with one-hot labels (n, classes) their mean cross-entropy."""
    output, score = model.infer(windows)
    if labels is None:
        return float(score.mean(dtype=np.float64))
    shifted = output.astype(np.float64) - output.max(axis=1, keepdims=True)
    log_share = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-(labels * log_share).sum() / len(windows))


def require_optimizer(optimizer: Optimizer, *, before: Optimizer | None) -> None:
    """Refuse another optimizer than that of the steps since the last restore; raises TrainingSettingsError."""
    if before not in {None, optimizer}:
        raise TrainingSettingsError(
            f"this training began with {before!r}, whose state {optimizer!r} cannot use: restore first"
        )


def require_clip(norm: float) -> float:
    """The norm, if gradients can be clipped to it; raises TrainingSettingsError where it is not positive."""
    if not norm > 0:
        raise TrainingSettingsError(f"a gradient is clipped to a positive norm, got {norm}")
    return norm


def require_windows(x: Floats) -> None:
    """Refuse windows that nothing can be trained on; raises InputError that names the first bad one."""
    if x.ndim != 2 or not len(x):
        raise InputError(f"training needs windows of shape (≥1, F), got {x.shape}")
    if not np.isfinite(x).all():
        bad = int(np.flatnonzero(~np.isfinite(x).all(axis=1))[0])
        raise InputError(f"window {bad} of {len(x)} is not finite; drop such windows before training")
