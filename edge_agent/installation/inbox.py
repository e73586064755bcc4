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
        self._is_closed = False
        self._changed = threading.Condition()

    def put(self, event: Event) -> None:
        """Add an event; wakes the worker. A request takes the place of the one that waits, unless it is older."""
        with self._changed:
            if not isinstance(event, Asked):
                self._events.append(event)
            elif self._asked is None or event.desired.counter >= self._asked.desired.counter:
                self._asked = event
            self._changed.notify_all()

    def close(self) -> None:
        """Tell the worker to end as soon as what it does can be continued later."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def take(self, *, is_blocking: bool) -> Event | None:
        """The next event; None when closed, or when there is none and `is_blocking` is False."""
        with self._changed:
            while is_blocking and not (self._events or self._has_request()):
                self._changed.wait()
            if self._is_closed:
                return None
            if self._events:
                return self._events.popleft()
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
        return self._is_closed or self._asked is not None
