"""A Flower Grid in the server's own process: no Runtime API, no token, no HTTP in between.

Not a complete `flwr.serverapp.Grid`: rounds are ours (`aggregator.rounds`), so no stock strategy runs over it.

Invariants: a reply is handed out once, when it is complete; a node that goes offline answers with Flower's own error reply;
what was handed out or withdrawn is gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Final

from aggregator.errors import FlowerRunEndedError
from aggregator.flower.flower_internals import (
    SUPERLINK_NODE_ID,
    Error,
    ErrorCode,
    Message,
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


class LocalGrid:
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

    def ask(self, messages: Sequence[Message], *, reply_bytes: int) -> list[str]:
        """Leave messages for their nodes, which answer within `reply_bytes`; returns message ids in order.

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
        self._messages.post(messages, reply_bytes=reply_bytes)
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
