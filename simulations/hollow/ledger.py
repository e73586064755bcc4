"""What a crowd did and what became of it, counted as it happens; nothing here is estimated."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from protocol.messages.kinds import Kind

__all__ = ["Ledger", "Notice", "percentile"]


@dataclass(frozen=True, slots=True)
class Notice:
    """A device was told what to run, or runs it: when (Unix seconds), which release and counter."""

    device: str
    at: float
    release: str
    counter: int


@dataclass(kw_only=True)
class Ledger:
    """One for a crowd.

    sent: events by kind, each once however often it had to be sent.
    acked: those that the fleet has acknowledged.
    resent: times that one was sent again.
    ack_s: from the first sending to the acknowledgement, seconds, of each that needed no second one.
    refused: events that the fleet keeps as dead letters.
    unknown_acks: acknowledgements of what was never sent; a fleet that is right sends none.
    forged: words without the fleet's seal, and `late` ones that were older than one that was obeyed.
    notices: desired states that were obeyed, and `installed` what came of those that succeeded; `ended` installations by status.
    answered: commands.
    connects, losses: of sessions; `refusals` of attempts.
    behind_s: how late this machine was with what was due, at worst.
    """

    sent: Counter[Kind] = field(default_factory=Counter)
    acked: int = 0
    resent: int = 0
    ack_s: array[float] = field(default_factory=lambda: array("f"))
    refused: int = 0
    unknown_acks: int = 0
    forged: int = 0
    late: int = 0
    notices: list[Notice] = field(default_factory=list)
    installed: list[Notice] = field(default_factory=list)
    ended: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    connects: int = 0
    losses: int = 0
    refusals: int = 0
    behind_s: float = 0.0

    @property
    def total(self) -> int:
        """Events in all."""
        return self.sent.total()

    @property
    def waiting(self) -> int:
        """Events that neither were acknowledged nor refused."""
        return self.total - self.acked - self.refused


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie; NaN of none.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.95)
    4.0
    """
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
