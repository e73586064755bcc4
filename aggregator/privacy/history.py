"""What happened in a family's rounds, folded from the ledger: who gave to which sum, under which noise, who saw it.

Pure. The one rule that matters here: a round that was opened and never closed counts as if its sum had been used, where everybody may see it,
with every device that was asked in it and the least noise for which devices agree to unmask.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from aggregator.errors import LedgerError
from aggregator.privacy.ledger_entries import Entry, Outcome, RoundClosed, RoundId, RoundOpened, RunPlanned
from protocol.names import DeviceId, FamilyName, RunId
from protocol.privacy_cost import PrivacyCost, planned_cost, realised_multiplier, round_cost

__all__ = ["HeldRound", "History"]


@dataclass(frozen=True, kw_only=True)
class HeldRound:
    """One attempt: how it was opened and, unless it is open, how it was closed."""

    opened: RoundOpened
    closed: RoundClosed | None = None

    @property
    def is_open(self) -> bool:
        """Whether nobody said how it ended."""
        return self.closed is None

    @property
    def is_seen_by_server(self) -> bool:
        """Whether the aggregator may have seen the sum."""
        return self.closed is None or self.closed.outcome is not Outcome.VOID

    @property
    def is_used(self) -> bool:
        """Whether the sum may have gone into something that outsiders see."""
        return self.closed is None or self.closed.outcome is Outcome.USED

    @property
    def participants(self) -> tuple[DeviceId, ...]:
        """Devices whose answer is, or may be, in a sum that was seen."""
        if self.closed is None:
            return self.opened.cohort
        return self.closed.participants if self.is_seen_by_server else ()

    @property
    def dropouts(self) -> int:
        """Devices that were asked and are in no sum."""
        return len(self.opened.cohort) - len(self.participants)

    @property
    def quorum(self) -> int:
        """Fewest devices of which this sum may have been unmasked: the noise's plan, or without noise those who are in it."""
        noise = self.opened.noise
        if noise.mechanism != "none" and (self.closed is None or self.closed.outcome is Outcome.USED):
            return noise.noise_shares + noise.colluders
        return len(self.participants)

    @cached_property
    def multiplier(self) -> float:
        """Realised noise multiplier; 0 without noise."""
        noise = self.opened.noise
        if self.closed is None:
            return realised_multiplier(noise, noise.noise_shares + noise.colluders)
        return realised_multiplier(noise, len(self.closed.participants))

    @cached_property
    def cost(self) -> PrivacyCost:
        """What it costs each participant towards somebody who knows that it took part."""
        if not self.is_seen_by_server:
            return PrivacyCost(rho=0.0)
        if self.closed is None:
            return planned_cost(self.opened.noise)
        return round_cost(self.opened.noise, len(self.closed.participants))


class History:
    """All rounds of all families, in the order in which they were opened."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._rounds: dict[RoundId, HeldRound] = {}
        self._planned: dict[RunId, RunPlanned] = {}
        self._latest: dict[FamilyName, RunId] = {}
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """Take one more entry in; call `check` first for one that is not in the ledger yet."""
        match entry:
            case RunPlanned():
                self._planned[entry.run] = entry
                self._latest[entry.family] = entry.run
            case RoundOpened():
                self._rounds[entry.id] = HeldRound(opened=entry)
                self._latest[entry.family] = entry.id.run
            case RoundClosed():
                self._rounds[entry.id] = HeldRound(opened=self._rounds[entry.id].opened, closed=entry)

    def check(self, entry: Entry) -> None:
        """Refuse an entry that contradicts the history.

        Raises:
            LedgerError: an attempt opened twice, closed without being open, with participants who were not asked, or with none.
        """
        match entry:
            case RoundOpened():
                _check_opening(entry, self._rounds.get(entry.id))
            case RoundClosed():
                _check_closing(entry, self._rounds.get(entry.id))

    def latest_run(self, family: FamilyName) -> RunId | None:
        """The run that was last planned or asked something."""
        return self._latest.get(family)

    def planned(self, run: RunId) -> RunPlanned | None:
        """The plan under which a run was admitted, if it was."""
        return self._planned.get(run)

    def rounds(self, family: FamilyName) -> tuple[HeldRound, ...]:
        """Every attempt of a family, the oldest first."""
        return tuple(held for held in self._rounds.values() if held.opened.family == family)

    def families(self) -> tuple[FamilyName, ...]:
        """Families with at least one plan or round, sorted."""
        return tuple(sorted(self._latest))


def _check_opening(entry: RoundOpened, held: HeldRound | None) -> None:
    if held is not None:
        raise LedgerError(
            f"{entry.id} was opened before; a repeated round is a new attempt with fresh secrets, count it up"
        )
    if not entry.cohort or len(set(entry.cohort)) != len(entry.cohort):
        raise LedgerError(
            f"{entry.id} must name each device of its cohort once, at least one, got {len(entry.cohort)} names"
        )


def _check_closing(entry: RoundClosed, held: HeldRound | None) -> None:
    if held is None or held.closed is not None:
        raise LedgerError(
            f"{entry.id} {'was never opened' if held is None else 'is closed already'}; only an open round can be closed"
        )
    strangers = set(entry.participants) - set(held.opened.cohort)
    if strangers or len(set(entry.participants)) != len(entry.participants):
        raise LedgerError(
            f"{entry.id}: participants must be devices that were asked, each once; these were not: {sorted(strangers)[:5]}"
        )
    if (entry.outcome is Outcome.VOID) == bool(entry.participants):
        raise LedgerError(
            f"{entry.id} is {entry.outcome.name.lower()} with {len(entry.participants)} participants; used and withheld rounds name "
            "theirs, a void round has none"
        )
    noise = held.opened.noise
    fewest = noise.noise_shares + noise.colluders
    if entry.outcome is Outcome.USED and noise.mechanism != "none" and len(entry.participants) < fewest:
        raise LedgerError(
            f"{entry.id} has {len(entry.participants)} participants, its noise was planned for {fewest} or more: a sum with less noise is "
            "not used; close it as withheld and ask again with fresh secrets"
        )
