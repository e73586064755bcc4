"""What processes on one database tell each other, by PostgreSQL's NOTIFY; each hears it on its leadership's connection.

::

    a transaction that changes a word to a device ─► trigger ─► "desired press-1" ─► the leader publishes it
    what a follower was to publish ───────────────────────────► the same, once more
    a device revoked at a follower ─► "shut_out <asker> press-1" ─► the leader's broker door ─► "shut <asker> press-1"

The leader alone publishes retained words and commands the broker's door: two that did would overtake each other, and an older
word would stand last. Nothing that is told here is lost with whoever dies: a trigger tells with the commit or not at all,
and a new leader begins by publishing every word and comparing the door. With one process nothing of this happens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from fleet.broker_door.shut_out import BrokerDoor
from fleet.errors import BrokerError
from fleet.leadership import CHANNEL, Leadership
from fleet.mqtt.held import WordKey
from fleet.mqtt.outgoing import Outgoing
from fleet.storage.base import Database
from fleet.storage.outages import why_not_stored
from protocol.messages.kinds import Kind

__all__ = ["Replicas"]

PATIENCE_S: Final = 10.0
"""How long the leader may take to shut somebody out: longer than its broker may (`broker_door.dynamic_security`)."""

NAMES_AT_ONCE: Final = 80
"""Names in one word: of 64 characters each they fit PostgreSQL's 8000 bytes."""

RETRY_S: Final = 1.0
TOLD_EVERY_S: Final = 0.05
"""How often at most the leader's engine is woken by one follower."""

_log = structlog.get_logger()


class Replicas:
    """This process among the others; `BrokerDoor` for whoever must be shut out, wherever the leader is.

    Args:
        database: on which they meet.
        leadership: who leads.
        outgoing: what waits to be published here.
        me: names this process, without blanks.
        door: of the broker; the leader's is used.
        silence: has the broker shut a device out for a while; the leader's is used.
        wake: has the engine of this process look.
    """

    def __init__(
        self,
        database: Database,
        leadership: Leadership,
        outgoing: Outgoing,
        *,
        me: str,
        door: BrokerDoor,
        silence: Callable[[str], None],
        wake: Callable[[], None],
    ) -> None:
        self._database, self._leadership, self._outgoing = database, leadership, outgoing
        self._me, self._door, self._silence, self._wake = me, door, silence, wake
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        self._helping: set[asyncio.Task[object]] = set()
        self._loop = asyncio.get_running_loop()
        self._moved = asyncio.Event()

    def hear(self, word: str) -> None:
        """Take what was told; what it does not understand is of a newer build, and left alone."""
        leads = self._leadership.is_leader
        match word.split(" "):
            case ["desired" | "commands" as kind, *devices] if leads:
                self._outgoing.announce(devices, Kind(kind))
            case ["rollouts"] if leads:
                self._wake()
            case ["silence", device] if leads:
                self.silence(device)
            case ["shut_out", asker, device] if leads:
                self._help(self._shut_out_for(asker, device))
            case ["shut", self._me, device, *why]:
                for future in self._waiting.pop(device, []):
                    if not future.done():
                        future.set_exception(BrokerError(" ".join(why))) if why else future.set_result(None)

    def wake(self) -> None:
        """Something a rollout may wait for has happened: the leader's engine looks soon. From any thread."""
        self._wake()
        if not self._leadership.is_leader and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._moved.set)

    def silence(self, name: str) -> None:
        """Have a device that floods shut out for a while. In the loop."""
        if not self._leadership.is_leader:
            self._help(self._tell_safely([f"silence {name}"]))
        else:
            self._silence(name)

    async def shut_out(self, name: str) -> None:
        """See `BrokerDoor.shut_out`."""
        if self._leadership.is_leader:
            await self._door.shut_out(name)
            return
        done: asyncio.Future[None] = self._loop.create_future()
        self._waiting.setdefault(name, []).append(done)
        try:
            await asyncio.to_thread(self._tell, [f"shut_out {self._me} {name}"])
            async with asyncio.timeout(PATIENCE_S):
                await done
        except TimeoutError:
            raise BrokerError(
                f"no leader of this fleet has confirmed within {PATIENCE_S:g} s that {name!r} is out; the fleet knows the change,"
                " and whoever leads next tells the broker: repeat this call to wait for that"
            ) from None
        finally:
            if done in (waiting := self._waiting.get(name, [])):
                waiting.remove(done)

    async def run(self) -> None:
        """Hand over to the leader what this process was to publish and to wake, until canceled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._leadership.while_following(self._hand_over))
            tasks.create_task(self._leadership.while_following(self._pass_on))

    def _help(self, work: Coroutine[None, None, object]) -> None:
        task = asyncio.create_task(work)
        self._helping.add(task)  # a task that nobody holds may be collected before it is done
        task.add_done_callback(self._helping.discard)

    async def _hand_over(self) -> None:
        while True:
            await self._outgoing.retained_waiting.wait()
            if not (words := self._outgoing.take_news(NAMES_AT_ONCE)):
                continue
            told = False
            try:
                told = await self._tell_safely(list(_told(words)))
            finally:  # also when canceled: then this process leads
                self._outgoing.settle(words, unsaid=() if told else words)
            if not told:
                await asyncio.sleep(RETRY_S)

    async def _pass_on(self) -> None:
        while True:
            await self._moved.wait()
            self._moved.clear()
            await self._tell_safely(["rollouts"])
            await asyncio.sleep(TOLD_EVERY_S)

    async def _shut_out_for(self, asker: str, device: str) -> None:
        try:
            await self._door.shut_out(device)
            answer = f"shut {asker} {device}"
        except BrokerError as error:
            answer = f"shut {asker} {device} {error}"
        await self._tell_safely([answer])

    async def _tell_safely(self, words: list[str]) -> bool:
        try:
            await asyncio.to_thread(self._tell, words)
        except SQLAlchemyError as error:
            _log.warning("replicas_not_told", error=why_not_stored(error))
            return False
        return True

    def _tell(self, words: list[str]) -> None:
        with self._database.watch.watched(writes=False), self._database.engine.begin() as connection:
            told = [{"channel": CHANNEL, "word": word} for word in words]
            connection.execute(text("SELECT pg_notify(:channel, :word)"), told)


def _told(words: Sequence[WordKey]) -> Iterator[str]:
    for kind, some in groupby(sorted(words), key=itemgetter(0)):
        yield " ".join((kind.value, *(device for _, device in some)))
