"""One device's update: how a question's method is trained here, and what of it goes into the answer.

::

    question, w, [c] ─► train ─► w' ─► n·(w' - w), n, losses, [n·η·(c_i' - c_i)]         parts that add up over devices
                                   └─► c_i' , kept once the update is in a sum (`local_learner`)

Pure given the model, the windows and the random bytes; nothing is kept here.

Sources:
    FedAvg: McMahan et al., 2017, arXiv:1602.05629v4, Algorithm 1 (ClientUpdate).
    SCAFFOLD: Karimireddy et al., 2020, arXiv:1910.06378v4, Algorithm 1, option II.
    Discount of late updates: Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", arXiv:2106.06639v4,
        Section 5, with the polynomial of Xie, Koyejo, Gupta, "Asynchronous Federated Optimization", arXiv:1903.03934v5, Section 5.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.learning_runtimes import LearningModel
from models.local_training import FitResult, fit_safely
from models.private_training import fit_privately
from protocol.questions import FitQuestion

__all__ = ["LocalUpdate", "discounted", "train_update"]

Float = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalUpdate:
    """The parts of an answer to `question`, and the control variate (P,) that belongs to them; None without SCAFFOLD."""

    question: FitQuestion
    parts: Mapping[str, NDArray[np.float64]]
    variate: Float | None = None


def train_update(
    model: LearningModel,
    x: Float,
    question: FitQuestion,
    parameters: Float,
    *,
    control: Float | None,
    variate: Float | None,
    random_bytes: Callable[[int], bytes],
) -> LocalUpdate:
    """Train from `parameters` (P,) on windows x (n, F) as the question says.

    Args:
        model: the runner; its state is overwritten.
        x: standardised windows, n ≥ 1.
        question: how to train.
        parameters: the global model.
        control: the server's control variate c (P,), for SCAFFOLD; else None.
        variate: this device's own c_i (P,), for SCAFFOLD; else None.
        random_bytes: batches and noise of example-level privacy; the operating system's generator outside of tests.

    Raises:
        ModelError: windows that cannot be trained on, or a training that diverged whatever its step.
    """
    correction = None if control is None or variate is None else control - variate
    settings = question.training
    if settings.example_privacy is None:
        # A step that suits the fleet may be too long for one machine; the fleet shall not lose it for that.
        seed = [question.seed % 2**32, question.round_number]
        result = fit_safely(model, parameters, x, settings, seed=seed, correction=correction)
    else:
        # The correction is made of w' of earlier rounds alone, so it tells nothing that has not been paid for.
        result = fit_privately(
            model, parameters, x, settings, random_bytes=random_bytes, correction=correction
        )
    n = float(len(x))
    # Exact losses would say about single windows what the noise of example-level privacy hides.
    tells = 0.0 if settings.example_privacy else n
    parts = {
        # The difference is taken in float64: w' and w are close, and n multiplies what float32 would lose.
        "weighted_update": n * (result.parameters.astype(np.float64) - parameters),
        "examples": np.array([n]),
        "loss_before": np.array([tells * result.loss_before]),
        "loss_after": np.array([tells * result.loss_after]),
    }
    if control is None or variate is None:
        return LocalUpdate(question=question, parts=parts)
    move = _control_move(question, result, parameters, control)
    parts["weighted_control"] = n * move
    after = variate + move / settings.learning_rate
    return LocalUpdate(question=question, parts=parts, variate=after.astype(np.float32))


def discounted(update: LocalUpdate, question: FitQuestion) -> LocalUpdate:
    """The same update for a later round's question: its move times (1 + rounds late)^-exponent, everything else as it was.

    The examples keep their count, as in FedBuff: a late device pulls the mean towards zero instead of counting for less, which
    also holds where noise gives every device one vote. The control variate is not discounted: it must stay the server's share.
    """
    late = question.round_number - update.question.round_number
    weight = (1.0 + late) ** -question.training.staleness_exponent
    parts = {**update.parts, "weighted_update": weight * update.parts["weighted_update"]}
    return replace(update, parts=parts)


def _control_move(
    question: FitQuestion, result: FitResult, parameters: Float, control: Float
) -> NDArray[np.float64]:
    """η·(c_i' - c_i) (P,), float64, within the question's `control_limit`."""
    # Algorithm 1, option II: c_i' = c_i - c + (x - y_i) / (K η), here times η: that of the question, whatever this device's steps were.
    rate = question.training.learning_rate
    gone = np.subtract(parameters, result.parameters, dtype=np.float64)
    move = rate * (gone / (result.steps * result.learning_rate) - control.astype(np.float64))
    # Clipped before it is kept, not on the way out: the server adds up exactly what the devices keep.
    norm = float(np.linalg.norm(move))
    if question.control_limit is not None and norm > question.control_limit:
        move *= question.control_limit / norm
    return move
