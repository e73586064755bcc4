"""What this device answers in a round, from its own windows, its own model and nothing else.

Pure given the model, the rows and the question: no network, no clock, no file. Every fifth row is held out: FIT never sees it and
ASSESS sees nothing else, so a device does not grade a model on what it taught it. The split is by position in a
snapshot taken at the start, the same in every round of a run.

Source: FedAvg, McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", 2017,
arXiv:1602.05629v4, Algorithm 1 (ClientUpdate); the answer is n·(w' - w), so that sums over devices are enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, assert_never

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import NotReadyError, QuestionRefusedError
from models.architecture import require_finite
from models.errors import LayoutError
from models.local_training import assess, fit
from models.training_model import TrainingModel
from protocol.questions import AssessQuestion, FitQuestion, Question, assess_layout, fit_layout

__all__ = ["LocalLearner"]

Float = NDArray[np.float32]

HOLD_OUT_EVERY: Final = 5
"""One row in five is for grading: 20 %, and never fewer than one of `MINIMUM_ROWS`."""

MINIMUM_ROWS: Final = HOLD_OUT_EVERY
"""Fewer rows leave one of the two halves empty."""

MAXIMUM_EPOCHS: Final = 1000
"""No question may keep a device busy without end."""


class LocalLearner:
    """Answers questions with one model and one snapshot of rows.

    Args:
        model: the training model of the active bundle.
        rows: standardised windows, shape (n, F), oldest first.
        maximum_examples: this device's own limit, beside the question's.

    Raises:
        NotReadyError: fewer than `MINIMUM_ROWS` rows, or rows of another width than the model's.
    """

    def __init__(self, model: TrainingModel, rows: Float, *, maximum_examples: int) -> None:
        features = model.architecture.feature_count
        if rows.ndim != 2 or rows.shape[1] != features or len(rows) < MINIMUM_ROWS:
            raise NotReadyError(
                f"the sample buffer gives rows of shape {rows.shape}; training needs at least ({MINIMUM_ROWS}, {features})"
            )
        rows = rows[-maximum_examples:]
        held_out = np.arange(len(rows)) % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1
        self._model = model
        self._training, self._held_out = rows[~held_out], rows[held_out]

    def answer(self, question: Question, arrays: Mapping[str, Float]) -> Float:
        """The flat answer vector to a question.

        Args:
            question: what is asked.
            arrays: flat vectors (P,): "parameters" for FIT; "candidate" and "champion" for ASSESS.

        Raises:
            QuestionRefusedError: another layout, an array missing or unusable, an absurd number of epochs, or a training that
                left the finite numbers. The aggregator is told in these words.
        """
        architecture = self._model.architecture
        if question.layout_sha256 != architecture.layout_sha256:
            raise QuestionRefusedError(
                f"the question is about layout {question.layout_sha256[:12]}…, this device runs {architecture.layout_sha256[:12]}…"
            )
        match question:
            case FitQuestion():
                return self._fit(question, self._vector(arrays, "parameters"))
            case AssessQuestion():
                return self._assess(self._vector(arrays, "candidate"), self._vector(arrays, "champion"))
            case _:
                assert_never(question)

    def _fit(self, question: FitQuestion, parameters: Float) -> Float:
        if question.epochs > MAXIMUM_EPOCHS:
            raise QuestionRefusedError(
                f"{question.epochs} epochs are asked for; this device does at most {MAXIMUM_EPOCHS}"
            )
        x = self._training[-question.maximum_examples :]
        result = fit(
            self._model,
            parameters,
            x,
            epochs=question.epochs,
            batch_size=question.batch_size,
            learning_rate=question.learning_rate,
            proximal=question.proximal,
            rng=np.random.default_rng([question.seed % 2**32, question.round_number]),
        )
        n = len(x)
        # The difference is taken in float64: w' and w are close, and n multiplies what float32 would lose.
        update = n * (result.parameters.astype(np.float64) - parameters)
        packed = fit_layout(len(parameters)).pack(
            {
                "weighted_update": update,
                "examples": np.array([n], np.float64),
                "loss_before": np.array([n * result.loss_before], np.float64),
                "loss_after": np.array([n * result.loss_after], np.float64),
            }
        )
        return _finite(packed, "training diverged; the learning rate may be too high for this device's data")

    def _assess(self, candidate: Float, champion: Float) -> Float:
        architecture = self._model.architecture
        parts = assess(self._model, candidate, champion, self._held_out)
        layout = assess_layout(architecture.tensor_count, architecture.feature_count)
        return _finite(layout.pack(parts), "the candidate's scores are not finite on this device's data")

    def _vector(self, arrays: Mapping[str, Float], name: str) -> Float:
        if name not in arrays:
            raise QuestionRefusedError(f"the question lacks the array {name!r}; it has {sorted(arrays)[:8]}")
        try:
            return require_finite(self._model.architecture, arrays[name])
        except LayoutError as error:
            raise QuestionRefusedError(f"array {name!r} cannot be used: {error}") from None


def _finite(vector: Float, reason: str) -> Float:
    if not np.isfinite(vector).all():
        raise QuestionRefusedError(reason)
    return vector
