"""The order of the fleet's words, which their counters give: what comes too late, and what leaps too far ahead.

A word that comes too late is one that a broker held back or brings again, or one of a fleet that has lost its count. The fleet
is told how far this device is: once, and again every hour, in case that fleet lost its memory once more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from protocol.messages.commands import CommandResult, outdated
from protocol.messages.kinds import Kind

__all__ = ["FARTHEST_LEAP", "LateWords"]

log: Final = logging.getLogger(__name__)

FARTHEST_LEAP: Final = 1 << 32
"""A counter so far above the last is no fleet's: they follow the clock in seconds, and this is 136 years. Who stole the fleet's
key could use all counters up with one word otherwise."""

TOLD_AGAIN_S: Final = 3600.0
"""As often as the fleet is asked for its words."""


class LateWords:
    """What the fleet hears of its words of one kind that come too late. One thread; `monotonic` in seconds."""

    def __init__(self, kind: Kind, *, monotonic: Callable[[], float]) -> None:
        self._kind, self._monotonic = kind, monotonic
        self._known, self._told_s = 0, float("-inf")

    def answer(self, counter: int, known: int) -> list[CommandResult]:
        """What is told of a word with `counter`, where `known` is the newest that was obeyed; nothing where that was said just now."""
        now_s = self._monotonic()
        if known == self._known and now_s - self._told_s < TOLD_AGAIN_S:
            return []
        self._known, self._told_s = known, now_s
        log.info("%s_outdated counter=%d known=%d", self._kind.value, counter, known)
        return [outdated(self._kind, counter, known)]
