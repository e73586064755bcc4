"""Which word of the fleet is obeyed next: the newest by its counter, not too often, and none that leaps.

What arrives here is the fleet's own by its seal (`edge_agent.fleet_words`), whatever road it came.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from edge_agent.allowance import Allowance
from edge_agent.word_order import FARTHEST_LEAP, LateWords
from protocol.messages.commands import CommandResult, Commands
from protocol.messages.kinds import Kind

__all__ = ["Hearing"]

log: Final = logging.getLogger(__name__)


class Hearing:
    """One thread, the loop's; `monotonic` in seconds."""

    def __init__(self, *, monotonic: Callable[[], float]) -> None:
        self._allowance = Allowance(burst=20, every_s=5.0, monotonic=monotonic)
        self._heard: Commands | None = None
        self._late = LateWords(Kind.COMMANDS, monotonic=monotonic)

    def hear(self, messages: Sequence[Commands], known: int) -> list[CommandResult]:
        """Take what arrived; the newest word counts. `known` is the counter that was obeyed last; returns what the fleet is told."""
        told: list[CommandResult] = []
        for message in messages:
            if message.counter < known:
                told += self._late.answer(message.counter, known)
            elif message.counter - known > FARTHEST_LEAP:
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
