"""One device's update: how the profile's training is done here, and what of it goes into the answer.

::

    question, w ─► train on a random half ─► w' ─► w' - w, without what few windows moved, clipped ─► the update, one vote

Which half, and in which order, only this device knows: what the server chose it could subtract. An entry of the update that too
few windows stand behind, at w or at w', is zero: it would say what they are (`models.support`).

One attempt, of as many steps as the profile says, whatever the windows do: the time it takes says nothing about them.

Pure given the model, the windows and the random bytes; nothing is kept here.

Sources:
    FedAvg: McMahan et al., 2017, arXiv:1602.05629v4, Algorithm 1 (ClientUpdate); here each device has one vote.
    Discount of late updates: Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", arXiv:2106.06639v4,
        Section 5, with the polynomial of Xie, Koyejo, Gupta, "Asynchronous Federated Optimization", arXiv:1903.03934v5, Section 5.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.architecture import Architecture
from models.learning_runtimes import LearningModel
from models.local_training import fit
from models.private_training import fit_privately
from protocol.questions import FitQuestion
from protocol.training import ExamplePrivacy, TrainingSettings

__all__ = ["HALVINGS", "LocalUpdate", "Supports", "discounted", "train_update"]

Float = NDArray[np.float32]
Supports = Callable[[Architecture, Float, Float], NDArray[np.bool_]]
"""`models.support.supported_entries`."""

HALVINGS: Final = 6
"""So often a step is halved, once a round, before it stays: at a 64th nothing is learned in a round anyway."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalUpdate:
    """The parts of an answer to `question`."""

    question: FitQuestion
    parts: Mapping[str, NDArray[np.float64]]


def train_update(
    model: LearningModel,
    x: Float,
    question: FitQuestion,
    parameters: Float,
    settings: TrainingSettings,
    *,
    supports: Supports,
    halvings: int,
    random_bytes: Callable[[int], bytes],
) -> LocalUpdate:
    """Train from `parameters` (P,) on windows x (n, F) as the profile says.

    Args:
        model: the runner; its state is overwritten.
        x: standardised windows, n ≥ 1.
        question: which round.
        parameters: the global model.
        settings: the profile.
        supports: which entries may move by a gradient that is taken at given parameters on given windows.
        halvings: how often the step was halved in earlier rounds; not for example-level privacy, which accounts for every look.
        random_bytes: halves, shuffles, and batches and noise of example-level privacy; the operating system's generator outside of tests.

    Raises:
        ModelError: windows that cannot be trained on, or a training that diverged.
    """
    private = settings.example_privacy
    if private is None:
        rng = np.random.default_rng(int.from_bytes(random_bytes(16), "big"))
        used = x[rng.permutation(len(x))[: (len(x) + 1) // 2]]
        slower = msgspec.structs.replace(settings, learning_rate=settings.learning_rate / 2**halvings)
        trained = fit(model, parameters, used, slower, rng=rng).parameters
    else:
        used = x
        trained = fit_privately(model, parameters, x, settings, random_bytes=random_bytes).parameters
    # The difference is taken in float64: w' and w are close.
    update = trained.astype(np.float64) - parameters
    # Where noise hides every window, what is left out for its support would be a second look that nobody accounted for.
    if private is None or not _hides_windows(private):
        # At both ends: what is broad at first may have become narrow, and the other way round.
        for w in (parameters, trained):
            update[~supports(model.architecture, w, used)] = 0.0
    norm = float(np.linalg.norm(update))
    if settings.update_norm is not None and norm > settings.update_norm:
        update *= settings.update_norm / norm
    return LocalUpdate(question=question, parts={"update": update, "votes": np.array([1.0])})


def _hides_windows(private: ExamplePrivacy) -> bool:
    """Whether a window that is the only one to move an entry adds no more to it, over all steps, than the noise of these steps."""
    return private.sampling_rate * math.sqrt(private.steps) <= private.noise_multiplier


def discounted(update: LocalUpdate, question: FitQuestion, settings: TrainingSettings) -> LocalUpdate:
    """The same update for a later round's question: its move times (1 + rounds late)^-exponent, its vote as it was.

    As in FedBuff: a late device pulls the mean towards zero instead of counting for less, which also holds under noise.
    """
    late = question.round_number - update.question.round_number
    weight = (1.0 + late) ** -settings.staleness_exponent
    return replace(update, parts={**update.parts, "update": weight * update.parts["update"]})
