"""Asks the fleet over HTTPS what to run while MQTT does not work: for firewalls that let nothing else through.

One daemon thread that sleeps most of its life; an unchanged answer costs some hundred bytes (ETag). It decides
nothing: a state that also came over MQTT is recognised by its counter in the installer.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from edge_agent.errors import FleetError
from edge_agent.fleet_client import DesiredAnswer
from protocol.messages.payloads import DesiredState

__all__ = ["DesiredPoll"]

log = logging.getLogger(__name__)


class DesiredPoll:
    """Polls every `every_s` seconds while `is_needed()`."""

    def __init__(
        self,
        ask: Callable[[str], DesiredAnswer],
        *,
        every_s: float,
        is_needed: Callable[[], bool],
        wake: Callable[[], None],
    ) -> None:
        """Begin.

        Args:
            ask: `FleetClient.desired`; may block for its own timeout.
            every_s: pause between two questions.
            is_needed: False while the broker delivers desired states.
            wake: called when there is an answer.
        """
        self._ask = ask
        self._every_s = every_s
        self._is_needed = is_needed
        self._wake = wake
        self._etag = ""
        self._answer: DesiredState | None = None
        self._complaint = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="desired-poll", daemon=True)
        self._thread.start()

    def take(self) -> DesiredState | None:
        """The newest state not taken yet."""
        answer, self._answer = self._answer, None
        return answer

    def ask_once(self) -> None:
        """One question, in the caller's thread."""
        try:
            answer = self._ask(self._etag)
        except Exception as error:  # noqa: BLE001 - whatever an answer does to us, it is asked for again
            told = str(error) if isinstance(error, FleetError) else f"{type(error).__name__}: {error}"
            if told != self._complaint:
                log.warning("desired_not_asked error=%s", told)
            self._complaint = told
            return
        self._complaint = ""
        self._etag = answer.etag
        if answer.state is not None:
            self._answer = answer.state
            self._wake()

    def close(self) -> None:
        """Ask no more; a question under way ends with its own timeout."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            if self._is_needed():
                self.ask_once()
