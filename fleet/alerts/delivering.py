"""Takes from the outbox and sends: a task for each receiver, so that none waits for another.

::

    outbox ─ `take`, on a thread ─► messages as things stand ─► the receiver's sender ─► `note`, on a thread ─► again, or rest

Between the sending and the note the process may die: then the same messages go out again, under the same ids.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from fleet.alert_settings import AnyReceiver
from fleet.alerts.messages import Facts, Message, facts_of, message_of
from fleet.alerts.outbox import Delivered, Later, Outcome, Refused, next_waiting, note_outcome
from fleet.alerts.receivers.port import Sender
from fleet.storage.alert_tables import AlertGroup
from fleet.storage.base import Database
from fleet.storage.outages import DatabaseAwayError, why_not_stored
from runtime.errors import SettingsError
from runtime.printable import printable

__all__ = ["Courier", "send_safely"]

EVERY_S: Final = 1.0
"""Between looks where nothing is to be sent."""

_log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """Messages that go out as one, and the numbers of their deliveries."""

    numbers: Sequence[int]
    messages: Sequence[Message]


class Courier:
    """Brings one receiver what waits for it.

    Args:
        database: the fleet's, as its leader writes to it.
        receiver: who is told.
        sender: speaks its language.
        tenant: in every message.
        public_url: of the dashboard; "": messages have no links.
        now: Unix seconds.
        count: told the receiver's name and what became of each attempt.
        draw: uniform in [0, 1), for the jitter.
    """

    def __init__(
        self,
        database: Database,
        receiver: AnyReceiver,
        sender: Sender,
        *,
        tenant: str,
        public_url: str,
        now: Callable[[], float],
        count: Callable[[str, str, int], None],
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._database, self._receiver, self._sender = database, receiver, sender
        self._tenant, self._public_url = tenant, public_url
        self._now, self._count, self._draw = now, count, draw

    async def run(self) -> None:
        """Bring what waits until canceled; a database that is away is waited for."""
        while True:
            has_sent = False
            try:
                has_sent = await self.deliver()
            except DatabaseAwayError:
                pass  # it has been told
            except SQLAlchemyError as error:
                _log.error("alerts_not_delivered", receiver=self._receiver.name, error=why_not_stored(error))
            if not has_sent:
                await asyncio.sleep(EVERY_S)

    async def deliver(self) -> bool:
        """Send what is next, if anything is; gives whether something was sent, or tried."""
        parcel = await asyncio.to_thread(self.take)
        if parcel is None:
            return False
        outcome = await send_safely(self._sender, parcel.messages)
        await asyncio.to_thread(self.note, parcel, outcome)
        return True

    def take(self) -> Parcel | None:
        """What is next."""
        with self._database.read() as session:
            waiting = next_waiting(session, self._receiver, self._sender.at_once, self._now())
            if not waiting:
                return None
            wanted = select(AlertGroup).where(AlertGroup.id.in_({one.group for one in waiting}))
            groups = {group.id: group for group in session.scalars(wanted)}
            facts = facts_of(session, groups)
            messages = [
                message_of(
                    groups[one.group],
                    facts.get(one.group, Facts()),
                    one.event,
                    tenant=self._tenant,
                    public_url=self._public_url,
                )
                for one in waiting
            ]
        return Parcel(numbers=[one.id for one in waiting], messages=messages)

    def note(self, parcel: Parcel, outcome: Outcome) -> None:
        """Keep what became of it."""
        with self._database.write() as session:
            note_outcome(
                session,
                self._receiver.name,
                parcel.numbers,
                outcome,
                now=self._now(),
                draw=self._draw,
            )
        word = {Delivered: "delivered", Later: "later", Refused: "refused"}[type(outcome)]
        self._count(self._receiver.name, word, len(parcel.numbers))
        if not isinstance(outcome, Delivered):
            _log.warning(
                "alert_not_delivered",
                receiver=self._receiver.name,
                outcome=word,
                messages=len(parcel.numbers),
                reason=outcome.reason,
            )


async def send_safely(sender: Sender, messages: Sequence[Message]) -> Outcome:
    """Send; whatever goes wrong on our side is a reason to try again."""
    try:
        return await sender.send(messages)
    except SettingsError as error:
        return Later(printable(str(error)))  # names the file, and nothing of what is in it
    except Exception as error:  # noqa: BLE001 - one receiver must not end the others; its text may hold a secret
        _log.error("alert_sender_failed", error=type(error).__name__)
        return Later(f"a fault of ours: {type(error).__name__}")
