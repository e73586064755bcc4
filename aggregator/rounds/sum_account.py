"""What a secure round tells the privacy ledger: that it begins, before any device is asked, and how it ended.

::

    open ─► devices advertise, share, mask ─► [asked to unmask] ─► close(released | withheld | void)

Invariants: nobody is asked for a masked input before the ledger holds the round, durably; a sum is handed on only after
the ledger holds its release. A kill -9 between the two leaves the round open in the ledger, where it counts at its worst; the
next attempt has another number.

Not the arithmetic of ε (`aggregator.privacy`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from aggregator.privacy.adaptive_clipping import AdaptiveClip
from aggregator.privacy.desk import PrivacyDesk
from aggregator.privacy.ledger_entries import Outcome, RoundId, Sampling
from protocol.names import DeviceId, FamilyName, RunId
from protocol.privacy_cost import RoundNoise

__all__ = ["LedgerAccount", "SumAccount"]


class SumAccount(Protocol):
    """The account of one run's rounds."""

    def open(
        self, question: str, number: int, noise: RoundNoise, sampling: Sampling, cohort: Sequence[DeviceId]
    ) -> RoundId:
        """Write the round down; raises PrivacyBudgetError or LedgerError, then no device may be asked."""
        ...

    def close(
        self,
        round_id: RoundId,
        outcome: Outcome,
        participants: Sequence[DeviceId] = (),
        reason: str = "",
        *,
        clip_bits: float | None = None,
        next_clip: float | None = None,
    ) -> None:
        """Write its end down, with the clip that the next round gets; raises LedgerError, then the sum may not be used."""
        ...

    def current_clip(self, start: AdaptiveClip) -> AdaptiveClip:
        """The clip for the next round: `start`, moved to where the family's released rounds, of any run, have taken it."""
        ...


class LedgerAccount:
    """Implements `SumAccount` on the aggregator's ledger.

    Args:
        desk: of the aggregator.
        family, run: whose rounds these are.
    """

    def __init__(self, desk: PrivacyDesk, family: FamilyName, run: RunId) -> None:
        self._desk, self._family, self._run = desk, family, run

    def open(
        self, question: str, number: int, noise: RoundNoise, sampling: Sampling, cohort: Sequence[DeviceId]
    ) -> RoundId:
        """See `SumAccount.open`."""
        # Counted in the ledger, not in the run: an attempt that a kill -9 cut off is in the ledger only.
        attempts = [
            held.opened.id.attempt
            for held in self._desk.rounds(self._family)
            if (held.opened.id.run, held.opened.id.question, held.opened.id.number)
            == (self._run, question, number)
        ]
        round_id = RoundId(
            run=self._run, question=question, number=number, attempt=max(attempts, default=0) + 1
        )
        self._desk.open_round(round_id, self._family, noise=noise, sampling=sampling, cohort=cohort)
        return round_id

    def close(
        self,
        round_id: RoundId,
        outcome: Outcome,
        participants: Sequence[DeviceId] = (),
        reason: str = "",
        *,
        clip_bits: float | None = None,
        next_clip: float | None = None,
    ) -> None:
        """See `SumAccount.close`."""
        self._desk.close_round(
            round_id,
            outcome,
            participants=participants,
            clip_bits=clip_bits,
            next_clip=next_clip,
            reason=reason,
        )

    def current_clip(self, start: AdaptiveClip) -> AdaptiveClip:
        """See `SumAccount.current_clip`."""
        return self._desk.current_clip(self._family, start)
