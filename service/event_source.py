"""The messages that a cloud service sends by MQTT, numbered: a receiver tells a new one from one it had."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from protocol.messages.envelope import Event, encode
from protocol.messages.payloads import Payload

__all__ = ["EventSource"]


class EventSource:
    """Makes messages of one process; several threads may ask.

    Args:
        name: the service, e.g. ``fleet``.
        boot_id: of this process; numbers begin anew with each.
        now: Unix seconds.
    """

    def __init__(self, name: str, *, boot_id: str, now: Callable[[], float]) -> None:
        self._name, self._boot_id, self._now = name, boot_id, now
        self._sequences = count(1)

    def event(self, data: Payload) -> Event:
        """The next message."""
        return Event(
            source=self._name,
            boot_id=self._boot_id,
            sequence=next(self._sequences),
            time=self._now(),
            data=data,
        )

    def message(self, data: Payload) -> bytes:
        """The next message, as it goes over the wire."""
        return encode(self.event(data))
