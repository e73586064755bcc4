"""One device's update: how the profile's training is done here, and what of it goes into the answer.

::

    question, w ─► train ─► w' ─► w' - w, one vote         parts that add up over devices

Pure given the model, the windows and the random bytes; nothing is kept here.

Sources:
    FedAvg: McMahan et al., 2017, arXiv:1602.05629v4, Algorithm 1 (ClientUpdate); here each device has one vote.
    Discount of late updates: Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", arXiv:2106.06639v4,
        Section 5, with the polynomial of Xie, Koyejo, Gupta, "Asynchronous Federated Optimization", arXiv:1903.03934v5, Section 5.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.learning_runtimes import LearningModel
from models.local_training import fit_safely
from models.private_training import fit_privately
from protocol.questions import FitQuestion
from protocol.training import TrainingSettings

__all__ = ["LocalUpdate", "discounted", "train_update"]

Float = NDArray[np.float32]


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
    random_bytes: Callable[[int], bytes],
) -> LocalUpdate:
    """Train from `parameters` (P,) on windows x (n, F) as the profile says.

    Args:
        model: the runner; its state is overwritten.
        x: standardised windows, n ≥ 1.
        question: which round.
        parameters: the global model.
        settings: the profile.
        random_bytes: shuffles, and batches and noise of example-level privacy; the operating system's generator outside of tests. What
            the server chose it could subtract.

    Raises:
        ModelError: windows that cannot be trained on, or a training that diverged whatever its step.
    """
    if settings.example_privacy is None:
        # A step that suits the fleet may be too long for one machine; the fleet shall not lose it for that.
        seed = [int.from_bytes(random_bytes(8), "big")]
        result = fit_safely(model, parameters, x, settings, seed=seed)
    else:
        result = fit_privately(model, parameters, x, settings, random_bytes=random_bytes)
    # The difference is taken in float64: w' and w are close.
    update = result.parameters.astype(np.float64) - parameters
    return LocalUpdate(question=question, parts={"update": update, "votes": np.array([1.0])})


def discounted(update: LocalUpdate, question: FitQuestion, settings: TrainingSettings) -> LocalUpdate:
    """The same update for a later round's question: its move times (1 + rounds late)^-exponent, its vote as it was.

    As in FedBuff: a late device pulls the mean towards zero instead of counting for less, which also holds under noise.
    """
    late = question.round_number - update.question.round_number
    weight = (1.0 + late) ** -settings.staleness_exponent
    return replace(update, parts={**update.parts, "update": weight * update.parts["update"]})
