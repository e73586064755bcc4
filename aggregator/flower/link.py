"""The cohort link over Flower: devices become nodes, questions become messages, replies become vectors.

Implements `aggregator.rounds.cohort_link.CohortLink`. Everything that a reply can be (an error, no record, a record of another kind,
an array that does not parse) ends as a `DeviceReply` with a reason in words; nothing a device sends raises here.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import ClassVar, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from aggregator.flower.flower_internals import (
    Array,
    ArrayRecord,
    ConfigRecord,
    ErrorCode,
    Message,
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

__all__ = ["FlowerCohortLink", "FlowerLink", "question_records"]

Content = TypeVar("Content")

MAXIMUM_REASON_CHARS: Final = 300
"""A device's own words about its failure end up in logs and on a dashboard."""

ENVELOPE_BYTES: Final = 16 * 1024
"""Flower's names and numbers around an answer, or the words of a refusal; ours take one thousand."""

_LOST_CODES: Final = {
    ErrorCode.NODE_UNAVAILABLE,
    ErrorCode.MESSAGE_UNAVAILABLE,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
}


class FlowerLink(ABC, Generic[Content]):
    """What both links share: messages of a cohort go out through one Flower run, and what comes back is read. One thread at a time.

    Args:
        grid: of a running Flower run.
        roster: device ↔ node.
        notifier: told when part of an answer is stored.
        pause: sleeps for some seconds.
    """

    GATHER_S: ClassVar[float]
    """How long to wait for others after the first, before the replies are looked at."""

    def __init__(
        self,
        grid: LocalGrid,
        roster: Roster,
        notifier: Notifier,
        *,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._grid, self._roster, self._notifier, self._pause = grid, roster, notifier, pause
        self._asked: dict[Ticket, DeviceId] = {}

    def replies(self, tickets: Collection[Ticket], *, wait_s: float) -> list[DeviceReply[Content]]:
        """See `DeviceLink.replies`."""
        self._notifier.wait_for_answer(wait_s)
        # An answer may arrive in about seven requests, each of which wakes us: one look for all that come close together.
        self._pause(min(self.GATHER_S, wait_s))
        found = []
        for message in self._grid.take_replies(tickets):
            ticket = Ticket(message.metadata.reply_to_message_id)
            # A reply to something that was withdrawn meanwhile is late: dropped.
            if (device := self._asked.pop(ticket, None)) is not None:
                found.append(self._read_reply(ticket, device, message))
        return found

    def withdraw(self, tickets: Collection[Ticket]) -> None:
        """See `DeviceLink.withdraw`."""
        self._grid.withdraw(tickets)
        for ticket in tickets:
            self._asked.pop(ticket, None)

    def _post(
        self, contents: Mapping[DeviceId, RecordDict], kind: str, lifetime_s: float, reply_bytes: int
    ) -> dict[Ticket, DeviceId]:
        """Send each device that has a node its message of type `kind`; it answers within `reply_bytes`."""
        reachable = {d: node for d in contents if (node := self._roster.node_of(d)) is not None}
        messages = [Message(contents[d], node, kind, ttl=lifetime_s) for d, node in reachable.items()]
        asked = dict(
            zip(map(Ticket, self._grid.ask(messages, reply_bytes=reply_bytes)), reachable, strict=True)
        )
        self._asked.update(asked)
        return asked

    def _read_reply(self, ticket: Ticket, device: DeviceId, message: Message) -> DeviceReply[Content]:
        if message.has_error():
            error = message.error
            words = (error.reason or f"Flower error {error.code}")[:MAXIMUM_REASON_CHARS]
            return DeviceReply(ticket=ticket, device=device, failure=words, lost=error.code in _LOST_CODES)
        try:
            content = self._read(message.content)
        except QuestionError as error:
            return DeviceReply(ticket=ticket, device=device, failure=str(error)[:MAXIMUM_REASON_CHARS])
        return DeviceReply(
            ticket=ticket,
            device=device,
            content=content,
        )

    @abstractmethod
    def _read(self, records: RecordDict) -> Content:
        """What an answer says; raises QuestionError with the reason that the operator is told."""


class FlowerCohortLink(FlowerLink[NDArray[np.float32]]):
    """Implements `aggregator.rounds.cohort_link.CohortLink`."""

    GATHER_S = 0.03

    def ask(
        self,
        devices: Sequence[DeviceId],
        question: Question,
        arrays: Mapping[str, NDArray[np.float32]],
        *,
        lifetime_s: float,
        answer_size: int,
    ) -> dict[Ticket, DeviceId]:
        """See `CohortLink.ask`."""
        content = RecordDict({**question_records(encode_question(question), arrays)})
        reply_bytes = ENVELOPE_BYTES + 4 * answer_size
        return self._post(dict.fromkeys(devices, content), kind_of(question), lifetime_s, reply_bytes)

    def _read(self, records: RecordDict) -> NDArray[np.float32]:
        try:
            return decode_vector(records.array_records["answer"]["vector"].data)
        except KeyError as error:
            raise QuestionError(f"answer cannot be read: array record 'answer' lacks {error}") from None
        except QuestionError as error:
            raise QuestionError(f"answer cannot be read: {error}") from None


def question_records(
    question: str, arrays: Mapping[str, NDArray[np.float32]]
) -> dict[str, ConfigRecord | ArrayRecord]:
    """An encoded question and its vectors as Flower carries them."""
    vectors = {name: Array(np.ascontiguousarray(vector, np.float32)) for name, vector in arrays.items()}
    return {"question": ConfigRecord({"json": question}), "arrays": ArrayRecord(vectors)}
