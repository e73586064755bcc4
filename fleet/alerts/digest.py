"""Many messages in one, for people: what piled up while a receiver was away, or came faster than it may be told."""

from __future__ import annotations

from collections.abc import Sequence

from fleet.alerts.messages import Message
from fleet.alerts.outbox import Event

__all__ = ["digest_lines"]


def digest_lines(messages: Sequence[Message]) -> list[str]:
    """A line a storm: what is still open first, the worst of it before all; a storm that began and is over is one line."""
    last = {message.dedup_key: message for message in messages}
    severities = list(type(messages[0].severity))
    ordered = sorted(
        last.values(),
        key=lambda one: (one.event is Event.RESOLVED, severities.index(one.severity), one.opened_at),
    )
    return [f"{one.severity}: {one.title[:300]}, {one.when}" for one in ordered]
