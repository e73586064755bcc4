"""What the agent asks of a road to the fleet: a port, so that a test can put its own behind it.

It moves bytes and knows topics; what the bytes mean is the caller's business. What became of each message is told by the
key that the caller gave it, so that nothing is sent twice over a connection that still has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

__all__ = ["EventKey", "Fate", "Link", "Message", "Outcome"]

EventKey = tuple[str, int]
"""The boot and the sequence of an event."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """A topic and what is said there: as it came (not decoded, not trusted), or as the broker shall say it."""

    topic: str
    payload: bytes


class Fate(StrEnum):
    """What became of a message that the link took."""

    LEFT = "left"  # it is being written; the connection has it until one of the next three
    TAKEN = "taken"  # the broker acknowledged it
    LOST = "lost"  # the connection ended before the broker had acknowledged it
    UNSENT = "unsent"  # the connection ended before it left, or for a reason that is not the message's


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of these messages; those of one LOST were under way together when one connection ended."""

    fate: Fate
    keys: tuple[EventKey, ...]


class Link(Protocol):
    """What the agent asks of a road to the fleet. Every call returns at once."""

    @property
    def is_connected(self) -> bool:
        """Is a publish worth trying?"""

    @property
    def connections(self) -> int:
        """How often it has connected."""

    @property
    def bytes_sent(self) -> int:
        """What left this device for the broker since the start, pings and greetings too; before encryption."""

    @property
    def trouble(self) -> str:
        """What is wrong with the connection, in a sentence for people; empty while it holds."""

    def publish(self, message: Message, key: EventKey, *, retain: bool = False) -> bool:
        """Hand one message over; False where the link did not take it."""

    def take_outcomes(self) -> list[Outcome]:
        """What became of messages since the last call, in the order in which it happened."""

    def take_messages(self) -> list[Message]:
        """What arrived since the last call, oldest first."""

    def close(self, timeout_s: float) -> None:
        """Give what was published last up to `timeout_s` to leave, then disconnect cleanly (no will)."""
