"""The stage link over Flower: each device a message of its own, `protocol.sum_terms` says where in it.

Implements `aggregator.rounds.stage_link.StageLink`. Nothing a device sends raises here: whatever cannot be read ends as a
`StageReply` with a reason in words.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Final

from aggregator.flower.flower_internals import ArrayRecord, ConfigRecord, Message, RecordDict
from aggregator.flower.grid import LocalGrid
from aggregator.flower.link import as_array, failure_of, reported_seconds
from aggregator.flower.notifier import Notifier
from aggregator.flower.roster import Roster
from aggregator.rounds.cohort_link import Ticket
from aggregator.rounds.stage_link import StageReply, StageRequest
from protocol.names import DeviceId

__all__ = ["FlowerStageLink"]

GATHER_S: Final = 0.005
"""How long to wait for others after the first; looking costs next to nothing, waiting is paid in every stage."""


class FlowerStageLink:
    """Carries stages through one Flower run. One thread at a time.

    Args:
        grid: of a running Flower run.
        roster: device ↔ node.
        notifier: told when a reply is stored.
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
        self._grid, self._roster, self._notifier, self._pause = grid, roster, notifier, pause
        self._asked: dict[Ticket, DeviceId] = {}

    def send(self, request: StageRequest, *, lifetime_s: float) -> dict[Ticket, DeviceId]:
        """See `StageLink.send`."""
        shared: dict[str, ConfigRecord | ArrayRecord] = {}
        if request.question:
            shared["question"] = ConfigRecord({"json": request.question})
            shared["arrays"] = ArrayRecord({name: as_array(v) for name, v in request.arrays.items()})
        reachable = [
            (device, node, message)
            for device, message in request.messages.items()
            if (node := self._roster.node_of(device)) is not None
        ]
        messages = []
        for _, node, message in reachable:
            stage = ConfigRecord({"message": message})
            if request.terms:
                stage["terms"] = request.terms
            content = RecordDict({**shared, "sum": stage})
            messages.append(Message(content, node, request.kind, ttl=lifetime_s))
        ids = self._grid.ask(messages)
        asked = {Ticket(name): device for name, (device, _, _) in zip(ids, reachable, strict=True)}
        self._asked.update(asked)
        return dict(asked)

    def heard(self, tickets: Collection[Ticket], *, wait_s: float) -> list[StageReply]:
        """See `StageLink.heard`."""
        self._notifier.wait_for_answer(wait_s)
        self._pause(min(GATHER_S, wait_s))
        found = []
        for message in self._grid.take_replies(tickets):
            ticket = Ticket(message.metadata.reply_to_message_id)
            # A reply to something that was withdrawn meanwhile is late: dropped.
            if (device := self._asked.pop(ticket, None)) is not None:
                found.append(_read_reply(ticket, device, message))
        return found

    def withdraw(self, tickets: Collection[Ticket]) -> None:
        """See `StageLink.withdraw`."""
        self._grid.withdraw(tickets)
        for ticket in tickets:
            self._asked.pop(ticket, None)


def _read_reply(ticket: Ticket, device: DeviceId, message: Message) -> StageReply:
    if message.has_error():
        words, is_lost = failure_of(message)
        return StageReply(ticket=ticket, device=device, failure=words, lost=is_lost)
    configs = message.content.config_records
    content = configs["sum"].get("message") if "sum" in configs else None
    if not isinstance(content, bytes):
        words = "the reply holds no config record 'sum' with the bytes 'message'"
        return StageReply(ticket=ticket, device=device, failure=words)
    seconds = reported_seconds(message.content.metric_records)
    return StageReply(ticket=ticket, device=device, message=content, seconds_in_training=seconds)
