"""One question of a run to one cohort: who is drawn, what the sum was, and the record that is kept of it.

Shared by training (`training`), comparing (`comparison`) and assessing (`training.assess_candidate`). A round below its quorum is void:
the answer says so in its record and has no sum. Nothing here is persisted.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from aggregator.rounds.attendance import Attendance
from aggregator.rounds.cohorts import Cohort, select_cohort
from aggregator.rounds.collector import CohortQuestion
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.reports import CohortReport, QuorumMissedError
from aggregator.rounds.runs import RoundRecord, TrainingRun
from models.architecture import Architecture
from protocol.names import DeviceId
from protocol.questions import AnswerLayout, Question, answer_layout, kind_of

__all__ = [
    "CohortAnswer",
    "RecordWords",
    "ask_cohort",
    "ask_everybody",
    "draw_cohort",
    "layout_for",
    "log_round",
]


_log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class RecordWords:
    """How the run's record speaks of a question: its `kind`, and which two parts of the answer are its `losses`, if it tells any."""

    kind: str
    losses: tuple[str, str] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class CohortAnswer:
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
    attendance: Attendance,
    policy: FamilySettings,
    fraction: float,
    rng: np.random.Generator,
    *,
    among: frozenset[DeviceId] | None = None,
) -> Cohort:
    """Draw `fraction` of those who are there (and `among` these), as the family samples its devices; raises RoundCanceledError."""
    how = msgspec.structs.replace(policy.cohort, fraction=fraction)
    # Coins that somebody could toss again (the seed is in the run's record) would not keep secret who was drawn.
    coins = np.random.default_rng(secrets.randbits(128)) if how.sampling == "poisson" else rng
    there = attendance.gather()
    return select_cohort(there if among is None else there & among, how, coins)


def ask_cohort(
    run: TrainingRun,
    attendance: Attendance,
    cohort: Cohort,
    asked: CohortQuestion,
    words: RecordWords,
    *,
    started_at: float,
) -> CohortAnswer:
    """Put the question to the cohort.

    Raises:
        RoundCanceledError: the run or the service is ending; nothing happened.
        FlowerRunEndedError: the session broke; open another and try again.
    """
    try:
        _require_quorum(cohort, attendance.shortage)
        answer = attendance.ask(asked, cohort)
    except QuorumMissedError as missed:
        void = _record(run, words, cohort, missed.report, started_at)
        return CohortAnswer(
            record=msgspec.structs.replace(void, is_void=True, note=f"void: {missed}"), total=None
        )
    parts = asked.layout.unpack(answer.total)
    n = float(parts["examples" if "examples" in parts else "votes"][0])
    record = msgspec.structs.replace(_record(run, words, cohort, answer, started_at), examples=round(n))
    if words.losses is not None and n > 0:
        before, after = (float(parts[name][0]) / n for name in words.losses)
        record = msgspec.structs.replace(record, loss_before=before, loss_after=after)
    return CohortAnswer(record=record, total=answer.total)


def ask_everybody(
    run: TrainingRun,
    policy: FamilySettings,
    attendance: Attendance,
    asked: CohortQuestion,
    words: RecordWords,
    *,
    started_at: float,
    among: frozenset[DeviceId] | None = None,
) -> CohortAnswer:
    """Put a question that follows the training to everybody who is there, of those `among` whom it is for; raises as `ask_cohort`."""
    rng = np.random.default_rng([run.seed, run.finished_rounds + 1, run.attempts])
    # Under Poisson sampling these questions are sampled as well: an ε that counts on it must hold for every sum.
    is_poisson = policy.cohort.sampling == "poisson"
    cohort = draw_cohort(attendance, policy, policy.cohort.fraction if is_poisson else 1.0, rng, among=among)
    return ask_cohort(run, attendance, cohort, asked, words, started_at=started_at)


def log_round(run: TrainingRun, record: RoundRecord) -> None:
    """Say in the log what came of a question."""
    _log.info(
        "round_closed",
        run=run.id,
        kind=record.kind,
        round=record.number,
        participants=len(record.participants),
        refused=len(record.refused),
        lost=len(record.lost),
        seconds=round(record.seconds, 3),
        seconds_in_training=round(record.seconds_in_training, 3),
    )
    for refused in record.refused:
        _log.warning("answer_refused", run=run.id, device=refused.device, reason=refused.reason)


def _require_quorum(cohort: Cohort, shortage: str) -> None:
    if len(cohort.devices) < cohort.quorum:
        raise QuorumMissedError(
            shortage or f"{len(cohort.devices)} devices have joined, the quorum is {cohort.quorum}",
            CohortReport(lost=()),
        )


def _record(
    run: TrainingRun, words: RecordWords, cohort: Cohort, report: CohortReport, started_at: float
) -> RoundRecord:
    return RoundRecord(
        kind=words.kind,
        number=run.finished_rounds + 1,
        attempt=run.attempts + 1,
        started_at=started_at,
        seconds=report.seconds,
        seconds_in_training=report.seconds_in_training,
        asked=len(cohort.devices),
        participants=report.participants,
        refused=report.refused,
        lost=report.lost,
        spared=report.spared,
        stages=dict(report.stages),
    )
