"""A `Link` in memory: takes what it is told to take, and says at once what became of it."""

from __future__ import annotations

from edge_agent.link import EventKey, Fate, Link, Message, Outcome


def publish(link: Link, topic: str, payload: bytes, *, retain: bool = False) -> bool:
    """Publish something whose fate nobody asks for."""
    return link.publish(Message(topic=topic, payload=payload), ("b1", 0), retain=retain)


class FakeLink:
    """Every message leaves and is taken by the broker, unless the test says otherwise."""

    def __init__(self) -> None:
        self.is_connected = True
        self.connections = 1
        self.bytes_sent = 0
        self.trouble = ""
        self.takes = True
        self.fates: tuple[Fate, ...] = (Fate.LEFT, Fate.TAKEN)
        self.sent: list[bytes] = []
        self.published: list[tuple[Message, EventKey, bool]] = []
        self.outcomes: list[Outcome] = []
        self.arrived: list[Message] = []

    def publish(self, message: Message, key: EventKey, *, retain: bool = False) -> bool:
        if not self.takes:
            return False
        self.sent.append(message.payload)
        self.published.append((message, key, retain))
        self.bytes_sent += len(message.payload)
        self.outcomes += [Outcome(fate=fate, keys=(key,)) for fate in self.fates]
        return True

    def take_outcomes(self) -> list[Outcome]:
        taken, self.outcomes = self.outcomes, []
        return taken

    def take_messages(self) -> list[Message]:
        taken, self.arrived = self.arrived, []
        return taken

    def close(self, timeout_s: float) -> None:
        self.is_connected = False
