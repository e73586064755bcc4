"""Which word of the fleet is obeyed next: its own, asked over HTTPS; the broker's only where the fleet cannot be asked.

::

    broker: Commands ─► older than what was obeyed, or leaping? ─► none
                └─► not too many ─┬─ no fleet to ask ───────────────────────────► this word
                                  └─ ask the fleet ─┬─ it answers ──► its own word, whatever the broker said
                                                    └─ it does not ─► this word, within the device's bounds

A broker can be wrong, old or hostile; the fleet's answer over TLS under the pinned CA is its own and of this moment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from edge_agent.remote.allowance import Allowance
from protocol.messages.commands import CommandResult, Commands

__all__ = ["MAX_LEAP", "Hearing", "OwnWord"]

log: Final = logging.getLogger(__name__)

MAX_LEAP: Final = 1 << 32
"""A counter so far above the last is no fleet's: they follow the clock in seconds, and this is 136 years."""


class OwnWord(Protocol):
    """The fleet's own word, asked over HTTPS under the pinned CA: `edge_agent.fleet_poll.FleetPoll` is one."""

    answers: int
    """How often the fleet answered, unchanged or not."""
    failures: int
    """How often it did not."""

    def ask_soon(self) -> None:
        """Ask now; returns at once."""

    def take(self) -> Commands | None:
        """The newest word not taken yet."""

    def tell(self, result: CommandResult) -> None:
        """Say what became of a command where no broker carries it; returns at once."""


@dataclass(frozen=True, kw_only=True)
class _Hint:
    """A word of the broker, and how often the fleet had answered, or not, when it was asked whether it is its own."""

    word: Commands
    answers: int
    failures: int


class Hearing:
    """One thread, the loop's.

    Args:
        own: where the fleet can be asked; None: the broker's word is all there is.
        monotonic: seconds.
    """

    def __init__(self, own: OwnWord | None, *, monotonic: Callable[[], float]) -> None:
        self._own = own
        self._allowance = Allowance(burst=20, every_s=5.0, monotonic=monotonic)
        self._heard: Commands | None = None
        self._hint: _Hint | None = None
        self._last_own: Commands | None = None

    def hear(self, messages: Sequence[Commands], known: int) -> None:
        """Take what the broker brought; the newest word counts. `known` is the counter that was obeyed last."""
        for message in messages:
            if message.counter < known:
                log.info("commands_outdated counter=%d known=%d", message.counter, known)
            elif message.counter - known > MAX_LEAP:
                log.warning(
                    "commands_refused counter=%d known=%d: no fleet counts so far ahead",
                    message.counter,
                    known,
                )
            elif self._heard is None or message.counter >= self._heard.counter:
                self._heard = message

    def tell(self, results: Sequence[CommandResult]) -> None:
        """These go into the outbox; where no broker carries it, the fleet is told over HTTPS."""
        if self._own is not None:
            for result in results:
                self._own.tell(result)

    def next_word(self, known: int) -> Commands | None:
        """The word to obey now, if there is one; `known` as above."""
        own = self._own
        if own is None:
            return self._take_heard()
        if (word := own.take()) is not None:
            self._last_own = word
            if self._hint is not None and self._hint.word.counter > word.counter:
                log.warning("commands_forged counter=%d fleet=%d", self._hint.word.counter, word.counter)
            self._hint = None
            return word if word.counter >= known else None
        if self._hint is not None:
            return self._settle(self._hint, own)
        if (heard := self._take_heard()) is not None:
            self._hint = _Hint(word=heard, answers=own.answers, failures=own.failures)
            own.ask_soon()
        return None

    def _settle(self, hint: _Hint, own: OwnWord) -> Commands | None:
        if own.answers > hint.answers:  # it has said nothing new: what it said before holds
            self._hint = None
            return self._last_own
        if own.failures > hint.failures:
            self._hint = None
            return hint.word
        return None

    def _take_heard(self) -> Commands | None:
        # Who speaks without end is not heard without end: each word may cost a write.
        if self._heard is None or not self._allowance.take():
            return None
        heard, self._heard = self._heard, None
        return heard
