"""Asks the fleet over HTTPS for its own word: what this device shall run, or what it shall do and be.

For firewalls that let no MQTT through, and once an hour in any case: a broker can hold a word back, and a sealed word says nothing
of those after it. One daemon thread a question, that sleeps most of its life; an unchanged answer costs some hundred
bytes (ETag). It believes nothing and decides nothing: a word is the fleet's by its seal, and news by its counter.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from edge_agent.errors import FleetAnswerError, FleetError
from edge_agent.fleet_client import FleetWord
from protocol.messages.envelope import Event

__all__ = ["CommandRoad", "FleetPoll"]

log = logging.getLogger(__name__)
T = TypeVar("T")

_NEVER_TAKEN: Final = frozenset({400, 404, 413, 422})
"""Answers to a result that will be the same next time: an older fleet, or one that reads it otherwise."""
AT_LEAST_EVERY_S: Final = 3600.0
"""A broker that delivers may hold a word back, or have lost it: it is an hour late then, and no more."""
_MOST_RESULTS: Final = 16
"""That wait to be told; as many commands may be outstanding."""


class FleetPoll(Generic[T]):
    """Polls every `every_s` seconds while `is_needed()`, and when it is told to; once an hour in any case."""

    def __init__(
        self,
        ask: Callable[[str], FleetWord[T]],
        *,
        name: str,
        every_s: float,
        is_needed: Callable[[], bool],
        wake: Callable[[], None],
    ) -> None:
        """Begin.

        Args:
            ask: takes the ETag of the last answer; may block for its own timeout.
            name: of the thread, and in the log.
            every_s: pause between two questions.
            is_needed: False while the broker delivers.
            wake: called when there is an answer.
        """
        self._ask, self._name = ask, name
        self._every_s = every_s
        self._is_needed = is_needed
        self._wake = wake
        self._etag = ""
        self._word: T | None = None
        self._complaint = ""
        self._ringing = threading.Event()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name=f"{name}-poll", daemon=True)
        self._thread.start()

    def take(self) -> T | None:
        """The newest word not taken yet."""
        word, self._word = self._word, None
        return word

    def forget(self) -> None:
        """What was taken is not believed: the next question is for the whole word, whether it has changed or not."""
        self._etag = ""

    def ask_soon(self) -> None:
        """Ask now, in its own thread."""
        self._ringing.set()

    def ask_once(self) -> None:
        """One question, in the caller's thread."""
        try:
            answer = self._ask(self._etag)
        except Exception as error:  # noqa: BLE001 - whatever an answer does to us, it is asked for again
            told = str(error) if isinstance(error, FleetError) else f"{type(error).__name__}: {error}"
            if told != self._complaint:
                log.warning("%s_not_asked error=%s", self._name, told)
            self._complaint = told
            return
        self._complaint = ""
        self._etag = answer.etag
        if answer.state is not None:
            self._word = answer.state
            self._wake()

    def close(self) -> None:
        """Ask no more; a question under way ends with its own timeout."""
        self._is_stopping = True
        self._ringing.set()

    def _run(self) -> None:
        unasked_s = 0.0
        while True:
            was_told = self._ringing.wait(self._every_s)
            self._ringing.clear()
            unasked_s += self._every_s
            if self._is_stopping:
                return
            if was_told or self._is_needed() or unasked_s >= AT_LEAST_EVERY_S:
                unasked_s = 0.0
                self.ask_once()


class CommandRoad(FleetPoll[Event]):
    """Commands and their results over HTTPS alone. A result that is told here lies in the outbox as well: hearing it twice changes nothing.

    Args:
        ask, every_s, is_needed, wake: as `FleetPoll`.
        send: `FleetClient.tell_result`; may block for its own timeout.
    """

    def __init__(
        self,
        ask: Callable[[str], FleetWord[Event]],
        *,
        send: Callable[[bytes], None],
        every_s: float,
        is_needed: Callable[[], bool],
        wake: Callable[[], None],
    ) -> None:
        self._send = send
        self._results: deque[bytes] = deque(maxlen=_MOST_RESULTS)
        super().__init__(ask, name="commands", every_s=every_s, is_needed=is_needed, wake=wake)

    def tell(self, message: bytes) -> None:
        """Say what became of a command soon, where no broker carries it; returns at once."""
        if self._is_needed():
            self._results.append(message)
            self.ask_soon()

    def ask_once(self) -> None:
        """See `FleetPoll.ask_once`; what is to be told goes first, and waits for the next time where it does not get through."""
        while self._results:
            try:
                self._send(self._results[0])
            except Exception as error:  # noqa: BLE001 - as in `FleetPoll.ask_once`
                log.info("result_not_told error=%s", error)
                if not (isinstance(error, FleetAnswerError) and error.status in _NEVER_TAKEN):
                    break
            self._results.popleft()
        super().ask_once()
