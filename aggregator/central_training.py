"""How version 1 is trained: by a step size that finds itself, until nothing gets better.

::

    rows ─► steps of 1, 1/2, 1/4 … a few epochs each ─► the best of them ─► pieces of 10 epochs ─┬─► better: go on
            (left out where a learning rate is given)            ▲                                │
                                                                 └── half the step, from the best ┴── worse, or no better for 3 pieces

What is best is said by windows that nobody trains on. Deterministic from the seed. A single column has no other column to be explained
by, and a network could only copy it: there the linear detector is fitted, the distance from its mean.

Source: Bengio, "Practical recommendations for gradient-based training of deep architectures", arXiv:1206.5533v2, section 3.1.1 (the
largest step that does not diverge is about twice the best; early stopping).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from models.architecture import initial_parameters
from models.errors import ParameterError
from models.linear_baseline import fits_a_linear_detector, mahalanobis_parameters
from models.local_training import Trainable, fit, mean_loss
from models.moments import Moments
from models.training_model import TrainingModel
from protocol.training import TrainingSettings

__all__ = ["CentrallyTrained", "TrainingSection", "train_centrally"]

Float = NDArray[np.float32]
Progress = Callable[[str, float], None]

EPOCHS_AT_ONCE: Final = 10
"""Between two looks at the held-out windows."""

TRIAL_EPOCHS: Final = 3
LARGEST_STEP: Final = 1.0
TRIALS: Final = 10
"""Steps of 1 down to 1/512. Too long ones show within three epochs: they diverge, or kill the units."""

PATIENCE: Final = 3
HALVINGS: Final = 3
"""Pieces without progress before the step is halved; so many halvings without progress end the training."""

LEAST_PROGRESS: Final = 1e-3
_WORSE: Final = 1.5


class TrainingSection(Struct, frozen=True, kw_only=True):
    """``[training]`` of family.toml: mini-batch descent that stops by itself.

    Attributes:
        epochs: at most.
        batch_size: windows a step.
        learning_rate: where it starts; it is halved where it does not help. Left out, it is found.
    """

    epochs: Annotated[int, Meta(ge=1)] = 400
    batch_size: Annotated[int, Meta(ge=1)] = 16
    learning_rate: Annotated[float, Meta(gt=0)] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class CentrallyTrained:
    """Parameters (P,), mean loss of the training windows before and after, how it was done in words, and on how many windows.

    `is_network` is False where a linear detector took the network's place.
    """

    parameters: Float
    loss_before: float
    loss_after: float
    method: str
    windows: int
    is_network: bool


def train_centrally(
    model: TrainingModel,
    rows: Float,
    held_out: Float,
    section: TrainingSection,
    *,
    seed: int,
    progress: Progress,
) -> CentrallyTrained:
    """Train on `rows` (n, F), choosing by `held_out` (m, F).

    Args:
        model: the runner; its state is overwritten.
        rows: standardised windows.
        held_out: of the same machines, never trained on.
        section: how long, and in which steps.
        seed: of the first parameters and of every shuffle.
        progress: told the stage, and the finished share of it, 0 to 1.

    Raises:
        InputError: no windows, or one that is not finite.
    """
    architecture = model.architecture
    start = initial_parameters(architecture, seed)
    before = _loss(model, start, rows)
    if architecture.feature_count == 1 and fits_a_linear_detector(architecture):
        linear = mahalanobis_parameters(architecture, Moments.of(rows))
        after = _loss(model, linear, rows)
        return CentrallyTrained(
            parameters=linear,
            loss_before=before,
            loss_after=after,
            method="linear detector of one column",
            windows=len(rows),
            is_network=False,
        )
    trainer = _Trainer(model, rows, held_out, section.batch_size)
    rate = section.learning_rate or _find_rate(trainer, start, seed, progress)
    best, epochs, last_rate = _descend(trainer, start, rate, section.epochs, seed, progress)
    return CentrallyTrained(
        parameters=best,
        loss_before=before,
        loss_after=_loss(model, best, rows),
        method=f"central, {epochs} epochs, learning rate {rate:g}"
        + (f" to {last_rate:g}" if last_rate != rate else ""),
        windows=len(rows),
        is_network=True,
    )


@dataclass(frozen=True, eq=False)
class _Trainer:
    model: Trainable
    rows: Float
    held_out: Float
    batch_size: int

    def train(self, start: Float, epochs: int, rate: float, rng: np.random.Generator) -> tuple[Float, float]:
        """(parameters, loss of the held-out windows) after so many epochs; the loss is infinite where they diverged."""
        settings = TrainingSettings(epochs=epochs, batch_size=self.batch_size, learning_rate=rate)
        try:
            trained = fit(self.model, start, self.rows, settings, rng=rng).parameters
        except ParameterError:
            return start, math.inf
        return trained, self.judge(trained)

    def judge(self, parameters: Float) -> float:
        """Mean loss of the held-out windows."""
        return _loss(self.model, parameters, self.held_out)


def _loss(model: Trainable, parameters: Float, rows: Float) -> float:
    model.restore(parameters)
    return mean_loss(model, rows, None)


def _find_rate(trainer: _Trainer, start: Float, seed: int, progress: Progress) -> float:
    """The step that gets furthest in a few epochs. All begin alike, so that nothing but the step differs."""
    found: dict[float, float] = {}
    for trial in range(TRIALS):
        progress("finding a step size", trial / TRIALS)
        rate = LARGEST_STEP / 2**trial
        found[rate] = trainer.train(start, TRIAL_EPOCHS, rate, np.random.default_rng([seed, 1]))[1]
    return min(found, key=lambda rate: found[rate])


def _descend(
    trainer: _Trainer, start: Float, rate: float, epochs: int, seed: int, progress: Progress
) -> tuple[Float, int, float]:
    """(best parameters, epochs done, last rate)."""
    rng = np.random.default_rng(seed)
    best, least = start, trainer.judge(start)
    current, done, waited, halvings = start, 0, 0, 0
    # As long as nothing has helped at all, the step is merely too long.
    while done < epochs and halvings <= (TRIALS if best is start else HALVINGS):
        piece = min(EPOCHS_AT_ONCE, epochs - done)
        current, loss = trainer.train(current, piece, rate, rng)
        done += piece
        waited = 0 if loss < (1 - LEAST_PROGRESS) * least else waited + 1
        if loss < least:
            best, least = current, loss
        if waited >= PATIENCE or not loss <= _WORSE * least:
            current, rate, waited, halvings = best, rate / 2, 0, halvings + 1
        progress("training", done / epochs)
    progress("training", 1.0)
    return best, done, rate
