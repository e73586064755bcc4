"""The one door to privacy accounting for whoever runs rounds: plan a run, open a round, close it, say what it cost.

::

    plan_run ─► open_round ─► (devices mask, server unmasks) ─► close_round ─► ... ─► claim
       │            │ written and fsynced BEFORE devices are asked     │
       └ refuses    └ refuses what would exceed the budget            └ used, withheld or void

Invariants:
    * A round is in the ledger before a device is asked, so a kill -9 at any point leaves it counted: an open round counts
      as used with the least noise devices agree to.
    * The figures of closed rounds never fall. A void round costs nothing.
    * A sum with less noise than planned is never used: `close_round` takes it as withheld, at its realised noise.

Thread-safe: one lock around everything; a call costs one fsynced commit and some milliseconds of accounting.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from aggregator.errors import LedgerError, PrivacyBudgetError
from aggregator.privacy.adaptive_clipping import AdaptiveClip
from aggregator.privacy.advice import advise
from aggregator.privacy.budget import (
    PlannedQuestion,
    admit_round,
    exceeded,
    projected,
    require_within,
)
from aggregator.privacy.claims import make_claim
from aggregator.privacy.figures import Figures, figures
from aggregator.privacy.history import HeldRound, History
from aggregator.privacy.ledger import Ledger
from aggregator.privacy.ledger_entries import (
    Entry,
    Outcome,
    PoissonCohort,
    RoundClosed,
    RoundId,
    RoundOpened,
    RunPlanned,
    Sampling,
)
from aggregator.privacy.poisson_draws import require_few_voids
from aggregator.privacy.settings import FamilyBudget
from protocol.names import DeviceId, FamilyName, RunId
from protocol.privacy_claim import PrivacyClaim
from protocol.privacy_cost import RoundNoise
from service.restored_note import read_restored_note

__all__ = ["LEDGER_FILE", "FamilyBudget", "PlannedQuestion", "PrivacyAccounts"]

LEDGER_FILE: Final = "privacy.sqlite"
"""The ledger's name in the aggregator's data_dir."""


class PrivacyAccounts:
    """Privacy accounting of all families of one aggregator.

    Args:
        path: the ledger's SQLite file; made where it is missing unless `read_only`.
        budgets: by family; one that is not named has the limits of its last plan in the ledger, or none.
        now: Unix seconds.
        read_only: look only, also while an aggregator writes.

    Raises:
        LedgerError, LedgerDamagedError: the ledger cannot be used; run no round.
    """

    def __init__(
        self,
        path: Path,
        budgets: Mapping[FamilyName, FamilyBudget],
        *,
        now: Callable[[], float],
        read_only: bool = False,
    ) -> None:
        self._lock = threading.RLock()
        self._budgets, self._now, self._folder = budgets, now, path.parent
        self._ledger = Ledger(path, read_only=read_only)
        self._history = History(self._ledger.entries)

    def close(self) -> None:
        """Close the ledger."""
        with self._lock:
            self._ledger.close()

    def budget(self, family: FamilyName) -> FamilyBudget:
        """The limits a family has."""
        if family in self._budgets:
            return self._budgets[family]
        run = self._history.latest_run(family)
        plan = None if run is None else self._history.planned(run)
        return FamilyBudget() if plan is None else plan.budget

    def families(self) -> tuple[FamilyName, ...]:
        """Families with at least one plan or round, sorted."""
        with self._lock:
            return self._history.families()

    def rounds(self, family: FamilyName) -> tuple[HeldRound, ...]:
        """What happened in a family's rounds, the oldest first."""
        with self._lock:
            return self._history.rounds(family)

    def figures(self, family: FamilyName) -> Figures:
        """What the family has spent, open rounds at their worst."""
        return figures(self.rounds(family), self.budget(family).delta)

    def plan_run(self, run: RunId, family: FamilyName, questions: Sequence[PlannedQuestion]) -> Figures:
        """Admit a run whose rounds fit into what is left of the budget, and record the plan.

        Asking again for the same run (after a restart) gives the figures anew and records and refuses nothing: its rounds
        are then checked one by one by `open_round`.

        Returns:
            the family's figures if all planned rounds are used.

        Raises:
            PrivacyBudgetError: they do not fit; says which parameter to change to what. Or nobody has said yet what was spent after
                the backup that this ledger came back from.
            PrivacyPlanError: most of its Poisson cohorts would be void.
        """
        budget = self.budget(family)
        with self._lock:
            held = self._history.rounds(family)
            figure = projected(held, questions, budget)
            if self._history.planned(run) is not None:
                return figure
            self._require_known_past(budget)
            _require_fair_coins(questions)
            advice = advise(held, questions, budget) if exceeded(figure, budget) else ""
            require_within(figure, budget, f"run {run} of family {family!r}", advice)
            self._record(
                RunPlanned(
                    run=run,
                    family=family,
                    at=self._now(),
                    budget=budget,
                    rounds=sum(question.rounds for question in questions),
                    # JSON knows no infinity; None is a plan without noise.
                    epsilon_server=figure.server if figure.server < float("inf") else None,
                    epsilon_release=figure.release if figure.release < float("inf") else None,
                )
            )
            return figure

    def next_attempt(self, family: FamilyName, run: RunId, question: str, number: int) -> RoundId:
        """The name of the next attempt at a question: counted in the ledger, which also knows one that a kill -9 cut off."""
        attempts = [
            held.opened.id.attempt
            for held in self.rounds(family)
            if (held.opened.id.run, held.opened.id.question, held.opened.id.number) == (run, question, number)
        ]
        return RoundId(run=run, question=question, number=number, attempt=max(attempts, default=0) + 1)

    def open_round(
        self,
        round_id: RoundId,
        family: FamilyName,
        *,
        noise: RoundNoise,
        sampling: Sampling,
        cohort: Sequence[DeviceId],
    ) -> None:
        """Record that a cohort is about to be asked. Durable when this returns.

        Raises:
            PrivacyBudgetError: releasing it would exceed the budget; nothing was recorded, ask no device.
            LedgerError: the ledger cannot be written or holds this attempt already; ask no device.
        """
        entry = RoundOpened(
            id=round_id,
            family=family,
            at=self._now(),
            noise=noise,
            sampling=sampling,
            cohort=tuple(cohort),
            salt=secrets.token_hex(16),
        )
        with self._lock:
            self._history.check(entry)
            admit_round(self._history.rounds(family), entry, self.budget(family))
            self._record(entry)

    def close_round(
        self,
        round_id: RoundId,
        outcome: Outcome,
        *,
        participants: Sequence[DeviceId] = (),
        clip_bits: float | None = None,
        next_clip: float | None = None,
        reason: str = "",
    ) -> None:
        """Record how a round ended. Call it with USED before the sum is used.

        Args:
            round_id: an open round.
            outcome: see `Outcome`. VOID only where no device was asked to unmask.
            participants: exactly the devices that are in the sum; none for VOID.
            clip_bits: noisy number of participants within the clip, where clipping adapts.
            next_clip: what `AdaptiveClip.next_clip` made of it.
            reason: of a void or withheld round, for people.

        Raises:
            LedgerError: no such open round, a participant who was not asked, or a USED sum with less noise than
                planned (withhold it). Do not use the sum.
        """
        entry = RoundClosed(
            id=round_id,
            at=self._now(),
            outcome=outcome,
            participants=tuple(participants),
            clip_bits=clip_bits,
            next_clip=next_clip,
            reason=reason,
        )
        with self._lock:
            self._history.check(entry)
            self._record(entry)

    def current_clip(self, family: FamilyName, start: AdaptiveClip) -> AdaptiveClip:
        """The clip for the next round: `start`, moved to where the family's used rounds have taken it."""
        moved = [
            held.closed.next_clip
            for held in self.rounds(family)
            if held.closed is not None and held.closed.outcome is Outcome.USED and held.closed.next_clip
        ]
        return start.at(moved[-1]) if moved else start

    def claim(self, family: FamilyName, run: RunId) -> PrivacyClaim:
        """The claim as of now: all rounds of the family, and those of `run` beside it."""
        with self._lock:
            return make_claim(self._history.rounds(family), run, self.budget(family), self._ledger.head)

    def latest_run(self, family: FamilyName) -> RunId:
        """The run that was last planned or asked something.

        Raises:
            LedgerError: the ledger knows no such family.
        """
        run = self._history.latest_run(family)
        if run is None:
            known = ", ".join(self._history.families()) or "none yet"
            raise LedgerError(f"the privacy ledger holds nothing of family {family!r}; it knows {known}")
        return run

    def _require_known_past(self, budget: FamilyBudget) -> None:
        limits = (budget.epsilon_server, budget.epsilon_release, budget.maximum_participations)
        if all(limit is None for limit in limits) or (note := read_restored_note(self._folder)) is None:
            return
        since = datetime.fromtimestamp(note.made_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
        raise PrivacyBudgetError(
            f"this ledger came back from a backup of {since}, and what was spent after that is not in it; see what devices count"
            " themselves (fedge-agent privacy), lower the family's budget by it, then say so: fedge-aggregator accept-restored"
        )

    def _record(self, entry: Entry) -> None:
        self._ledger.append(entry)
        self._history.add(entry)


def _require_fair_coins(questions: Sequence[PlannedQuestion]) -> None:
    for question in questions:
        noise, sampling = question.noise, question.sampling
        if isinstance(sampling, PoissonCohort) and noise.mechanism != "none":
            quorum = noise.noise_shares + noise.colluders
            require_few_voids(question.question, sampling.rate, sampling.population, quorum)
