"""Which event ends connections: told by sending one at a time once a connection ended with events under way.

Any network may end a connection in the middle of an event. So one is guilty only if connections ended three times with
nothing but it under way, while others got through in between. Pure; the caller sends, and says what became of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from edge_agent.link import EventKey

__all__ = ["Suspects"]

STRIKES: Final = 3
_MOST: Final = 256


class Suspects:
    """Events that were under way when a connection ended, until the broker has taken them."""

    def __init__(self) -> None:
        self._strikes: dict[EventKey, int] = {}
        self._others_got_through: set[EventKey] = set()

    def __contains__(self, key: EventKey) -> bool:
        """Was this event under way when a connection ended, and not taken since?"""
        return key in self._strikes

    def __len__(self) -> int:
        """While there are any, one event at a time is sent."""
        return len(self._strikes)

    def keys(self) -> list[EventKey]:
        """All of them."""
        return list(self._strikes)

    def strikes(self, key: EventKey) -> int:
        """How often it was alone under way when a connection ended."""
        return self._strikes.get(key, 0)

    def lost(self, keys: Sequence[EventKey]) -> EventKey | None:
        """A connection ended with these under way; returns the event that is to blame, once it is certain."""
        for key in keys:
            if len(self._strikes) < _MOST:
                self._strikes.setdefault(key, 0)
        if len(keys) != 1 or keys[0] not in self._strikes:
            return None
        culprit = keys[0]
        self._strikes[culprit] += 1
        is_certain = self._strikes[culprit] >= STRIKES and culprit in self._others_got_through
        return culprit if is_certain else None

    def taken(self, key: EventKey) -> None:
        """The broker has taken an event, so it ends no connections; others that do are all the more suspect."""
        self.forget(key)
        self._others_got_through.update(other for other, strikes in self._strikes.items() if strikes)

    def forget(self, key: EventKey) -> None:
        """The event is gone, or is another one now."""
        self._strikes.pop(key, None)
        self._others_got_through.discard(key)
