"""One round of training and the evaluation: who is asked what, and what the sum does to the model.

::

    w_k, c_k ──► FitQuestion ──► cohort ──► Σ n(w'-w), Σ n ──► mean update ──► server optimiser ──► w_{k+1}
                                       └──► Σ n·η(c_i'-c_i)  ──► share of the devices that were asked ──► c_{k+1}     (SCAFFOLD)

A round below its quorum is void: the model stays, the record says so, and the caller tries again within its bound. Nothing
here is persisted; `coordinator` does that with what is returned.

Source: Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", arXiv:1910.06378v4, Algorithm 1,
with devices weighted by their examples.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from aggregator.rounds.cohorts import Cohort
from aggregator.rounds.collector import CohortQuestion
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.optimizers import ServerOptimizer
from aggregator.rounds.runs import TrainingRun
from models.architecture import Architecture, require_bounded
from models.errors import LayoutError
from protocol.questions import AssessQuestion, FitQuestion

__all__ = ["ModelState", "RoundOutcome", "assess_candidate", "next_control", "train_round"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelState:
    """The global model between rounds.

    `parameters` float32 (P,), `moments` of the server optimiser float64 (k, P), `control` SCAFFOLD's c in units of a gradient, float64
    (P,): zeros at the start of a run, and for good without SCAFFOLD.
    """

    parameters: NDArray[np.float32]
    moments: NDArray[np.float64]
    control: NDArray[np.float64]


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
    attendance: Attendance,
    started_at: float,
) -> RoundOutcome:
    """Ask a cohort to train from `model` and take one server step.

    Raises:
        RoundCanceledError: the run or the service is ending; nothing happened.
        FlowerRunEndedError: the session broke; open another and try again.
        SumError: the step leaves the finite numbers.
    """
    number = run.finished_rounds + 1
    # Seeded by run, round and attempt: a resumed run draws the same cohort, a repeated round another one.
    rng = np.random.default_rng([run.seed, number, run.attempts])
    cohort = draw_cohort(attendance, policy, policy.cohort.fraction, rng)
    question = _fit_question(run, policy, architecture, number, seed=int(rng.integers(2**31)))
    arrays = {"parameters": model.parameters}
    if question.training.method == "scaffold":
        arrays["control"] = model.control.astype(np.float32)
    layout = layout_for(architecture, question)
    asked = CohortQuestion(
        question=question,
        arrays=arrays,
        layout=layout,
        admission=admit_update(
            norm_limit=policy.rounds.norm_limit, maximum_examples=policy.training.maximum_examples
        ),
    )
    # With example-level privacy no device tells a loss.
    words = RecordWords(
        kind="fit", losses=None if question.training.example_privacy else ("loss_before", "loss_after")
    )
    answer = ask_cohort(run, attendance, cohort, asked, words, started_at=started_at)
    if answer.total is None:
        return RoundOutcome(record=answer.record, model=model, total=None)
    parts = layout.unpack(answer.total)
    if parts["examples"][0] < 1:
        # Under a secure sum a device whose training diverged adds nothing instead of leaving the cohort.
        note = "void: no device's training gave an update; they all diverged: lower training.learning_rate"
        void = msgspec.structs.replace(answer.record, is_void=True, note=note)
        return RoundOutcome(record=void, model=model, total=None)
    mean_update = parts["weighted_update"] / float(parts["examples"][0])
    step = optimizer.step(model.moments, model.parameters, mean_update)
    control = model.control
    if question.training.method == "scaffold":
        share = len(answer.record.participants) / _population(cohort)
        control = next_control(control, parts, share=share, learning_rate=question.training.learning_rate)
    try:
        require_bounded(architecture, step.parameters)
    except LayoutError as error:
        raise SumError(f"the step of round {number} ruins the model: {error}") from None
    if not np.isfinite(control).all():
        raise SumError(
            f"the step of round {number} leaves NaN or infinity in the server's control variate; lower the learning rates"
        )
    return RoundOutcome(
        record=answer.record,
        model=ModelState(parameters=step.parameters, moments=step.state, control=control),
        total=answer.total,
    )


def next_control(
    control: NDArray[np.float64],
    parts: Mapping[str, NDArray[np.float64]],
    *,
    share: float,
    learning_rate: float,
) -> NDArray[np.float64]:
    """SCAFFOLD's c after a round.

    Args:
        control: c before it (P,), in units of a gradient.
        parts: of the cohort's sum, in the layout of ``train.scaffold``.
        share: of the run's devices that are in the sum, |S|/N in (0, 1]; whoever is not in it keeps its variate.
        learning_rate: of the devices' steps, in whose units the variates travelled.
    """
    mean_move = parts["weighted_control"] / float(parts["examples"][0])
    # Algorithm 1, line 17: c ← c + |S|/N · mean over S of (c_i' - c_i).
    return np.asarray(control + share * mean_move / learning_rate)


def assess_candidate(
    run: TrainingRun,
    policy: FamilySettings,
    *,
    architecture: Architecture,
    model: ModelState,
    champion: NDArray[np.float32],
    attendance: Attendance,
    started_at: float,
) -> CohortAnswer:
    """Ask everybody who is there to score held-out windows with the candidate and the champion.

    Raises as `ask_cohort`.
    """
    question = AssessQuestion(
        run_id=run.id,
        layout_sha256=architecture.layout_sha256,
        maximum_examples=policy.training.maximum_examples,
    )
    asked = CohortQuestion(
        question=question,
        arrays={"candidate": model.parameters, "champion": champion},
        layout=layout_for(architecture, question),
        admission=admit_assessment(maximum_examples=policy.training.maximum_examples),
    )
    words = RecordWords(kind="assess", losses=("champion_loss", "candidate_loss"))
    return ask_everybody(run, policy, attendance, asked, words, started_at=started_at)


def _fit_question(
    run: TrainingRun, policy: FamilySettings, architecture: Architecture, number: int, *, seed: int
) -> FitQuestion:
    return FitQuestion(
        run_id=run.id,
        round_number=number,
        layout_sha256=architecture.layout_sha256,
        training=policy.training,
        seed=seed,
        control_limit=policy.rounds.norm_limit if policy.training.method == "scaffold" else None,
    )


def _population(cohort: Cohort) -> int:
    """How many devices there were to draw from; a cohort that has answered was drawn from somebody."""
    return len(cohort.devices) if cohort.sampling is None else cohort.sampling.population
