"""Questions on their way to devices and replies on their way back, in memory: the part of Flower's state that every message needs.

::

    grid ── post ──► MessageStore ── next_question, take_object ──► device
    grid ◄─ take ─── MessageStore ◄─ accept_reply, accept_object ── device

Flower keeps messages and their six objects each in SQLite, at some thirty statements a message; that was 0.14 s of processor time for
each device and stage, and a secure round has four stages. A question lives as long as its round, and a round does not
survive this process (its Flower run is finished at the next start, it is asked again from the last finished one). So nothing is lost by
keeping messages in memory; nodes, runs and heartbeats stay in Flower's database.

Two forms of one message. Whole: the RecordDict inside the Flower message, one request each way; for devices that
say so with `WHOLE_MESSAGES_HEADER`. In objects: Flower's own tree of content-addressed parts, for everybody else (a stock SuperNode).

Invariants: a question is handed out once; a reply is taken only from the node that was asked, once, and when it is complete;
what is withdrawn takes no reply any more; a reply never holds more than `MAXIMUM_OBJECTS` parts or `maximum_bytes`.
Safe to use from several threads.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aggregator.flower.flower_internals import (
    Message,
    PullMessagesResponse,
    PushMessagesResponse,
    get_all_nested_objects,
    get_object_tree,
    inflate_object_from_contents,
    iterate_object_tree,
    message_from_proto,
    message_to_proto,
    no_object_id_recompute,
    remove_content_from_message,
    replace_metadata,
)

__all__ = ["MessageStore"]

MAXIMUM_OBJECTS: Final = 64
"""Parts of one reply; an answer has six."""


@dataclass(eq=False)
class _Question:
    message: Message
    is_delivered: bool = False
    reply: _Reply | None = None


@dataclass(eq=False)
class _Reply:
    """A reply on its way; complete when `missing` is empty."""

    stub: Any
    missing: set[str] = field(default_factory=set)
    contents: dict[str, bytes] = field(default_factory=dict)
    size: int = 0

    def message(self) -> Message:
        """The reply with its content; without any where it does not parse, which is that device's doing."""
        try:
            reply = message_from_proto(self.stub)
            if self.contents:
                whole = inflate_object_from_contents(self.stub.metadata.message_id, self.contents)
                if isinstance(whole, Message):
                    # What the device wrote into the object is its word; who is answered was checked on the stub.
                    return replace_metadata(whole, reply.metadata)
        except Exception:  # noqa: BLE001 - a device's bytes: whatever they break, it is that device's reply that is void
            stub = type(self.stub)(metadata=self.stub.metadata)
            stub.content.SetInParent()
            return message_from_proto(stub)
        return reply


