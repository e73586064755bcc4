"""The objects of the question that is open in each run, in memory: twelve devices fetch the same six objects.

Flower reads each from the database with some twenty statements a time. What is on the shelf is answered from here; what
is not (another server's process put it there, a question from before) still comes from the database. The shelf holds copies, so
losing it loses nothing.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

__all__ = ["Shelf"]


class Shelf:
    """Object contents by run and object id. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._objects: dict[int, Mapping[str, bytes]] = {}
        self._served_bytes: Counter[int] = Counter()

    def fill(self, run_id: int, objects: Mapping[str, bytes]) -> None:
        """Make these the objects of the run's open question; the former question's go."""
        with self._lock:
            self._objects[run_id] = dict(objects)

    def clear(self, run_id: int) -> None:
        """The run is over."""
        with self._lock:
            self._objects.pop(run_id, None)
            self._served_bytes.pop(run_id, None)

    def take(self, run_id: int, object_id: str) -> bytes | None:
        """A copy of an object, counted as served; None where it is not on the shelf."""
        with self._lock:
            content = self._objects.get(run_id, {}).get(object_id)
            if content is not None:
                self._served_bytes[run_id] += len(content)
            return content

    def served_bytes(self, run_id: int) -> int:
        """How much went out from here for this run; Flower's own count does not see it."""
        with self._lock:
            return self._served_bytes[run_id]
