"""Which word of the fleet is obeyed next: the newest by its counter, not too often, and none that leaps.

What arrives here is the fleet's own by its seal (`edge_agent.fleet_words`), whatever road it came. So an old word is one that a broker
held back or brings again, or one of a fleet that has lost its count: the fleet is told once how far this device is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from edge_agent.allowance import Allowance
from protocol.messages.commands import CommandResult, Commands, outdated
from protocol.messages.kinds import Kind

__all__ = ["MAX_LEAP", "Hearing"]

log: Final = logging.getLogger(__name__)

MAX_LEAP: Final = 1 << 32
"""A counter so far above the last is no fleet's: they follow the clock in seconds, and this is 136 years. Who stole the fleet's
key could use all counters up with one word otherwise."""


class Hearing:
    """One thread, the loop's; `monotonic` in seconds."""

    def __init__(self, *, monotonic: Callable[[], float]) -> None:
        self._allowance = Allowance(burst=20, every_s=5.0, monotonic=monotonic)
        self._heard: Commands | None = None
        self._told = 0

    def hear(self, messages: Sequence[Commands], known: int) -> list[CommandResult]:
        """Take what arrived; the newest word counts. `known` is the counter that was obeyed last; returns what the fleet is told."""
        told: list[CommandResult] = []
        for message in messages:
            if message.counter < known:
                if self._told != known:
                    log.info("commands_outdated counter=%d known=%d", message.counter, known)
                    self._told = known
                    told.append(outdated(Kind.COMMANDS, message.counter, known))
            elif message.counter - known > MAX_LEAP:
                log.warning(
                    "commands_refused counter=%d known=%d: no fleet counts so far ahead",
                    message.counter,
                    known,
                )
            elif self._heard is None or message.counter >= self._heard.counter:
                self._heard = message
        return told

    def next_word(self) -> Commands | None:
        """The word to obey now, if there is one."""
        # Who speaks without end is not heard without end: each word may cost a write.
        if self._heard is None or not self._allowance.take():
            return None
        heard, self._heard = self._heard, None
        return heard
