"""One question of a run to one cohort: who is drawn, what the sum was, and the record that is kept of it.

Shared by training (`training`), comparing (`comparison`) and assessing (`training.assess_candidate`). A round below its quorum is void:
the answer says so in its record and has no sum. Nothing here is persisted.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.errors import QuorumMissedError
from aggregator.rounds.admission import Admission
from aggregator.rounds.attendance import Attendance
from aggregator.rounds.cohort_link import CohortReport
from aggregator.rounds.cohorts import Cohort, CohortPolicy, select_cohort
from aggregator.rounds.runs import RefusedDevice, RoundRecord, TrainingRun
from aggregator.settings import FamilySettings
from models.architecture import Architecture
from protocol.questions import AnswerLayout, Question, answer_layout, kind_of

__all__ = ["Asked", "CohortQuestion", "ask_cohort", "draw_cohort", "layout_for"]


@dataclass(frozen=True, kw_only=True, eq=False)
class CohortQuestion:
    """What is asked. `record_kind` is the record's; `losses` name the two parts of the answer it tells, if there are any."""

    question: Question
    arrays: Mapping[str, NDArray[np.float32]]
    layout: AnswerLayout
    admission: Admission
    record_kind: str
    losses: tuple[str, str] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """What came of it: the sum, float64 in the answer's layout, or None where the round is void."""

    record: RoundRecord
    total: NDArray[np.float64] | None


def layout_for(architecture: Architecture, question: Question) -> AnswerLayout:
    """Layout of the answers to a question about a model."""
    return answer_layout(
        kind_of(question),
        parameter_count=architecture.parameter_count,
        tensor_count=architecture.tensor_count,
        feature_count=architecture.feature_count,
    )


def draw_cohort(
    attendance: Attendance, policy: FamilySettings, fraction: float, rng: np.random.Generator
) -> Cohort:
    """Draw `fraction` of those who are there, as the family samples its devices; raises RoundCancelledError."""
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


def ask_cohort(
    run: TrainingRun, attendance: Attendance, cohort: Cohort, asking: CohortQuestion, *, started_at: float
) -> Asked:
    """Put the question to the cohort.

    Raises:
        RoundCancelledError: the run or the service is ending; nothing happened.
        FlowerRunEndedError: the session broke; open another and try again.
    """
    try:
        _require_quorum(cohort)
        answer = attendance.ask(asking.question, asking.arrays, asking.layout, cohort, asking.admission)
    except QuorumMissedError as missed:
        void = f"void: {missed}"
        record = _record(asking, run, cohort, missed.report, started_at, void=void)
        return Asked(record=record, total=None)
    parts = asking.layout.unpack(answer.total)
    return Asked(record=_record(asking, run, cohort, answer, started_at, parts=parts), total=answer.total)


def _require_quorum(cohort: Cohort) -> None:
    if len(cohort.devices) < cohort.quorum:
        raise QuorumMissedError(
            f"{len(cohort.devices)} devices have joined, the quorum is {cohort.quorum}",
            CohortReport(lost=()),
        )


def _record(
    asking: CohortQuestion,
    run: TrainingRun,
    cohort: Cohort,
    report: CohortReport,
    started_at: float,
    *,
    parts: Mapping[str, NDArray[np.float64]] | None = None,
    void: str = "",
) -> RoundRecord:
    n = float(parts["examples"][0]) if parts else 0.0
    before, after = (
        (float(parts[name][0]) / n if parts and asking.losses and n > 0 else None)
        for name in asking.losses or ("", "")
    )
    return RoundRecord(
        kind=asking.record_kind,
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
        examples=round(n),
        loss_before=before,
        loss_after=after,
        is_void=bool(void),
        note=void,
    )
