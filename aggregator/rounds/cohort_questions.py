"""One question of a run to one cohort: who is drawn, what the sum was, and the record that is kept of it.

Shared by training and assessing (`training`) and by the prior's questions (`refit`). A round below its quorum is void:
the answer says so in its record and has no sum. Nothing here is persisted.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from aggregator.rounds.attendance import Attendance
from aggregator.rounds.cohorts import Cohort, select_cohort
from aggregator.rounds.collector import CohortQuestion
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.reports import CohortReport, GroupSum, QuorumMissedError
from aggregator.rounds.run_groups import is_grouped, next_cohort
from aggregator.rounds.runs import RoundRecord, TrainingRun
from models.architecture import Architecture
from protocol.names import DeviceId
from protocol.questions import TRAINING_KINDS, AnswerLayout, Kind, Question, answer_layout, kind_of
from protocol.refusals import MEANINGS, RefusalCode, read_refusal

__all__ = [
    "CohortAnswer",
    "RecordWords",
    "ask_cohort",
    "ask_everybody",
    "draw_cohort",
    "is_used_up",
    "layout_for",
    "log_round",
]


_log = structlog.get_logger()

Variant = tuple[Question, Mapping[str, NDArray[np.float32]]]


@dataclass(frozen=True, kw_only=True)
class RecordWords:
    """How the run's record speaks of a question: its `kind`, and which two parts of the answer are its `losses`, if it tells any."""

    kind: str
    losses: tuple[str, str] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class CohortAnswer:
    """What came of it: the sum, float64 in the answer's layout, or None where the round is void; and the groups' own, where it was in groups."""

    record: RoundRecord
    total: NDArray[np.float64] | None
    sums: tuple[GroupSum, ...] = ()


def layout_for(architecture: Architecture, question: Question) -> AnswerLayout:
    """Layout of the answers to a question about a model."""
    return answer_layout(
        kind_of(question),
        parameter_count=architecture.parameter_count,
        tensor_count=architecture.tensor_count,
        feature_count=architecture.feature_count,
    )


def draw_cohort(
    run: TrainingRun,
    attendance: Attendance,
    policy: FamilySettings,
    kind: Kind,
    rng: np.random.Generator,
    *,
    among: frozenset[DeviceId] | None = None,
) -> Cohort:
    """Whom to ask of those who are there (and `among` these): the run's groups, or a draw as the family samples; raises RoundCanceledError.

    Training asks `cohort.fraction` of them, other questions everybody; under Poisson sampling these are sampled as well: an ε that counts
    on it must hold for every sum.
    """
    if is_grouped(policy):
        return next_cohort(run, policy, kind, attendance.gather(), attendance.answered())
    is_drawn = kind in TRAINING_KINDS or policy.cohort.sampling == "poisson"
    how = msgspec.structs.replace(policy.cohort, fraction=policy.cohort.fraction if is_drawn else 1.0)
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
        note = f"void: {missed}{_meanings(void)}"
        return CohortAnswer(record=msgspec.structs.replace(void, is_void=True, note=note), total=None)
    parts = asked.layout.unpack(answer.total)
    n = float(parts["examples" if "examples" in parts else "votes"][0])
    record = msgspec.structs.replace(_record(run, words, cohort, answer, started_at), examples=round(n))
    if words.losses is not None and n > 0:
        before, after = (float(parts[name][0]) / n for name in words.losses)
        record = msgspec.structs.replace(record, loss_before=before, loss_after=after)
    return CohortAnswer(record=record, total=answer.total, sums=answer.sums)


def ask_everybody(
    run: TrainingRun,
    policy: FamilySettings,
    attendance: Attendance,
    asked: CohortQuestion,
    words: RecordWords,
    *,
    started_at: float,
    among: frozenset[DeviceId] | None = None,
    vary: Callable[[frozenset[DeviceId]], Variant] | None = None,
) -> CohortAnswer:
    """Put a question that follows the training to everybody who is there, of those `among` whom it is for; raises as `ask_cohort`.

    `vary` says what a group of these devices is asked instead, where a cohort is asked in several.
    """
    rng = np.random.default_rng([run.seed, run.finished_rounds + 1, run.attempts])
    cohort = draw_cohort(run, attendance, policy, kind_of(asked.question), rng, among=among)
    if vary is not None and len(cohort.groups) > 1:
        variants = tuple(vary(frozenset(group.devices)) for group in cohort.groups)
        asked = dataclasses.replace(asked, variants=variants)
    return ask_cohort(run, attendance, cohort, asked, words, started_at=started_at)


def is_used_up(record: RoundRecord) -> bool:
    """Whether most devices say that the windows they have now give no more answers of this kind: asking again is of no use today."""
    codes = [read_refusal(refused.reason) for refused in record.refused]
    return 2 * codes.count(RefusalCode.SNAPSHOT) > record.asked


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
    )
    for refused in record.refused:
        _log.warning("answer_refused", run=run.id, device=refused.device, reason=refused.reason)
    for group in record.groups:
        if group.left_out:
            _log.warning("group_left_out", run=run.id, devices=group.devices, reason=group.left_out)


def _meanings(record: RoundRecord) -> str:
    """What the words mean in which devices refused, for whoever reads the run."""
    codes = {read_refusal(refused.reason) for refused in record.refused} - {None}
    return "".join(f"; {code} is: {MEANINGS[code]}" for code in sorted(filter(None, codes)))


def _require_quorum(cohort: Cohort, shortage: str) -> None:
    if len(cohort.groups) < cohort.fewest_groups and cohort.sampling is not None and cohort.fewest_groups > 1:
        raise QuorumMissedError(
            f"{len(cohort.groups)} groups can be asked, it takes {cohort.fewest_groups}: a group that has answered together sits out while"
            " one of it is away",
            CohortReport(lost=()),
        )
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
        asked=len(cohort.devices),
        participants=report.participants,
        refused=report.refused,
        lost=report.lost,
        spared=report.spared,
        stages=dict(report.stages),
        groups=report.groups,
    )
