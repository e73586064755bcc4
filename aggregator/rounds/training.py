"""One round of training and the evaluation: who is asked what, and what the sum does to the model.

::

    w_k ──► FitQuestion ──► cohort ──► Σ (w'-w), one vote a device ──► mean update ──► server optimiser ──► trust region ──► w_{k+1}

A round below its quorum is void: the model stays, the record says so, and the caller tries again within its bound. Nothing
here is persisted; `coordinator` does that with what is returned.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator.errors import SumError
from aggregator.rounds.admission import admit_assessment, admit_update
from aggregator.rounds.attendance import Attendance
from aggregator.rounds.cohort_questions import (
    CohortAnswer,
    RecordWords,
    ask_cohort,
    ask_everybody,
    draw_cohort,
    layout_for,
)
from aggregator.rounds.collector import CohortQuestion
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.optimizers import ServerOptimizer
from aggregator.rounds.runs import TrainingRun
from aggregator.rounds.trust_region import project
from models.architecture import Architecture, require_bounded
from models.errors import LayoutError
from protocol.questions import FIT, AssessQuestion, FitQuestion

__all__ = ["ModelState", "RoundOutcome", "assess_candidate", "train_round"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelState:
    """The global model between rounds.

    `parameters` float32 (P,), `moments` of the server optimiser float64 (k, P).
    """

    parameters: NDArray[np.float32]
    moments: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class RoundOutcome(CohortAnswer):
    """What one attempt at a round of training gave. A void one leaves `model` as it was."""

    model: ModelState


def train_round(
    run: TrainingRun,
    policy: FamilySettings,
    optimizer: ServerOptimizer,
    *,
    architecture: Architecture,
    model: ModelState,
    anchors: NDArray[np.float64],
    attendance: Attendance,
    started_at: float,
) -> RoundOutcome:
    """Ask a cohort to train from `model` and take one server step, which stays in the region that devices trust around `anchors` (k, P).

    Raises:
        RoundCanceledError: the run or the service is ending; nothing happened.
        FlowerRunEndedError: the session broke; open another and try again.
        SumError: the step leaves the finite numbers.
    """
    number = run.finished_rounds + 1
    # Seeded by run, round and attempt: a resumed run draws the same cohort, a repeated round another one.
    rng = np.random.default_rng([run.seed, number, run.attempts])
    cohort = draw_cohort(run, attendance, policy, FIT, rng)
    question = FitQuestion(
        run_id=run.id,
        round_number=number,
        layout_sha256=architecture.layout_sha256,
        profile_sha256=policy.training.sha256,
    )
    layout = layout_for(architecture, question)
    asked = CohortQuestion(
        question=question,
        arrays={"parameters": model.parameters},
        layout=layout,
        admission=admit_update(norm_limit=policy.sum_policy.norm_limit),
    )
    words = RecordWords(kind="fit")
    answer = ask_cohort(run, attendance, cohort, asked, words, started_at=started_at)
    if answer.total is None:
        return RoundOutcome(record=answer.record, model=model, total=None)
    parts = layout.unpack(answer.total)
    if parts["votes"][0] < 1:
        # Under a secure sum a device whose training diverged adds nothing instead of leaving the cohort.
        note = "void: no device's training gave an update; they all diverged: lower training.learning_rate"
        void = msgspec.structs.replace(answer.record, is_void=True, note=note)
        return RoundOutcome(record=void, model=model, total=None)
    # By the participants, who are known, and not by the votes, which one of them may lie about; by nobody's number where it is hidden.
    hidden = None if policy.privacy.noise is None else cohort.taken_as
    mean_update = parts["update"] / (hidden or len(answer.record.participants))
    step = optimizer.step(model.moments, model.parameters, mean_update)
    radius = policy.training.settled().trust_radius or 0.0
    try:
        # Before it is drawn back: what is not a number cannot be.
        require_bounded(architecture, step.parameters)
        parameters = project(step.parameters, anchors, radius)
    except LayoutError as error:
        raise SumError(f"the step of round {number} ruins the model: {error}") from None
    return RoundOutcome(
        record=answer.record,
        model=ModelState(parameters=parameters, moments=step.state),
        total=answer.total,
    )


def assess_candidate(
    run: TrainingRun,
    policy: FamilySettings,
    *,
    architecture: Architecture,
    model: ModelState,
    attendance: Attendance,
    started_at: float,
) -> CohortAnswer:
    """Ask everybody who is there to score held-out windows with the candidate and with the release that they run.

    Raises as `ask_cohort`.
    """
    question = AssessQuestion(
        run_id=run.id,
        layout_sha256=architecture.layout_sha256,
        profile_sha256=policy.training.sha256,
    )
    asked = CohortQuestion(
        question=question,
        arrays={"candidate": model.parameters},
        layout=layout_for(architecture, question),
        admission=admit_assessment(maximum_examples=policy.training.maximum_examples),
    )
    words = RecordWords(kind="assess", losses=("champion_loss", "candidate_loss"))
    return ask_everybody(run, policy, attendance, asked, words, started_at=started_at)
