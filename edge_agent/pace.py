"""How much may be sent now: freely while the fleet answers, a knock now and then while it does not.

A broker takes what it is given, whether or not a fleet listens behind it. So what counts is the fleet's word: while it
confirms, a window of events is under way and the next ones follow each answer. Once something was sent and nothing was
confirmed for `resend_s`, the fleet counts as **silent**, over all connections, until it confirms anything that was really sent::

    answering ──nothing confirmed for resend_s──► silent: a small event every 20 s (a knock), others at 48 B/s
        ▲                                            │
        └──────────── any confirmation ──────────────┘   then, if a knock had stayed unanswered, everything is due again

A day of silence costs some 500 KB an hour at most, and its end is noticed with the next knock. Pure; seconds are monotonic.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from edge_agent.link import EventKey
from edge_agent.settings import OutboxSettings

__all__ = ["KNOCK_BYTES", "Pace"]

KNOCK_BYTES: Final = 4096
"""The largest event that serves as a knock; a health message has 500 to 2000."""
WINDOW_BYTES: Final = 256 * 1024
"""Under way without a confirmation; a single event may always be."""
_KNOCK_EVERY_S: Final = 20.0
_KNOCK_BYTES_PER_S: Final = 80.0
"""A larger knock is followed by a longer pause: 290 KB an hour at most."""
_SILENT_BYTES_PER_S: Final = 48.0
"""Beside the knocks: 170 KB an hour of what was never sent, or is due again."""
_SILENT_BYTES: Final = 32 * 1024
"""What of it may be saved up; a larger event goes into debt."""


class Pace:
    """The window, the silence, and the two budgets of a silence."""

    def __init__(self, settings: OutboxSettings) -> None:
        self._settings = settings
        self._under_way: dict[EventKey, tuple[int, float]] = {}
        self._unheard_s: float | None = None
        self._knock_s, self._knocks = float("-inf"), 0
        self._saved_bytes, self._saved_s = float(_SILENT_BYTES), 0.0

    def is_silent(self, clock_s: float) -> bool:
        """Was something sent, and nothing confirmed since, for longer than an answer takes?"""
        return self._unheard_s is not None and self.silence_s(clock_s) >= self._settings.resend_s

    def silence_s(self, clock_s: float) -> float:
        """For how long nothing was confirmed since something was sent; 0 where nothing is open."""
        return 0.0 if self._unheard_s is None else max(0.0, clock_s - self._unheard_s)

    def room(self, clock_s: float) -> tuple[int, int]:
        """How many events, and bytes of them, may follow while the fleet answers; bytes below 1 mean none."""
        since_s = clock_s - self._settings.resend_s
        self._under_way = {key: found for key, found in self._under_way.items() if found[1] > since_s}
        under_way = sum(size for size, _ in self._under_way.values())
        return self._settings.in_flight - len(self._under_way), WINDOW_BYTES - under_way

    def may_knock(self, clock_s: float) -> bool:
        """Is it time for a knock?"""
        return clock_s >= self._knock_s

    def may_speak(self, clock_s: float) -> bool:
        """May anything else follow into the silence?"""
        self._saved_bytes = min(
            _SILENT_BYTES, self._saved_bytes + (clock_s - self._saved_s) * _SILENT_BYTES_PER_S
        )
        self._saved_s = clock_s
        return self._saved_bytes > 0

    def handed_over(self, key: EventKey, size: int, clock_s: float) -> None:
        """The link took an event."""
        if self.is_silent(clock_s):
            if size <= KNOCK_BYTES and self.may_knock(clock_s):
                self._knocks += 1
                self._knock_s = clock_s + max(_KNOCK_EVERY_S, size / _KNOCK_BYTES_PER_S)
            else:
                self._saved_bytes -= size
        self._under_way[key] = size, clock_s

    def left(self, clock_s: float) -> None:
        """An event left: from now on the fleet may be expected to say something."""
        if self._unheard_s is None:
            self._unheard_s = clock_s

    def unsent(self, key: EventKey) -> None:
        """An event did not leave after all."""
        self._under_way.pop(key, None)

    def confirmed(self, keys: Iterable[EventKey], clock_s: float) -> bool:
        """The fleet confirmed events that were sent; returns whether it was away before.

        A first knock that is answered shows that it was there all the time, and has no word for what was sent before.
        """
        was_away = self.is_silent(clock_s) and self._knocks > 1
        for key in keys:
            self._under_way.pop(key, None)
        self._unheard_s, self._knock_s, self._knocks = None, float("-inf"), 0
        return was_away
