"""What waits for the installer's worker: events from the loop, and the pauses that they cut short.

The only meeting point of the two threads; first in, first out. Of requests for a release only the newest waits: it says what
shall be, and the ones before it do not matter any more.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable

from edge_agent.installation.events import Asked, Event

__all__ = ["Inbox"]


class Inbox:
    """A queue of events that doubles as the worker's patience (`edge_agent.installation.download.Patience`).

    Args:
        clock: monotonic seconds.
        jitter: random in [0, 1).
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,  # only spreads retries
    ) -> None:
        self.now, self.jitter = clock, jitter
        self._events: deque[Event] = deque()
        self._asked: Asked | None = None
        self._held_until_s = float("-inf")
        self._is_closed = False
        self._changed = threading.Condition()

    def put(self, event: Event) -> None:
        """Add an event; wakes the worker. A request takes the place of the one that waits, unless that is the fleet's own word."""
        with self._changed:
            if not isinstance(event, Asked):
                self._events.append(event)
            elif self._asked is None or event.is_confirmed or not self._asked.is_confirmed:
                self._asked = event
            self._changed.notify_all()

    def hold(self, seconds: float) -> None:
        """Let requests wait for so long, but those that the fleet itself confirmed."""
        with self._changed:
            self._held_until_s = self.now() + seconds

    def close(self) -> None:
        """Tell the worker to end as soon as what it does can be continued later."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def take(self, *, is_blocking: bool) -> Event | None:
        """The next event; None when closed, or when there is none and `is_blocking` is False."""
        with self._changed:
            while is_blocking and not (self._is_closed or self._events or self._is_asked()):
                waits = self._asked is not None
                self._changed.wait(max(0.0, self._held_until_s - self.now()) if waits else None)
            if self._is_closed:
                return None
            if self._events:
                return self._events.popleft()
            if not self._is_asked():
                return None
            request, self._asked = self._asked, None
            return request

    def wait(self, seconds: float) -> None:
        """Pause, but not beyond a new request or the end."""
        with self._changed:
            self._changed.wait_for(self._has_request, timeout=seconds)

    def is_interrupted(self) -> bool:
        """Whether a request waits, or the end was called for."""
        with self._changed:
            return self._has_request()

    def _has_request(self) -> bool:
        return self._is_closed or self._is_asked()

    def _is_asked(self) -> bool:
        asked = self._asked
        return asked is not None and (asked.is_confirmed or self.now() >= self._held_until_s)
