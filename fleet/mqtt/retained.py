"""Publishes the retained words to devices at QoS 1: what changed at once, what is only said again behind it.

::

    Outgoing ─► words of a few devices ─► read and sealed on a thread ─► under way ─► confirmed ─► read again ─► held
                    └── `HANDS` of them at a time; each takes the next few when the broker has confirmed its own

Invariants: the word to a device that leaves last is the newest, also where another process publishes, too: after it was
confirmed it is compared with the database, and said again where that has moved on. What was not confirmed goes
back to what waits. After a reconnect only what the broker may lack is said again (`fleet.mqtt.held`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from sqlalchemy import select

from fleet.broker_door.plugin_state import FLEET
from fleet.desired import desired_state
from fleet.device_commands import words_for
from fleet.instructions import Instructions
from fleet.leadership import Leadership
from fleet.metrics import FleetMetrics
from fleet.mqtt.held import HeldWords, WordKey
from fleet.mqtt.outgoing import Outgoing
from fleet.releases import approved_among
from fleet.storage.base import Database
from fleet.storage.command_tables import DeviceCommands
from fleet.storage.device_tables import Desired
from fleet.storage.rollout_tables import DesiredCounter
from protocol.messages.commands import Commands
from protocol.messages.kinds import Kind
from protocol.messages.payloads import DesiredState
from protocol.topics import device_topic
from service.mqtt_client import MqttClient

__all__ = ["RetainedPublisher"]

HANDS: Final = 3
"""While one waits for the broker another seals: more would only wait for the same two cores."""

AT_ONCE: Final = 64
"""Words that are read and sealed together: a few milliseconds, and few enough to be read at one time."""

AGAIN_PER_S: Final = 1000.0
"""Words that have not changed, at most: ten thousand devices in twenty seconds, and half a core free meanwhile."""

MARK_EVERY_S: Final = 1.0

_Said = Mapping[WordKey, DesiredState | Commands]


class RetainedPublisher:
    """The publishing side of the connection; `run` it with each one.

    Args:
        outgoing: what waits.
        instructions: seals.
        database: the truth about every word.
        tenant: of every device.
        metrics: counts.
        life: an id of this process.
        leadership: who does not lead publishes nothing.
    """

    def __init__(
        self,
        outgoing: Outgoing,
        instructions: Instructions,
        *,
        database: Database,
        tenant: str,
        metrics: FleetMetrics,
        life: str,
        leadership: Leadership,
    ) -> None:
        self._outgoing = outgoing
        self._instructions = instructions
        self._database = database
        self._tenant = tenant
        self._metrics = metrics
        self.leadership = leadership
        self._held = HeldWords(life)
        # a topic that the fleet may write and read by the rights that everybody has: no device has its name
        self._mark_topic = device_topic(tenant, FLEET, Kind.DESIRED)

    async def begin(self, client: MqttClient) -> None:
        """With a new connection, before it subscribes to anything: have said again what this broker may lack."""
        doubtful = self._held.doubtful(await self._read_mark(client)) if self._held.everything() else None
        if doubtful is None:
            await self.say_everything()
        else:
            self._outgoing.say_again(doubtful)

    async def say_everything(self) -> None:
        """Have every word published again, also that there is none any more; the latest first."""
        self._outgoing.say_again(await asyncio.to_thread(self._every_word))
        self._outgoing.say_again(self._held.everything())

    async def run(self, client: MqttClient) -> None:
        """Publish what waits until the connection breaks or this is canceled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(HANDS):
                tasks.create_task(self._work(client))
            tasks.create_task(self._keep_mark(client))

    async def _work(self, client: MqttClient) -> None:
        while True:
            await self._outgoing.retained_waiting.wait()
            if news := self._outgoing.take_news(AT_ONCE):
                await self._publish(client, news)
            elif again := self._outgoing.take_again(AT_ONCE):
                await self._publish(client, again)
                await asyncio.sleep(len(again) / AGAIN_PER_S)

    async def _publish(self, client: MqttClient, words: Sequence[WordKey]) -> None:
        unsaid: Collection[WordKey] = words  # also when canceled: a cleared state has no row to be found by
        try:
            said, sealed = await asyncio.to_thread(self._seal, words)
            async with asyncio.TaskGroup() as tasks:
                for kind, device in words:
                    topic = device_topic(self._tenant, device, kind)
                    # an empty retained message is how MQTT forgets one
                    payload = sealed.get((kind, device), b"")
                    tasks.create_task(self._say(client, topic, payload))
            now = await asyncio.to_thread(self._read, words)
            unsaid = [word for word in words if said.get(word) != now.get(word)]
            self._held.confirm(words)
            self._metrics.desired.inc(sum(kind is Kind.DESIRED for kind, _ in words))
        finally:
            self._outgoing.settle(words, unsaid=unsaid)

    async def _say(self, client: MqttClient, topic: str, payload: bytes) -> None:
        await self.leadership.wait_until_leader()  # at once; else this is about to be canceled
        await client.publish(topic, payload, qos=1, retain=True)

    def _seal(self, words: Sequence[WordKey]) -> tuple[_Said, dict[WordKey, bytes]]:
        said = self._read(words)
        return said, {word: self._instructions.message(said[word], word[1]) for word in said}

    def _read(self, words: Sequence[WordKey]) -> _Said:
        """What is to be said now; of a word that is not in the answer: nothing."""
        named: dict[Kind, list[str]] = {}
        for kind, device in words:
            named.setdefault(kind, []).append(device)
        found: dict[WordKey, DesiredState | Commands] = {}
        with self._database.read() as session:
            if devices := named.get(Kind.DESIRED):
                rows = session.scalars(select(Desired).where(Desired.device.in_(devices))).all()
                approved = approved_among(session, {row.release for row in rows})
                for row in rows:
                    found[Kind.DESIRED, row.device] = desired_state(row, is_approved=row.release in approved)
            if devices := named.get(Kind.COMMANDS):
                found |= {
                    (Kind.COMMANDS, device): word for device, word in words_for(session, devices).items()
                }
        return found

    def _every_word(self) -> list[WordKey]:
        with self._database.read() as session:
            wished = session.scalars(select(Desired.device).order_by(Desired.set_at.desc())).all()
            # the counter outlives a state that was taken away, whose retained message must go
            cleared = session.scalars(
                select(DesiredCounter.device)
                .outerjoin(Desired, Desired.device == DesiredCounter.device)
                .where(Desired.device.is_(None))
            ).all()
            commanded = session.scalars(
                select(DeviceCommands.device).order_by(DeviceCommands.counter.desc())
            ).all()
        return [
            *((Kind.DESIRED, device) for device in wished),
            *((Kind.COMMANDS, device) for device in commanded),
            *((Kind.DESIRED, device) for device in cleared),
        ]

    async def _read_mark(self, client: MqttClient) -> bytes:
        """The mark that the broker holds, empty where it holds none."""
        await client.subscribe([self._mark_topic])
        await client.unsubscribe(self._mark_topic)  # what was retained has come before this is confirmed
        payloads = [one.payload for one in client.take_now() if one.retained]
        return payloads[-1] if payloads else b""

    async def _keep_mark(self, client: MqttClient) -> None:
        while True:
            await asyncio.sleep(MARK_EVERY_S)
            if (mark := self._held.next_mark()) is not None:
                await client.publish(self._mark_topic, mark, qos=1, retain=True)