class MessageStore:
    """Open questions and their replies.

    Args:
        maximum_bytes: of one reply, all its parts together.
    """

    def __init__(self, maximum_bytes: int) -> None:
        self._maximum_bytes = maximum_bytes
        self._lock = threading.Lock()
        self._open: dict[str, _Question] = {}
        self._waiting: dict[int, deque[str]] = {}
        self._objects: dict[tuple[int, str], bytes] = {}
        self._sent_bytes: Counter[int] = Counter()
        self._received_bytes: Counter[int] = Counter()

    def post(self, messages: Sequence[Message]) -> None:
        """Leave messages, each with its id and addressee, for their nodes."""
        with self._lock:
            for message in messages:
                name, node = message.metadata.message_id, message.metadata.dst_node_id
                self._open[name] = _Question(message)
                self._waiting.setdefault(node, deque()).append(name)

    def next_question(self, node_id: int, *, is_whole: bool) -> PullMessagesResponse:
        """The oldest question that this node has not been given, in the form it understands; empty where there is none."""
        with self._lock:
            waiting = self._waiting.get(node_id, deque())
            while waiting:
                question = self._open.get(waiting.popleft())
                if question is not None and not question.is_delivered:
                    question.is_delivered = True
                    break
            else:
                return PullMessagesResponse()
        # Written when it is asked for: a model for a thousand devices is never in memory a thousand times.
        response = (
            PullMessagesResponse(messages_list=[message_to_proto(question.message)])
            if is_whole
            else self._in_objects(question)
        )
        self._count(question.message.metadata.run_id, sent=response.ByteSize())
        return response

    def take_object(self, run_id: int, object_id: str) -> bytes | None:
        """A part of a question that was given out in objects; None where there is no such part (any more)."""
        with self._lock:
            content = self._objects.get((run_id, object_id))
        if content is not None:
            self._count(run_id, sent=len(content))
        return content

    def accept_reply(self, node_id: int, stub: Any, trees: Sequence[Any], size: int) -> PushMessagesResponse:
        """Take a reply, or its announcement, from the node that was asked.

        Args:
            node_id: who sends it, as signed for.
            stub: Flower's message: whole where there are no `trees`.
            trees: of the reply's objects, at most one.
            size: bytes of the request.

        Returns:
            What Flower answers: the objects still to be sent. A reply to nothing that is open is answered alike and dropped.
        """
        name = stub.metadata.reply_to_message_id
        reply = _Reply(stub)
        if trees and not stub.HasField("error"):
            reply.missing = {node.object_id for node in iterate_object_tree(trees[0])}
        response = PushMessagesResponse(results={stub.metadata.message_id: 0})
        with self._lock:
            question = self._open.get(name)
            is_asked = question is not None and question.message.metadata.dst_node_id == node_id
            if not is_asked or question is None or len(reply.missing) > MAXIMUM_OBJECTS:
                return response
            if question.reply is None or question.reply.missing:
                question.reply = reply
            # The run is the one the question was asked in, whatever the reply says.
            response.session_id = name
            response.objects_to_push.extend(sorted(question.reply.missing))
        self._count(question.message.metadata.run_id, received=size)
        return response

    def accept_object(self, node_id: int, question_id: str, object_id: str, content: bytes) -> bool:
        """Take one object of an announced reply; False where nobody waits for it."""
        with self._lock:
            question = self._open.get(question_id)
            if question is None or question.reply is None:
                return False
            reply = question.reply
            if question.message.metadata.dst_node_id != node_id or object_id not in reply.missing:
                return False
            if reply.size + len(content) > self._maximum_bytes:
                return False
            reply.contents[object_id] = content
            reply.size += len(content)
            reply.missing.discard(object_id)
        self._count(question.message.metadata.run_id, received=len(content))
        return True

    def take_replies(self, question_ids: Collection[str]) -> list[Message]:
        """Complete replies to these questions, each once; their questions are closed."""
        with self._lock:
            found = [
                question.reply
                for name in question_ids
                if (question := self._open.get(name)) and question.reply and not question.reply.missing
            ]
            self._close([reply.stub.metadata.reply_to_message_id for reply in found])
        return [reply.message() for reply in found]

    def withdraw(self, question_ids: Collection[str]) -> list[Message]:
        """Close these questions; returns those that were open."""
        with self._lock:
            return self._close(question_ids)

    def addressees(self, question_ids: Collection[str]) -> dict[str, int]:
        """Node by question id, of those that are open and have no complete reply."""
        with self._lock:
            return {
                name: question.message.metadata.dst_node_id
                for name in question_ids
                if (question := self._open.get(name)) and (question.reply is None or question.reply.missing)
            }

    def traffic(self, run_id: int) -> tuple[int, int]:
        """Bytes (to devices, from devices) of a run so far."""
        with self._lock:
            return self._sent_bytes[run_id], self._received_bytes[run_id]

    def clear(self, run_id: int) -> None:
        """The run is over: nothing of it is open any more."""
        with self._lock:
            self._close([n for n, q in self._open.items() if q.message.metadata.run_id == run_id])
            self._objects = {key: value for key, value in self._objects.items() if key[0] != run_id}

    def _close(self, question_ids: Collection[str]) -> list[Message]:
        closed = [self._open.pop(name) for name in question_ids if name in self._open]
        if not self._open:
            self._objects.clear()
            self._waiting.clear()
        return [question.message for question in closed]

    def _count(self, run_id: int, *, sent: int = 0, received: int = 0) -> None:
        with self._lock:
            self._sent_bytes[run_id] += sent
            self._received_bytes[run_id] += received

    def _in_objects(self, question: _Question) -> PullMessagesResponse:
        message = question.message
        with no_object_id_recompute():
            tree = get_object_tree(message)
            parts = get_all_nested_objects(message)
        with self._lock:
            for object_id, part in parts.items():
                key = (message.metadata.run_id, object_id)
                if key not in self._objects:
                    self._objects[key] = part.deflate()
        stub = message_to_proto(remove_content_from_message(message))
        return PullMessagesResponse(messages_list=[stub], message_object_trees=[tree])
