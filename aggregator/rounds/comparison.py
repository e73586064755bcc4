"""Between training and assessment: the linear detectors are fitted, and all contenders meet on windows nobody trained on.

::

    Σ n, Σ x, Σ x xᵀ ──► baselines ─┐
    champion, network ──────────────┴──► ContestQuestion ──► cohort ──► counts ──► `contest.judge_contest` ──► candidate

Two questions, each a round of its own with a record; `coordinator` commits after each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aggregator.errors import AnswerRefusedError, SumError
from aggregator.rounds.admission import admit_contest, admit_moments
from aggregator.rounds.attendance import Attendance
from aggregator.rounds.baseline import fit_baselines
from aggregator.rounds.cohort_questions import CohortAnswer, RecordWords, ask_everybody, layout_for
from aggregator.rounds.collector import CohortQuestion
from aggregator.rounds.contest import judge_contest
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.refit import is_mixture
from aggregator.rounds.runs import ContestRecord, TrainingRun
from models.architecture import Architecture
from models.bundles import ModelBundle
from models.linear_baseline import fits_a_linear_detector
from protocol.questions import CONTENDERS, ContestQuestion, MomentsQuestion, contest_layout

__all__ = ["BASELINES", "compares", "contenders_of", "contest_record", "gather_moments", "hold_contest"]

BASELINES: Final = frozenset(CONTENDERS) - {"champion", "network"}
"""Contenders that no device trains."""

_LARGEST_SUM: Final = 2**53
"""Counts up to here are exact in float64."""


def compares(policy: FamilySettings, champion: ModelBundle) -> bool:
    """Whether a run of this family fits a baseline: its network judges, the family wants one, and the layout can hold it."""
    is_judged = policy.has_baseline and not is_mixture(policy, champion)
    return is_judged and fits_a_linear_detector(champion.architecture)


def contenders_of(
    architecture: Architecture,
    moments: NDArray[np.float64],
    champion: NDArray[np.float32],
    network: NDArray[np.float32],
) -> dict[str, NDArray[np.float32]]:
    """Flat parameters (P,) of each of `protocol.questions.CONTENDERS`; raises SumError for moments that give no detector."""
    return {"champion": champion, "network": network, **fit_baselines(architecture, moments)}


def contest_record(
    total: NDArray[np.float64], champion_threshold: float, policy: FamilySettings
) -> ContestRecord:
    """What the run keeps of the verdict over a cohort's sum; raises SumError where nothing can be read from it."""
    # Under a secure sum nobody saw the single answers; what holds of each of them must at least hold of their sum.
    try:
        admit_contest(maximum_examples=_LARGEST_SUM)(contest_layout().unpack(np.asarray(total)))
    except AnswerRefusedError as refused:
        raise SumError(f"the contest's sum is none that devices can have given: {refused}") from None
    return judge_contest(
        total,
        champion_threshold=champion_threshold,
        maximum_alarm_rate=policy.gate.maximum_alarm_rate,
    )


def gather_moments(
    run: TrainingRun,
    policy: FamilySettings,
    *,
    architecture: Architecture,
    attendance: Attendance,
    started_at: float,
) -> CohortAnswer:
    """Ask everybody who is there for the moments of their training windows; raises as `ask_cohort`."""
    question = MomentsQuestion(
        run_id=run.id,
        layout_sha256=architecture.layout_sha256,
        maximum_examples=policy.training.maximum_examples,
    )
    asked = CohortQuestion(
        question=question,
        arrays={},
        layout=layout_for(architecture, question),
        admission=admit_moments(
            features=architecture.feature_count, maximum_examples=policy.training.maximum_examples
        ),
    )
    return ask_everybody(run, policy, attendance, asked, RecordWords(kind="moments"), started_at=started_at)


def hold_contest(
    run: TrainingRun,
    policy: FamilySettings,
    contenders: Mapping[str, NDArray[np.float32]],
    *,
    architecture: Architecture,
    attendance: Attendance,
    started_at: float,
) -> CohortAnswer:
    """Ask everybody who is there to score aged and disturbed held-out windows with each contender (P,); raises as `ask_cohort`."""
    # Another seed than any round of training has: disturbances must not follow the order of somebody's batches.
    seed = int(np.random.default_rng([run.seed, run.finished_rounds, 7]).integers(2**31))
    question = ContestQuestion(
        run_id=run.id,
        layout_sha256=architecture.layout_sha256,
        seed=seed,
        maximum_examples=policy.training.maximum_examples,
    )
    asked = CohortQuestion(
        question=question,
        arrays=contenders,
        layout=layout_for(architecture, question),
        admission=admit_contest(maximum_examples=policy.training.maximum_examples),
    )
    return ask_everybody(run, policy, attendance, asked, RecordWords(kind="contest"), started_at=started_at)
