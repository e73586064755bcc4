"""What a run owes the privacy desk beyond its rounds: a plan before anybody is asked, and the claim its release carries.

Not the single rounds (`sum_account`), not the arithmetic (`aggregator.privacy`).
"""

from __future__ import annotations

import math
from typing import Protocol

from aggregator.privacy.budget import PlannedQuestion
from aggregator.privacy.desk import PrivacyDesk
from aggregator.privacy.ledger_entries import FixedCohort, PoissonCohort, Sampling
from aggregator.rounds.comparison import compares
from aggregator.rounds.runs import TrainingRun
from aggregator.settings import FamilySettings
from models.architecture import Architecture
from protocol.names import DeviceId, FamilyName
from protocol.privacy_claim import PrivacyClaim
from protocol.questions import ASSESS, CONTEST, FIT, MOMENTS, SCAFFOLD, TRAINING_KINDS, Kind, answer_layout
from protocol.secure_answers import make_encoding

__all__ = ["DeskRecord", "NoRecord", "PrivacyRecord"]


class PrivacyRecord(Protocol):
    """The privacy side of runs, as the coordinator needs it."""

    def plan(
        self,
        run: TrainingRun,
        policy: FamilySettings,
        architecture: Architecture,
        joined: frozenset[DeviceId],
    ) -> None:
        """Admit the run; raises PrivacyBudgetError, or ProtocolError for noise that no words can carry, and says what to change."""
        ...

    def claim(self, run: TrainingRun, policy: FamilySettings) -> PrivacyClaim | None:
        """What can be said now; None for a family whose sums are in plain."""
        ...


class NoRecord:
    """Implements `PrivacyRecord` for runs that promise nothing: all in plain."""

    def plan(
        self,
        run: TrainingRun,
        policy: FamilySettings,
        architecture: Architecture,
        joined: frozenset[DeviceId],
    ) -> None:
        """Admit everything."""

    def claim(self, run: TrainingRun, policy: FamilySettings) -> PrivacyClaim | None:  # noqa: ARG002 - the port's
        """Claim nothing."""
        return None


class DeskRecord:
    """Implements `PrivacyRecord` on the privacy desk."""

    def __init__(self, desk: PrivacyDesk) -> None:
        self._desk = desk

    def plan(
        self,
        run: TrainingRun,
        policy: FamilySettings,
        architecture: Architecture,
        joined: frozenset[DeviceId],
    ) -> None:
        """See `PrivacyRecord.plan`. A cohort that is drawn later may be smaller; its noise is planned for the quorum all the same."""
        if not policy.secure_sum:
            return
        asked: dict[Kind, int] = {
            SCAFFOLD if policy.training.method == "scaffold" else FIT: run.rounds,
            ASSESS: 1,
        }
        if compares(policy, architecture):
            asked |= {MOMENTS: 1, CONTEST: 1}
        planned = []
        for kind, rounds in asked.items():
            layout = answer_layout(
                kind,
                parameter_count=architecture.parameter_count,
                tensor_count=architecture.tensor_count,
                feature_count=architecture.feature_count,
            )
            sampling = _sampling(policy, kind, len(joined))
            size = sampling.size if isinstance(sampling, FixedCohort) else sampling.population
            terms = policy.sum_policy().terms(
                run_id=run.id,
                kind=kind,
                number=1,
                layout=layout,
                devices=size,
                quorum=policy.minimum_devices,
                rotation_seed="0" * 32,
            )
            noise = make_encoding(layout, terms).noise
            planned.append(PlannedQuestion(question=kind, rounds=rounds, noise=noise, sampling=sampling))
        self._desk.plan_run(run.id, FamilyName(run.family), planned)

    def claim(self, run: TrainingRun, policy: FamilySettings) -> PrivacyClaim | None:
        """See `PrivacyRecord.claim`."""
        return self._desk.claim(FamilyName(run.family), run.id) if policy.secure_sum else None


def _sampling(policy: FamilySettings, kind: str, joined: int) -> Sampling:
    if policy.privacy.sampling == "poisson":
        return PoissonCohort(rate=policy.cohort_fraction, population=joined)
    fraction = policy.cohort_fraction if kind in TRAINING_KINDS else 1.0
    goal = max(math.ceil(fraction * joined), policy.minimum_devices)
    size = min(math.ceil(goal * policy.over_selection), joined)
    return FixedCohort(size=size, population=joined)
