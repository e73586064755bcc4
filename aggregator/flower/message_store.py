"""Questions on their way to devices and replies on their way back, in memory: the part of Flower's state that every message needs.

::

    grid ── post ──► MessageStore ── next_question ─► device
    grid ◄─ take ─── MessageStore ◄─ accept_reply ─── device

Flower keeps messages and their six objects each in SQLite, at some thirty statements a message; that was 0.14 s of processor time for
each device and stage, and a secure round has four stages. A question lives as long as its round, and a round does not
survive this process (its Flower run is finished at the next start, it is asked again from the last finished one). So nothing is lost by
keeping messages in memory; nodes, runs and heartbeats stay in Flower's database. A message travels whole, with its RecordDict
inside, in one request each way.

Invariants: a question is handed out once; a reply is taken only from the node that was asked, and once; what is withdrawn takes
no reply any more; a node may send as much as the largest of its open questions needs, and a few bytes where there is none.
Safe to use from several threads.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aggregator.flower.flower_internals import (
    Message,
    message_from_proto,
    message_to_proto,
)

__all__ = ["UNASKED_BYTES", "MessageStore"]

UNASKED_BYTES: Final = 16 * 1024
"""For a node that is asked nothing: a refusal that comes late, so that it hears that nobody waits for it."""


@dataclass(eq=False)
class _Question:
    message: Message
    reply_bytes: int
    is_delivered: bool = False
    reply: Any = None


class MessageStore:
    """Open questions and their replies."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, _Question] = {}
        self._waiting: dict[int, deque[str]] = {}
        self._sent_bytes: Counter[int] = Counter()
        self._received_bytes: Counter[int] = Counter()

    def post(self, messages: Sequence[Message], *, reply_bytes: int) -> None:
        """Leave messages, each with its id and addressee, for their nodes; no reply to them needs more than `reply_bytes`."""
        with self._lock:
            for message in messages:
                name, node = message.metadata.message_id, message.metadata.dst_node_id
                self._open[name] = _Question(message, reply_bytes)
                self._waiting.setdefault(node, deque()).append(name)

    def next_question(self, node_id: int) -> Any | None:
        """The oldest question that this node has not been given, as protobuf; None where there is none."""
        with self._lock:
            waiting = self._waiting.get(node_id, deque())
            while waiting:
                question = self._open.get(waiting.popleft())
                if question is not None and not question.is_delivered:
                    question.is_delivered = True
                    break
            else:
                return None
        # Written when it is asked for: a model for a thousand devices is never in memory a thousand times.
        written = message_to_proto(question.message)
        self._count(question.message.metadata.run_id, sent=written.ByteSize())
        return written

    def largest_reply(self, node_id: int) -> int:
        """Bytes of the longest reply that this node can have been asked for."""
        with self._lock:
            return max(
                (q.reply_bytes for q in self._open.values() if q.message.metadata.dst_node_id == node_id),
                default=UNASKED_BYTES,
            )

    def accept_reply(self, node_id: int, reply: Any, size: int) -> bool:
        """Take a reply from the node that was asked; False where nobody waits for it (any more).

        Args:
            node_id: who sends it, as signed for.
            reply: Flower's message as protobuf.
            size: bytes of the request.
        """
        with self._lock:
            question = self._open.get(reply.metadata.reply_to_message_id)
            if question is None or question.message.metadata.dst_node_id != node_id:
                return False
            if question.reply is None:
                question.reply = reply
        # The run is the one the question was asked in, whatever the reply says.
        self._count(question.message.metadata.run_id, received=size)
        return True

    def take_replies(self, question_ids: Collection[str]) -> list[Message]:
        """Replies to these questions, each once; their questions are closed."""
        with self._lock:
            found = [
                question.reply
                for name in question_ids
                if (question := self._open.get(name)) and question.reply is not None
            ]
            self._close([reply.metadata.reply_to_message_id for reply in found])
        return [_message(reply) for reply in found]

    def withdraw(self, question_ids: Collection[str]) -> list[Message]:
        """Close these questions; returns those that were open."""
        with self._lock:
            return self._close(question_ids)

    def addressees(self, question_ids: Collection[str]) -> dict[str, int]:
        """Node by question id, of those that are open and have no reply."""
        with self._lock:
            return {
                name: question.message.metadata.dst_node_id
                for name in question_ids
                if (question := self._open.get(name)) and question.reply is None
            }

    def traffic(self, run_id: int) -> tuple[int, int]:
        """Bytes (to devices, from devices) of a run so far."""
        with self._lock:
            return self._sent_bytes[run_id], self._received_bytes[run_id]

    def clear(self, run_id: int) -> None:
        """The run is over: nothing of it is open any more."""
        with self._lock:
            self._close([n for n, q in self._open.items() if q.message.metadata.run_id == run_id])

    def _close(self, question_ids: Collection[str]) -> list[Message]:
        closed = [self._open.pop(name) for name in question_ids if name in self._open]
        if not self._open:
            self._waiting.clear()
        return [question.message for question in closed]

    def _count(self, run_id: int, *, sent: int = 0, received: int = 0) -> None:
        with self._lock:
            self._sent_bytes[run_id] += sent
            self._received_bytes[run_id] += received


def _message(reply: Any) -> Message:
    """The reply with its content; without any where it does not parse, which is that device's doing."""
    try:
        return message_from_proto(reply)
    except Exception:  # noqa: BLE001 - a device's bytes: whatever they break, it is that device's reply that is void
        stub = type(reply)(metadata=reply.metadata)
        stub.content.SetInParent()
        return message_from_proto(stub)
