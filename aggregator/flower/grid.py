"""A Flower Grid in the server's own process: no Runtime API, no token, no HTTP in between.

`ask` and `take_replies` are what `link` uses. The rest makes it a complete `flwr.serverapp.Grid`, so that a stock
strategy (`flwr.serverapp.strategy`) can run over it too.

Invariants: a reply is handed out once, when it is complete; a node that goes offline answers with Flower's own error reply;
what was handed out or withdrawn is gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from aggregator.errors import FlowerRunEndedError
from aggregator.flower.flower_internals import (
    SUPERLINK_NODE_ID,
    Error,
    ErrorCode,
    Grid,
    Message,
    RecordDict,
    Run,
    SqlLinkState,
    TaskIdentity,
    address_message,
    no_object_id_recompute,
)
from aggregator.flower.message_store import MessageStore
from aggregator.flower.notifier import Notifier

__all__ = ["LocalGrid"]

PRESENCE_EVERY_S: Final = 0.5
"""How often the nodes that are waited for are looked up in the database."""


class LocalGrid(Grid):
    """Asks nodes and hears their replies within one Flower run. One thread at a time.

    Args:
        state: the server's database, for nodes and the run.
        run: a running Flower run.
        messages: where questions wait for nodes and replies for this grid.
        notifier: tells waiting nodes of a question, and this grid of an answer.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        state: SqlLinkState,
        run: Run,
        messages: MessageStore,
        notifier: Notifier,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state, self._run, self._messages, self._notifier = state, run, messages, notifier
        self._clock, self._looked_at = clock, -PRESENCE_EVERY_S
        # The Message constructor insists on a process-wide identity; each message gets its run's own in `ask`.
        TaskIdentity.run_id, TaskIdentity.node_id = run.run_id, SUPERLINK_NODE_ID
        TaskIdentity.task_id = run.primary_task_id or 0

    def ask(self, messages: Sequence[Message]) -> list[str]:
        """Leave messages for their nodes; returns message ids in order.

        Raises:
            FlowerRunEndedError: the run takes no messages any more.
        """
        if not self.is_open():
            raise FlowerRunEndedError(
                f"Flower run {self._run.run_id} has ended (finished, or its heartbeat ran out); start another"
            )
        with no_object_id_recompute():
            for message in messages:
                address_message(message, self._run)
        self._messages.post(messages)
        self._notifier.notify_nodes(message.metadata.dst_node_id for message in messages)
        return [message.metadata.message_id for message in messages]

    def take_replies(self, message_ids: Collection[str]) -> list[Message]:
        """Replies to these messages that are complete, each once; an error reply where the node is gone."""
        replies = self._messages.take_replies(message_ids)
        if self._clock() - self._looked_at >= PRESENCE_EVERY_S:
            self._looked_at = self._clock()
            replies += self._give_up_on_absent(message_ids)
        return replies

    def withdraw(self, message_ids: Collection[str]) -> None:
        """Forget these questions; replies that still come are dropped."""
        self._messages.withdraw(message_ids)

    def is_open(self) -> bool:
        """Whether the run still takes messages."""
        status = self._state.get_run_status({self._run.run_id}).get(self._run.run_id)
        return status is not None and status.status == "running"

    def _give_up_on_absent(self, message_ids: Collection[str]) -> list[Message]:
        waiting = self._messages.addressees(message_ids)
        if not waiting:
            return []
        present = {
            node.node_id
            for node in self._state.get_node_info(node_ids=sorted(set(waiting.values())), statuses=["online"])
        }
        absent = [name for name, node in waiting.items() if node not in present]
        error = Error(ErrorCode.NODE_UNAVAILABLE, "the device went offline")
        return [Message(error, reply_to=question) for question in self._messages.withdraw(absent)]

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
        waiting, replies = set(self.ask(list(messages))), []
        deadline = self._clock() + (float("inf") if timeout is None else timeout)
        while waiting and (left := deadline - self._clock()) > 0:
            for reply in self.take_replies(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
            if waiting:
                self._notifier.wait_for_answer(min(left, 0.25))
        self.withdraw(waiting)
        return replies
