"""What the agent asks of a road to the fleet: a port, so that a test can put its own behind it.

It moves bytes and knows topics; what the bytes mean is the caller's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Link", "Message"]


@dataclass(frozen=True, kw_only=True)
class Message:
    """A topic and what is said there: as it came (not decoded, not trusted), or as the broker shall say it."""

    topic: str
    payload: bytes


class Link(Protocol):
    """What the agent asks of a road to the fleet. Every call returns at once."""

    @property
    def is_connected(self) -> bool:
        """Is a publish worth trying?"""

    @property
    def connections(self) -> int:
        """How often it has connected; a change means that everything unacknowledged must be sent again."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Hand one message over; False where the link did not take it."""

    def take_messages(self) -> list[Message]:
        """What arrived since the last call, oldest first."""

    def close(self, timeout_s: float) -> None:
        """Give what was published last up to `timeout_s` to leave, then disconnect cleanly (no will)."""
