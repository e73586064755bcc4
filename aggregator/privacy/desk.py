"""The one door to privacy accounting for whoever runs rounds: plan a run, open a round, close it, say what it cost.

::

    plan_run ─► open_round ─► (devices mask, server unmasks) ─► close_round ─► ... ─► claim
       │            │ written and fsynced BEFORE devices are asked     │
       └ refuses    └ refuses what would exceed the budget            └ released, withheld or void

Invariants:
    * A round is in the ledger before a device is asked, so a kill -9 at any point leaves it counted: an open round counts
      as released with the least noise devices agree to.
    * The figures never fall. A void round costs nothing.

Thread-safe: one lock around everything; a call costs one fsynced commit and some milliseconds of accounting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aggregator.privacy.ledger_entries import Outcome, RoundId, Sampling
from protocol.names import DeviceId, FamilyName, RunId
from protocol.privacy_claim import PrivacyClaim
from protocol.privacy_cost import RoundNoise

__all__ = ["FamilyBudget", "PlannedCost", "PlannedQuestion", "PrivacyDesk"]


@dataclass(frozen=True, kw_only=True)
class FamilyBudget:
    """What a family may spend over its whole life, and how it is counted.

    `delta` goes with every ε and should be below one over the number of devices. A limit of None is no limit.
    `maximum_participations` is what devices are told and enforce themselves.
    """

    delta: float = 1e-6
    epsilon_server: float | None = None
    epsilon_release: float | None = None
    maximum_participations: int | None = None


@dataclass(frozen=True, kw_only=True)
class PlannedQuestion:
    """`rounds` times the same question with the same noise to cohorts drawn the same way."""

    question: str
    rounds: int
    noise: RoundNoise
    sampling: Sampling


@dataclass(frozen=True, kw_only=True)
class PlannedCost:
    """The family's figures if all planned rounds are released; infinity without noise."""

    epsilon_server: float
    epsilon_release: float


class PrivacyDesk:
    """Privacy accounting of all families of one aggregator.

    Args:
        path: the ledger's SQLite file; made where it is missing.
        budgets: by family; a family that is not named has `FamilyBudget()`.
        now: Unix seconds.
    """

    def __init__(
        self, path: Path, budgets: Mapping[FamilyName, FamilyBudget], *, now: Callable[[], float]
    ) -> None: ...

    def close(self) -> None:
        """Close the ledger."""

    def plan_run(self, run: RunId, family: FamilyName, questions: Sequence[PlannedQuestion]) -> PlannedCost:
        """Admit a run whose rounds fit into what is left of the budget, and record the plan. Asking again for a run is harmless.

        Raises:
            PrivacyBudgetError: they do not fit; says which parameter to change to what.
        """

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

    def close_round(
        self,
        round_id: RoundId,
        outcome: Outcome,
        *,
        participants: Sequence[DeviceId] = (),
        clip_bits: float | None = None,
        reason: str = "",
    ) -> None:
        """Record how a round ended. RELEASED and WITHHELD name exactly the devices that are in the sum.

        Raises:
            LedgerError: no such open round, or a participant who was not asked.
        """

    def current_clip(self, family: FamilyName, initial: float) -> float:
        """The clip for the next round: `initial`, or what adaptive clipping made of it in the family's released rounds."""

    def claim(self, family: FamilyName, run: RunId) -> PrivacyClaim:
        """The claim as of now: all rounds of the family, and those of `run` beside it."""
