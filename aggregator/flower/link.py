"""The cohort link over Flower: devices become nodes, questions become messages, replies become vectors.

Implements `aggregator.rounds.cohort_link.CohortLink`. Everything that a reply can be (an error, no record, a record of another kind,
an array that does not parse) ends as a `DeviceReply` with a reason in words; nothing a device sends raises here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aggregator.flower.flower_internals import (
    Array,
    ArrayRecord,
    ConfigRecord,
    ErrorCode,
    Message,
    MetricRecord,
    RecordDict,
)
from aggregator.flower.grid import LocalGrid
from aggregator.flower.notifier import Notifier
from aggregator.flower.roster import Roster
from aggregator.rounds.cohort_link import DeviceReply, Ticket
from protocol.errors import QuestionError
from protocol.flat_vectors import decode_vector
from protocol.names import DeviceId
from protocol.questions import Question, encode_question, kind_of

__all__ = ["FlowerCohortLink", "as_array", "failure_of", "reported_seconds"]

GATHER_S: Final = 0.03
"""How long to wait for others after the first, before the replies are looked at."""

MAXIMUM_REASON_CHARS: Final = 300
"""A device's own words about its failure end up in logs and on a dashboard."""

_LOST_CODES: Final = {
    ErrorCode.NODE_UNAVAILABLE,
    ErrorCode.MESSAGE_UNAVAILABLE,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
}


class FlowerCohortLink:
    """Asks devices through one Flower run. One thread at a time.

    Args:
        grid: of a running Flower run.
        roster: device ↔ node.
        notifier: told when part of an answer is stored.
        pause: sleeps for some seconds.
    """

    def __init__(
        self,
        grid: LocalGrid,
        roster: Roster,
        notifier: Notifier,
        *,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._pause = pause
        self._grid, self._roster, self._notifier = grid, roster, notifier
        self._asked: dict[Ticket, DeviceId] = {}

    def ask(
        self,
        devices: Sequence[DeviceId],
        question: Question,
        arrays: Mapping[str, NDArray[np.float32]],
        *,
        lifetime_s: float,
    ) -> dict[Ticket, DeviceId]:
        """See `CohortLink.ask`."""
        content = RecordDict(
            {
                "question": ConfigRecord({"json": encode_question(question)}),
                "arrays": ArrayRecord({name: as_array(vector) for name, vector in arrays.items()}),
            }
        )
        kind = kind_of(question)
        reachable = [(d, n) for d in devices if (n := self._roster.node_of(d)) is not None]
        messages = [Message(content, node, kind, ttl=lifetime_s) for _, node in reachable]
        ids = self._grid.ask(messages)
        asked = {Ticket(i): device for i, (device, _) in zip(ids, reachable, strict=True) if i}
        self._asked.update(asked)
        return dict(asked)

    def replies(self, tickets: Collection[Ticket], *, wait_s: float) -> list[DeviceReply]:
        """See `CohortLink.replies`."""
        self._notifier.wait_for_answer(wait_s)
        # An answer may arrive in about seven requests, each of which wakes us: one look for all that come close together.
        self._pause(min(GATHER_S, wait_s))
        return self._take(tickets)

    def withdraw(self, tickets: Collection[Ticket]) -> None:
        """See `CohortLink.withdraw`."""
        self._grid.withdraw(tickets)
        for ticket in tickets:
            self._asked.pop(ticket, None)

    def _take(self, tickets: Collection[Ticket]) -> list[DeviceReply]:
        found = []
        for message in self._grid.take_replies(tickets):
            ticket = Ticket(message.metadata.reply_to_message_id)
            # A reply to something that was withdrawn meanwhile is late: dropped.
            if (device := self._asked.pop(ticket, None)) is not None:
                found.append(_read_reply(ticket, device, message))
        return found


def as_array(vector: NDArray[np.float32]) -> Array:
    """A vector as Flower carries it."""
    return Array(np.ascontiguousarray(vector, np.float32))


def _read_reply(ticket: Ticket, device: DeviceId, message: Message) -> DeviceReply:
    if message.has_error():
        words, is_lost = failure_of(message)
        return DeviceReply(ticket=ticket, device=device, failure=words, lost=is_lost)
    try:
        vector = decode_vector(message.content.array_records["answer"]["vector"].data)
    except (KeyError, QuestionError) as error:
        words = f"answer cannot be read: {_words(error)}"[:MAXIMUM_REASON_CHARS]
        return DeviceReply(ticket=ticket, device=device, failure=words)
    return DeviceReply(
        ticket=ticket,
        device=device,
        vector=vector,
        seconds_in_training=reported_seconds(message.content.metric_records),
    )


def failure_of(message: Message) -> tuple[str, bool]:
    """An error reply in words, and whether it means that the device is gone."""
    error = message.error
    return (error.reason or f"Flower error {error.code}")[:MAXIMUM_REASON_CHARS], error.code in _LOST_CODES


def _words(error: Exception) -> str:
    return f"array record 'answer' lacks {error}" if isinstance(error, KeyError) else str(error)


def reported_seconds(metrics: Mapping[str, MetricRecord]) -> float:
    """The device's own training time from the optional metric record "work"; 0 where it is absent or absurd."""
    value = metrics["work"].get("seconds", 0.0) if "work" in metrics else 0.0
    if isinstance(value, int | float) and np.isfinite(value) and value >= 0:
        return float(value)
    return 0.0
