"""A Flower Grid straight over the server's own database: no Runtime API, no token, no HTTP in between.

`ask` and `take_replies` are what `link` uses. The rest makes it a complete `flwr.serverapp.Grid`, so that a stock
strategy (`flwr.serverapp.strategy`) can run over it too.

Invariants: a message is visible to a device only when all its objects are stored; a reply is handed out once, when all
its objects have arrived; what was handed out or withdrawn is deleted.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from aggregator.errors import FlowerRunEndedError
from aggregator.flower.doorbell import Doorbell
from aggregator.flower.shelf import Shelf
from aggregator.flower.upstream import (
    SUPERLINK_NODE_ID,
    Grid,
    Message,
    NoObjectInStoreError,
    RecordDict,
    Run,
    SqlLinkState,
    TaskIdentity,
    get_all_nested_objects,
    get_object_tree,
    inflate_object_from_contents,
    iterate_object_tree,
    no_object_id_recompute,
    remove_content_from_message,
)

__all__ = ["LinkStateGrid"]


class LinkStateGrid(Grid):
    """Asks nodes and hears their replies within one Flower run. One thread at a time.

    Args:
        state: the server's database.
        run: a running Flower run.
        doorbell: tells waiting nodes of a question, and this grid of an answer.
        shelf: gets a copy of the open question's objects.
    """

    def __init__(self, state: SqlLinkState, run: Run, doorbell: Doorbell, shelf: Shelf) -> None:
        self._state, self._run, self._doorbell, self._shelf = state, run, doorbell, shelf
        self._arriving: dict[str, _Arrival] = {}
        # The Message constructor insists on a process-wide identity; each message gets its run's own in `ask`.
        TaskIdentity.run_id, TaskIdentity.node_id = run.run_id, SUPERLINK_NODE_ID
        TaskIdentity.task_id = run.primary_task_id or 0

    def ask(self, messages: Sequence[Message]) -> list[str]:
        """Store messages for their nodes; returns message ids in order, '' for one that was not accepted.

        Raises:
            FlowerRunEndedError: the run takes no messages any more.
        """
        if not self.is_open():
            raise FlowerRunEndedError(
                f"Flower run {self._run.run_id} has ended (finished, or its heartbeat ran out); start another"
            )
        contents: dict[str, bytes] = {}
        # One transaction for all devices: a quarter less processor time a round with twelve of them.
        with no_object_id_recompute(), self._state.session():
            ids = [self._store(message, contents) for message in messages]
        self._shelf.fill(self._run.run_id, contents)
        self._doorbell.ring_nodes(m.metadata.dst_node_id for m, i in zip(messages, ids, strict=True) if i)
        return ids

    def take_replies(self, message_ids: Collection[str]) -> list[Message]:
        """Replies to these messages whose objects are all here, each once; also Flower's own error replies."""
        for stub in self._state.get_message_res(message_ids=set(message_ids), run_id=self._run.run_id):
            self._arriving[stub.metadata.message_id] = _Arrival(stub)
        complete = []
        with self._state.session():
            for reply_id, arrival in list(self._arriving.items()):
                if self._fetch(arrival):
                    del self._arriving[reply_id]
                    self._forget(arrival.stub.metadata.reply_to_message_id, reply_id)
                    complete.append(arrival)
        return [arrival.reply() for arrival in complete]

    def withdraw(self, message_ids: Collection[str]) -> None:
        """Delete these questions and half-arrived replies to them; later replies are refused by the database."""
        for reply_id, arrival in list(self._arriving.items()):
            if arrival.stub.metadata.reply_to_message_id in message_ids:
                del self._arriving[reply_id]
                self._state.object_store.delete(reply_id)
        for message_id in message_ids:
            self._forget(message_id)

    def is_open(self) -> bool:
        """Whether the run still takes messages."""
        status = self._state.get_run_status({self._run.run_id}).get(self._run.run_id)
        return status is not None and status.status == "running"

    def _store(self, message: Message, contents: dict[str, bytes]) -> str:
        # Identity first: the message's id is a hash over it.
        message.metadata.__dict__.update(
            _run_id=self._run.run_id, _src_node_id=SUPERLINK_NODE_ID, _src_task_id=self._run.primary_task_id
        )
        message.metadata.__dict__["_message_id"] = message.object_id
        run_id = self._run.run_id
        session = self._state.start_session(run_id)
        objects = get_all_nested_objects(message)
        stored, missing = self._state.store_message_and_object_tree(
            remove_content_from_message(message), get_object_tree(message), session
        )
        for object_id, part in objects.items():
            if object_id not in contents:
                contents[object_id] = part.deflate()
        for object_id in missing:
            self._state.store_object(run_id, session, object_id, contents[object_id])
        return message.metadata.message_id if stored else ""

    def _fetch(self, arrival: _Arrival) -> bool:
        """Take what has arrived since the last look; True when there is nothing left to wait for."""
        if arrival.missing is None:
            try:
                tree = self._state.object_store.get_object_tree(arrival.stub.metadata.message_id)
            except NoObjectInStoreError:
                return True
            arrival.missing = [node.object_id for node in iterate_object_tree(tree)]
        # Devices send an answer's objects in any order; the first one that is not here ends this look.
        while arrival.missing:
            content = self._state.get_object(self._run.run_id, arrival.missing[-1])
            if content is None:
                return True
            if not content:
                return False
            arrival.contents[arrival.missing.pop()] = content
        arrival.is_whole = True
        return True

    def _forget(self, message_id: str, reply_id: str = "") -> None:
        self._state.delete_messages(message_ins_ids={message_id})
        for object_id in filter(None, (message_id, reply_id)):
            self._state.object_store.delete(object_id)

    # From here on: the rest of Flower's Grid interface, for stock strategies.

    def set_run(self, run: Run) -> None:
        """Turn to another run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run this grid speaks in."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message; deprecated in Flower, part of its interface still."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Nodes that are online."""
        return self._state.get_nodes(self._run.run_id)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """See `ask`."""
        return self.ask(list(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """See `take_replies`."""
        return self.take_replies(set(message_ids))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Ask and wait for every reply, at most `timeout` seconds."""
        waiting, replies = set(self.ask(list(messages))) - {""}, []
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        while waiting and (left := deadline - time.monotonic()) > 0:
            for reply in self.take_replies(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
            if waiting:
                self._doorbell.wait_for_answer(min(left, 0.25))
        self.withdraw(waiting)
        return replies


@dataclass
class _Arrival:
    """A reply on its way: Flower lists it before its objects have been uploaded."""

    stub: Message
    missing: list[str] | None = None
    contents: dict[str, bytes] = field(default_factory=dict)
    is_whole: bool = False

    def reply(self) -> Message:
        """The reply with its content; the empty stub where its objects are gone or do not parse."""
        if not self.is_whole:
            return self.stub
        try:
            reply = inflate_object_from_contents(self.stub.metadata.message_id, self.contents)
        except Exception:  # noqa: BLE001 - a device's bytes: whatever they break, it is that device's reply that is void
            return self.stub
        if not isinstance(reply, Message):
            return self.stub
        # What the device wrote into the object is its word; who is answered is what Flower's database checked.
        reply.__dict__["_metadata"] = self.stub.metadata
        return reply
