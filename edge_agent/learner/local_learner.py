"""What this device answers in a round, from its own windows, its own model and nothing else.

::

    question ─► train (`local_update`), add up what the fleet's prior is made of, or grade models ─► one flat vector that adds up
                  │ kept until `settle` says that it is in a sum; asked in a later round while it is not, the device
                  └ answers with it again, discounted: training that is slower than a round is not lost

Given the model, the rows, the profile and the questions so far: no network, no clock, no file. Every fifth row is held out:
training never sees it, and grading sees nothing else, so a device does not grade a model on what it taught it. (Only the
threshold, whose tail needs many windows, is read from all of them; and the fleet's prior, which crosses fits itself,
`prior_answers`.) The split is by position in a snapshot taken at the start, the same in
every round of a run.

Why the device re-enters instead of the server waiting: under a secure sum a late masked answer fits no other cohort's masks, so the
only place where an update can wait is here, before it is masked. In plain it works the same way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Final, assert_never

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import NotReadyError, QuestionRefusedError, TrainingDivergedError
from edge_agent.learner.local_update import LocalUpdate, discounted, train_update
from edge_agent.learner.prior_answers import answer_prior
from models.architecture import require_finite
from models.errors import LayoutError, ParameterError
from models.learning_runtimes import LearningModel
from models.local_training import assess
from protocol.questions import (
    HOLD_OUT_EVERY,
    AnswerLayout,
    AssessQuestion,
    CovarianceQuestion,
    CurveQuestion,
    FitQuestion,
    Kind,
    Question,
    ScaleQuestion,
    answer_layout,
    kind_of,
)
from protocol.training import TrainingSettings

__all__ = ["LocalLearner"]

Float = NDArray[np.float32]

MINIMUM_ROWS: Final = HOLD_OUT_EVERY
"""Fewer rows leave one of the two halves empty."""

_DIVERGED: Final = "training diverged; the learning rate may be too high for this device's data"


class LocalLearner:
    """Answers questions with one model and one snapshot of rows.

    Args:
        model: the training model of the active bundle.
        profile: how this device trains.
        champion: parameters (P,) of the release that is installed: what an assessment compares with.
        quantile: of this device's healthy scores, its vote for a threshold: that of the installed release.
        rows: standardised windows, shape (n, F), oldest first.
        maximum_examples: this device's own limit, beside the profile's.
        random_bytes: of example-level privacy.
        unit: what one step of `seen` is in each sensor's own units (F,); None: no part in a fleet's prior.
        seen: the same rows as this device's detector sees them, out of their context (`models.detection.context`); default: as they are.

    Raises:
        NotReadyError: fewer than `MINIMUM_ROWS` rows, or rows of another width than the model's.
    """

    def __init__(
        self,
        model: LearningModel,
        rows: Float,
        *,
        profile: TrainingSettings,
        champion: Float,
        maximum_examples: int,
        quantile: float = 0.999,
        random_bytes: Callable[[int], bytes] = os.urandom,
        unit: NDArray[np.floating] | None = None,
        seen: Float | None = None,
    ) -> None:
        features = model.architecture.feature_count
        if rows.ndim != 2 or rows.shape[1] != features or len(rows) < MINIMUM_ROWS:
            raise NotReadyError(
                f"the sample buffer gives rows of shape {rows.shape}; training needs at least ({MINIMUM_ROWS}, {features})"
            )
        most = min(maximum_examples, profile.maximum_examples)
        rows = rows[-most:]
        held_out = np.arange(len(rows)) % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1
        self._model, self._unit = model, unit
        self._profile, self._champion, self._quantile = profile, champion, quantile
        self._seen = rows if seen is None else seen[-most:]
        self._training, self._held_out = rows[~held_out], rows[held_out]
        self._random_bytes = random_bytes
        self._waiting: LocalUpdate | None = None

    def layout_of(self, kind: Kind) -> AnswerLayout:
        """Layout of this device's answers to questions of `kind`.

        Raises:
            QuestionError: an unknown kind, or how the values of wide windows vary together: of raw ones F² entries for F of some ten
                thousand, more than a device's memory.
        """
        architecture = self._model.architecture
        return answer_layout(
            kind,
            parameter_count=architecture.parameter_count,
            tensor_count=architecture.tensor_count,
            feature_count=architecture.feature_count,
        )

    def settle(self) -> None:
        """The last update was taken for a sum: train anew when asked again."""
        self._waiting = None

    def answer(self, question: Question, arrays: Mapping[str, Float]) -> Float:
        """The flat answer vector to a question.

        Args:
            question: what is asked.
            arrays: flat vectors (P,): "parameters" to train from, "candidate" for an assessment. What goes with a question about the prior is `models.detection.answers`'.

        Raises:
            QuestionRefusedError: another layout or profile, an array missing or unusable, or a question that
                this device has nothing for. The aggregator is told in these words.
            TrainingDivergedError: a training that left what a model can be, whatever its step.
        """
        architecture = self._model.architecture
        if question.layout_sha256 != architecture.layout_sha256:
            raise QuestionRefusedError(
                f"the question is about layout {question.layout_sha256[:12]}…, this device runs {architecture.layout_sha256[:12]}…"
            )
        if question.profile_sha256 != self._profile.sha256:
            raise QuestionRefusedError(
                f"the question goes by training profile {question.profile_sha256[:12]}…, this device by {self._profile.sha256[:12]}…"
            )
        layout = self.layout_of(kind_of(question))
        parts, words = self._answer(question, arrays)
        vector = layout.pack(parts)
        if not np.isfinite(vector).all():
            raise (
                TrainingDivergedError(words)
                if isinstance(question, FitQuestion)
                else QuestionRefusedError(words)
            )
        return vector

    def _answer(
        self, question: Question, arrays: Mapping[str, Float]
    ) -> tuple[Mapping[str, NDArray[np.float64]], str]:
        """The parts of the answer, and what to say should they not be finite."""
        match question:
            case FitQuestion():
                return self._fit(question, arrays).parts, _DIVERGED
            case ScaleQuestion() | CovarianceQuestion() | CurveQuestion():
                parts = answer_prior(question, arrays, self._seen, self._unit)
                return parts, "this device's windows do not add up to a finite part of a prior"
            case AssessQuestion():
                parts = assess(
                    self._model,
                    self._vector(arrays, "candidate"),
                    self._champion,
                    self._held_out,
                    quantile=self._quantile,
                    trained_on=self._training,
                    sensors=self._model.architecture.layers[0],
                )
                return parts, "the candidate's scores are not finite on this device's data"
            case _:
                assert_never(question)

    def _fit(self, question: FitQuestion, arrays: Mapping[str, Float]) -> LocalUpdate:
        parameters = self._vector(arrays, "parameters")
        if self._waiting is not None and self._may_enter(self._waiting.question, question):
            return discounted(self._waiting, question, self._profile)
        self._waiting = None
        try:
            self._waiting = train_update(
                self._model,
                self._training,
                question,
                parameters,
                self._profile,
                random_bytes=self._random_bytes,
            )
        except ParameterError:
            # Its words hold numbers that come from this device's windows; a refusal travels outside of every sum.
            raise TrainingDivergedError(_DIVERGED) from None
        return self._waiting

    def _vector(self, arrays: Mapping[str, Float], name: str) -> Float:
        if name not in arrays:
            raise QuestionRefusedError(f"the question lacks the array {name!r}; it has {sorted(arrays)[:8]}")
        try:
            return require_finite(self._model.architecture, arrays[name])
        except LayoutError as error:
            raise QuestionRefusedError(f"array {name!r} cannot be used: {error}") from None

    def _may_enter(self, trained: FitQuestion, asked: FitQuestion) -> bool:
        """Whether an update that was trained for one question may answer another: later in the same run, not too late."""
        late = asked.round_number - trained.round_number
        return 0 < late <= self._profile.maximum_staleness and trained.run_id == asked.run_id
