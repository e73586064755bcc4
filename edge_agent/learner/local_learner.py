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
from edge_agent.learner.anchor import Anchor
from edge_agent.learner.local_update import HALVINGS, LocalUpdate, Supports, discounted, train_update
from edge_agent.learner.prior_answers import answer_prior
from edge_agent.learner.question_checks import check_question
from models.errors import ParameterError
from models.learning_runtimes import LearningModel
from models.local_training import assess
from models.support import supported_entries
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
from protocol.refusals import RefusalCode
from protocol.sum_terms import SumTerms

__all__ = ["LocalLearner"]

Float = NDArray[np.float32]

MINIMUM_ROWS: Final = HOLD_OUT_EVERY
"""Fewer rows leave one of the two halves empty."""


class LocalLearner:
    """Answers questions with one model and one snapshot of rows.

    Args:
        model: the training model of the active bundle.
        anchor: the approved release: how this device trains, and near to what.
        champion: parameters (P,) of the release that is installed: what an assessment compares with.
        quantile: of this device's healthy scores, its vote for a threshold: that of the installed release.
        rows: standardised windows, shape (n, F), oldest first.
        maximum_examples: this device's own limit, beside the profile's.
        random_bytes: shuffles, halves, and the noise of example-level privacy.
        unit: what one step of `seen` is in each sensor's own units (F,); None: no part in a fleet's prior.
        supports: which entries of an update may move; another one for models that are no `Architecture`, in tests.
        seen: the same rows as this device's detector sees them, out of their context (`models.detection.context`); default: as they are.

    Raises:
        NotReadyError: fewer than `MINIMUM_ROWS` rows, or rows of another width than the model's, or no training profile. What the
            rows hold has no part in it; such as are not finite are left out of every answer.
    """

    def __init__(
        self,
        model: LearningModel,
        rows: Float,
        *,
        anchor: Anchor,
        champion: Float,
        maximum_examples: int,
        quantile: float = 0.999,
        random_bytes: Callable[[int], bytes] = os.urandom,
        unit: NDArray[np.floating] | None = None,
        seen: Float | None = None,
        supports: Supports = supported_entries,
    ) -> None:
        features = model.architecture.feature_count
        if rows.ndim != 2 or rows.shape[1] != features or len(rows) < MINIMUM_ROWS:
            raise NotReadyError(
                f"the sample buffer gives rows of shape {rows.shape}; training needs at least ({MINIMUM_ROWS}, {features})"
            )
        if anchor.profile is None:
            raise NotReadyError(f"{anchor.release} carries no training profile; nothing is asked about it")
        most = min(maximum_examples, anchor.profile.maximum_examples)
        rows = rows[-most:]
        held_out = np.arange(len(rows)) % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1
        self._model, self._unit = model, unit
        self._anchor, self._profile, self._champion = anchor, anchor.profile, champion
        self._quantile = quantile
        self._seen = rows if seen is None else seen[-most:]
        self._training, self._held_out = _finite(rows[~held_out]), _finite(rows[held_out])
        self._random_bytes, self._supports = random_bytes, supports
        self._waiting: LocalUpdate | None = None
        self._halvings = 0

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

    def check_terms(self, terms: SumTerms) -> None:
        """Pass if a sum's terms bound answers as the profile does: others would clip all of an answer but what is looked for.

        Raises:
            QuestionRefusedError: TERMS.
        """
        profile = self._profile
        for what, asked, own in (
            (
                "norm_limit",
                terms.norm_limit if terms.noise is None else profile.update_norm,
                profile.update_norm,
            ),
            ("maximum_examples", terms.maximum_examples, profile.maximum_examples),
        ):
            if asked != own:
                raise QuestionRefusedError(
                    RefusalCode.TERMS,
                    f"terms with {what} {asked}; the profile of {self._anchor.release} has {own}",
                )

    def check(self, question: Question, arrays: Mapping[str, Float]) -> None:
        """Pass if this device answers such a question, whatever its data are: see `question_checks`.

        Raises:
            QuestionRefusedError: PROFILE or ARRAYS.
        """
        features = self._model.architecture.feature_count
        check_question(question, arrays, self._anchor, features=features)

    def answer(self, question: Question, arrays: Mapping[str, Float]) -> Float:
        """The flat answer vector to a question that `check` has passed.

        Args:
            question: what is asked.
            arrays: flat vectors (P,): "parameters" to train from, "candidate" for an assessment. What goes with a question about the
                prior is `models.detection.answers`'.

        Raises:
            TrainingDivergedError: a training that left what a model can be; the next one takes half the step.
            ModelError: windows of which there is no such answer, or one that is not finite. No failure may show where the aggregator
                looks: it depends on the data.
        """
        vector = self.layout_of(kind_of(question)).pack(self._answer(question, arrays))
        if not np.isfinite(vector).all():
            raise ParameterError(f"the answer to {kind_of(question)} is not finite on this device's windows")
        return vector

    def _answer(self, question: Question, arrays: Mapping[str, Float]) -> Mapping[str, NDArray[np.float64]]:
        match question:
            case FitQuestion():
                return self._fit(question, arrays["parameters"]).parts
            case ScaleQuestion() | CovarianceQuestion() | CurveQuestion():
                return answer_prior(question, arrays, self._seen, self._unit)
            case AssessQuestion():
                return assess(
                    self._model,
                    arrays["candidate"],
                    self._champion,
                    self._held_out,
                    quantile=self._quantile,
                    trained_on=self._training,
                    sensors=self._model.architecture.layers[0],
                )
            case _:
                assert_never(question)

    def _fit(self, question: FitQuestion, parameters: Float) -> LocalUpdate:
        if self._waiting is not None and self._may_enter(self._waiting.question, question):
            return discounted(self._waiting, question, self._profile)
        # Zeros wait where training fails: whether a later round is answered at once must not tell that it did.
        zeros = {"update": np.zeros(parameters.shape), "votes": np.zeros(1)}
        self._waiting = LocalUpdate(question=question, parts=zeros)
        try:
            self._waiting = train_update(
                self._model,
                self._training,
                question,
                parameters,
                self._profile,
                supports=self._supports,
                halvings=self._halvings,
                random_bytes=self._random_bytes,
            )
        except ParameterError as error:
            # One attempt a round, whatever comes of it: a second one would take as long again, and the time would say so.
            self._halvings = min(self._halvings + 1, HALVINGS)
            raise TrainingDivergedError(f"{error}; the next round begins with half the step") from None
        return self._waiting

    def _may_enter(self, trained: FitQuestion, asked: FitQuestion) -> bool:
        """Whether an update that was trained for one question may answer another: later in the same run, not too late."""
        late = asked.round_number - trained.round_number
        return 0 < late <= self._profile.maximum_staleness and trained.run_id == asked.run_id


def _finite(rows: Float) -> Float:
    return rows[np.isfinite(rows).all(axis=1)]
