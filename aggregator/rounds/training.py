"""One round of training and the evaluation: who is asked what, and what the sum does to the model.

::

    w_k ──► FitQuestion ──► cohort ──► Σ n(w'-w), Σ n ──► mean update ──► server optimiser ──► w_{k+1}

A round below its quorum is void: the model stays, the record says so, and the caller tries again within its bound. Nothing
here is persisted; `coordinator` does that with what is returned.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.errors import QuorumMissedError, SumError
from aggregator.rounds.admission import admit_assessment, admit_update
from aggregator.rounds.attendance import Attendance
from aggregator.rounds.cohort_link import CohortReport
from aggregator.rounds.cohorts import Cohort, CohortPolicy, select_cohort
from aggregator.rounds.optimizers import ServerOptimizer
from aggregator.rounds.runs import RefusedDevice, RoundRecord, TrainingRun
from aggregator.settings import FamilySettings
from models.architecture import Architecture
from protocol.questions import AssessQuestion, FitQuestion, assess_layout, fit_layout

__all__ = ["ModelState", "RoundOutcome", "assess_candidate", "train_round"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelState:
    """The global model between rounds: `parameters` float32 (P,), `moments` of the server optimiser float64 (k, P)."""

    parameters: NDArray[np.float32]
    moments: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class RoundOutcome:
    """What one attempt gave. A void one has `total` None and leaves `model` as it was."""

    record: RoundRecord
    model: ModelState
    total: NDArray[np.float64] | None


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
        RoundCancelledError: the run or the service is ending; nothing happened.
        FlowerRunEndedError: the session broke; open another and try again.
    """
    number = run.finished_rounds + 1
    # Seeded by run, round and attempt: a resumed run draws the same cohort, a repeated round another one.
    rng = np.random.default_rng([run.seed, number, run.attempts])
    cohort = _draw(attendance, policy, policy.cohort_fraction, rng)
    question = FitQuestion(
        run_id=run.id,
        round_number=number,
        layout_sha256=architecture.layout_sha256,
        epochs=policy.epochs,
        batch_size=policy.batch_size,
        learning_rate=policy.learning_rate,
        proximal=policy.proximal,
        maximum_examples=policy.maximum_examples,
        seed=int(rng.integers(2**31)),
    )
    layout = fit_layout(architecture.parameter_count)
    admission = admit_update(norm_limit=policy.norm_limit, maximum_examples=policy.maximum_examples)
    try:
        _require_quorum(cohort)
        answer = attendance.ask(question, {"parameters": model.parameters}, layout, cohort, admission)
        parts = layout.unpack(answer.total)
        examples = float(parts["examples"][0])
        step = optimizer.step(model.moments, model.parameters, parts["weighted_update"] / examples)
        if not np.isfinite(step.parameters).all():
            raise SumError(
                f"the step of round {number} leaves NaN or infinity in the model; lower the learning rates"
            )
    except QuorumMissedError as missed:
        record = _record("fit", run, cohort, missed.report, started_at, void=f"void: {missed}")
        return RoundOutcome(record=record, model=model, total=None)
    losses = _losses(parts, "loss_before", "loss_after")
    record = _record("fit", run, cohort, answer, started_at, examples=examples, losses=losses)
    return RoundOutcome(
        record=record, model=ModelState(parameters=step.parameters, moments=step.state), total=answer.total
    )


def assess_candidate(
    run: TrainingRun,
    policy: FamilySettings,
    *,
    architecture: Architecture,
    model: ModelState,
    champion: NDArray[np.float32],
    attendance: Attendance,
    started_at: float,
) -> RoundOutcome:
    """Ask everybody who is there to score held-out windows with the candidate and the champion.

    Raises as `train_round`.
    """
    number = run.finished_rounds + 1
    rng = np.random.default_rng([run.seed, number, run.attempts])
    # Under Poisson sampling the evaluation is sampled as well: an ε that counts on it must hold for every sum.
    is_poisson = policy.privacy.sampling == "poisson"
    cohort = _draw(attendance, policy, policy.cohort_fraction if is_poisson else 1.0, rng)
    question = AssessQuestion(run_id=run.id, layout_sha256=architecture.layout_sha256)
    layout = assess_layout(architecture.tensor_count, architecture.feature_count)
    arrays = {"candidate": model.parameters, "champion": champion}
    try:
        _require_quorum(cohort)
        answer = attendance.ask(
            question, arrays, layout, cohort, admit_assessment(maximum_examples=policy.maximum_examples)
        )
    except QuorumMissedError as missed:
        record = _record("assess", run, cohort, missed.report, started_at, void=f"void: {missed}")
        return RoundOutcome(record=record, model=model, total=None)
    parts = layout.unpack(answer.total)
    losses = _losses(parts, "champion_loss", "candidate_loss")
    examples = float(parts["examples"][0])
    record = _record("assess", run, cohort, answer, started_at, examples=examples, losses=losses)
    return RoundOutcome(record=record, model=model, total=answer.total)


def _draw(
    attendance: Attendance, policy: FamilySettings, fraction: float, rng: np.random.Generator
) -> Cohort:
    is_poisson = policy.privacy.sampling == "poisson"
    how = CohortPolicy(
        fraction=fraction,
        over_selection=policy.over_selection,
        minimum_devices=policy.minimum_devices,
        is_poisson=is_poisson,
    )
    # Coins that somebody could toss again (the seed is in the run's record) would not keep secret who was drawn.
    coins = np.random.default_rng(secrets.randbits(128)) if is_poisson else rng
    return select_cohort(attendance.gather(), how, coins)


def _require_quorum(cohort: Cohort) -> None:
    if len(cohort.devices) < cohort.quorum:
        raise QuorumMissedError(
            f"{len(cohort.devices)} devices have joined, the quorum is {cohort.quorum}",
            CohortReport(lost=()),
        )


def _losses(parts: dict[str, NDArray[np.float64]], before: str, after: str) -> tuple[float, float]:
    n = float(parts["examples"][0])
    return float(parts[before][0]) / n, float(parts[after][0]) / n


def _record(
    kind: str,
    run: TrainingRun,
    cohort: Cohort,
    report: CohortReport,
    started_at: float,
    *,
    examples: float = 0.0,
    losses: tuple[float | None, float | None] = (None, None),
    void: str = "",
) -> RoundRecord:
    return RoundRecord(
        kind=kind,
        number=run.finished_rounds + 1,
        attempt=run.attempts + 1,
        started_at=started_at,
        seconds=report.seconds,
        seconds_in_training=report.seconds_in_training,
        asked=len(cohort.devices),
        participants=report.participants,
        refused=tuple(RefusedDevice(device=r.device, reason=r.reason) for r in report.refused),
        lost=report.lost,
        spared=report.spared,
        examples=round(examples),
        loss_before=losses[0],
        loss_after=losses[1],
        is_void=bool(void),
        note=void,
    )
