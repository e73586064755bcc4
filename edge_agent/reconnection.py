"""When to connect again, and what to say of a connection that does not hold.

A broker that cannot be reached costs a packet an attempt, and is tried every few seconds. One that lets a device in and then
hangs up costs a handshake each time, so it is left alone longer and longer; the count ends only with a connection that
lasted. Two devices of one name throw each other out: both grow slow, and both say so. Pure, but for the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from runtime.backoff import backoff_s

__all__ = ["Reconnection"]

log = logging.getLogger(__name__)

_FIRST_PAUSE_S: Final = 0.5
"""Before the second attempt, at most; doubles."""
_COSTLY: Final = 6
"""Longest pause after a connection that was made, in longest pauses of one that was not: half a minute by default."""
_LASTING: Final = 12
"""A connection has lasted after so many longest pauses: a minute by default."""
_MANY_DROPS: Final = 3
_MOST_REASONS_TOLD: Final = 8
"""Different complaints in the log of one outage; errors that never repeat must not fill it either."""


class Reconnection:
    """The pauses between connections, and the complaints about them; one thread writes, any may read `trouble`."""

    def __init__(self, url: str, name: str, *, maximum_s: float, draw: Callable[[], float]) -> None:
        self._url = url
        self._name = name
        self._maximum_s = maximum_s
        self._draw = draw
        self._failures = self._drops = 0
        self._told: set[str] = set()
        self._last = ""
        self._connected_s: float | None = None

    def connected(self, clock_s: float) -> None:
        """The broker let this device in."""
        self._connected_s = clock_s
        if self._is_news("connected"):
            log.info("broker_connected url=%s", self._url)

    def lost(self, reason: str) -> None:
        """The connection ended without a wish of ours."""
        self._last = f"the connection was lost: {reason}"
        if self._is_news(f"lost: {reason}"):
            log.warning(
                "broker_lost url=%s reason=%s: reconnecting; events wait in the outbox", self._url, reason
            )

    def complain(self, what: str) -> None:
        """Something is wrong; told once until a connection has lasted."""
        self._last = what
        if self._is_news(what):
            log.warning("broker_unreachable url=%s: %s The agent goes on and keeps trying.", self._url, what)

    def pause_s(self, clock_s: float, *, was_reached: bool) -> float:
        """How long to wait now that a connection ended; `was_reached` says that there was one, with or without a welcome."""
        if self._has_lasted(clock_s):
            self._failures = self._drops = 0
            self._told.clear()
        self._connected_s = None
        if was_reached:
            self._failures, self._drops = 0, self._drops + 1
        else:
            self._failures += 1
        return backoff_s(
            self._drops if was_reached else self._failures,
            first_s=_FIRST_PAUSE_S,
            maximum_s=self._maximum_s * (_COSTLY if was_reached else 1),
            draw=self._draw(),
        )

    def trouble(self, clock_s: float) -> str:
        """What is wrong with the connection at present; empty where it is made, and was not thrown out again and again."""
        if self._drops >= _MANY_DROPS and not self._has_lasted(clock_s):
            return (
                f"the last {self._drops} connections to the broker did not last ({self._last}); is this device enrolled and not"
                f" revoked, and does no other one use the name {self._name}?"
            )
        return "" if self._connected_s is not None else self._last

    def _has_lasted(self, clock_s: float) -> bool:
        return self._connected_s is not None and clock_s - self._connected_s >= _LASTING * self._maximum_s

    def _is_news(self, what: str) -> bool:
        """Whether this was not said since a connection last held: a week of trouble must not fill the log."""
        if what in self._told or len(self._told) >= _MOST_REASONS_TOLD:
            return False
        self._told.add(what)
        return True
