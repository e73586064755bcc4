"""The fleet's one connection to the broker: subscribes to every uplink, publishes acks and retained words, reconnects.

Acknowledgements travel at QoS 0: a lost one costs a second delivery of an event that is already stored, and waiting for
the broker's word would let a slow broker hold up ingest. Desired states, and commands with settings, travel retained
at QoS 1 (`fleet.mqtt.retained`): again where a broker that is reached anew may lack them, after some days, because what
is sealed ends, and when the instruction key has changed or the clock was set.

Of several replicas (``[mqtt] shared``) each hears its share of what devices say, by a shared subscription, and acknowledges
what it stored. The leader alone publishes retained words and keeps the broker's door; a new one says every word again. One
that led and was stopped for a while may send a word that is older by then: what it had under way when it lost the lead it tells
the leader, which says it again (`fleet.replicas`). Without ``shared`` the leader alone is connected, and the others stand by.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from fleet.broker_door.dynamic_security import DynamicSecurity
from fleet.broker_door.plugin_state import RESPONSE_TOPIC
from fleet.ingest.judging import Arrival
from fleet.instructions import RENEWED_AFTER_S, Instructions
from fleet.metrics import FleetMetrics
from fleet.mqtt.intake import Intake
from fleet.mqtt.outgoing import Outgoing
from fleet.mqtt.retained import RetainedPublisher
from protocol.messages.kinds import Kind
from protocol.messages.payloads import Ack
from protocol.topics import UPLINK_KINDS, device_topic, uplink_filter
from service.broker_account import BrokerAccount
from service.mqtt_client import MqttClient

__all__ = ["BrokerLink"]

SHARED: Final = "$share/fleet/"
"""Before a filter: each message goes to one of those who subscribe under this name."""

ACKED_AT_ONCE: Final = 256
"""Devices whose acknowledgements are sealed together, beside the loop: some ten milliseconds."""

ACK_REST: Final = 4.0
LONGEST_ACK_REST_S: Final = 2.5
"""Rest after acknowledgements, in times of what they took: a fleet that is busy signs a fifth of the time at most, and gathers meanwhile
what shares a signature, which costs as much as storing an event. An agent waits ten seconds."""

_DEATH: Final = f"/{Kind.DEATH.value}"

LOOKS_EVERY_S: Final = 30.0
"""How often it is looked whether what is retained must be sealed anew."""

STEPPED_S: Final = 600.0
"""A clock that is set by more than this has dated the ends of words wrongly; one that a time service slews stays within it."""


class BrokerLink:
    """Runs the connection; everything that waits lies in `Outgoing` and `Intake` and outlives it.

    One asyncio loop owns the client. Other threads hand over through `Outgoing`, which wakes the loop; nothing but the
    loop ever calls the client.
    """

    def __init__(
        self,
        account: BrokerAccount,
        instructions: Instructions,
        *,
        tenant: str,
        retained: RetainedPublisher,
        intake: Intake,
        outgoing: Outgoing,
        metrics: FleetMetrics,
        now: Callable[[], float],
        door: DynamicSecurity | None,
        is_shared: bool = False,
    ) -> None:
        self._account = account
        self._door = door
        self._leadership, self._is_shared = retained.leadership, is_shared
        self._instructions = instructions
        self._tenant = tenant
        self._retained = retained
        self._intake = intake
        self._outgoing = outgoing
        self._metrics = metrics
        self._now = now

    async def run(self) -> None:
        """Stay connected until canceled. The API keeps working meanwhile, and devices keep their events."""
        if self._is_shared:
            await self._stay_connected()
        else:
            await self._leadership.while_leading(self._stay_connected)

    async def _stay_connected(self) -> None:
        await self._account.stay_connected(self._session, also_ends=(SQLAlchemyError,))

    async def _session(self, client: MqttClient) -> None:
        if (term := self._leadership.term) is not None:
            await self._retained.begin(client)
        filters = [self._filter(kind) for kind in sorted(UPLINK_KINDS)]
        if self._door:
            filters.append(RESPONSE_TOPIC)
        await client.subscribe(filters)
        self._metrics.broker_connected.set(1)
        self._metrics.broker_connects.inc()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._receive(client))
                tasks.create_task(self._publish_acks(client))
                tasks.create_task(self._leadership.while_leading(partial(self._speak, client, term)))
        finally:
            self._metrics.broker_connected.set(0)

    def _filter(self, kind: Kind) -> str:
        """What is subscribed to of a kind: a share of it. Of last wills all: what is retained is not shared out."""
        wanted = uplink_filter(self._tenant, kind)
        return f"{SHARED}{wanted}" if self._is_shared and kind is not Kind.DEATH else wanted

    async def _speak(self, client: MqttClient, begun_in: int | None) -> None:
        """What the leader alone does; `begun_in`: the term in which this connection was begun."""
        if self._leadership.term != begun_in:
            await self._retained.say_everything()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._retained.run(client))
            tasks.create_task(self._renew())
            if self._door:
                tasks.create_task(self._door.keep(client.publish))

    async def _receive(self, client: MqttClient) -> None:
        while True:
            come, now = await client.take(), self._now()
            for message in come:
                topic, payload = message.topic, message.payload
                if self._door and topic == RESPONSE_TOPIC:
                    self._door.hear(payload)
                elif not payload and topic.endswith(_DEATH):
                    pass  # a device that came back has cleared its retained will
                else:
                    self._intake.offer(
                        Arrival(topic=topic, payload=payload, retained=message.retained, received_at=now)
                    )
            await self._intake.ready()

    async def _publish_acks(self, client: MqttClient) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._outgoing.acks_waiting.wait()
            began, waiting = loop.time(), self._outgoing.take_acks()
            while waiting:
                some = dict(islice(waiting.items(), ACKED_AT_ONCE))
                sealed = await asyncio.to_thread(self._sealed, some)
                try:
                    await client.publish_all(sealed)
                except OSError:
                    self._give_back(waiting)
                    raise
                self._metrics.acks.inc(len(sealed))
                for device in some:
                    del waiting[device]
            # what is stored meanwhile of the same devices shares their next acknowledgements, and a signature
            await asyncio.sleep(min(ACK_REST * (loop.time() - began), LONGEST_ACK_REST_S))

    def _sealed(self, acks: Mapping[str, Sequence[Ack]]) -> list[tuple[str, bytes]]:
        return [
            (device_topic(self._tenant, device, Kind.ACK), self._instructions.message(ack, device))
            for device, some in acks.items()
            for ack in some
        ]

    def _give_back(self, waiting: dict[str, tuple[Ack, ...]]) -> None:
        for device, acks in waiting.items():
            for ack in acks:
                self._outgoing.acknowledge({device: ack})

    async def _renew(self) -> None:
        """Have what is retained sealed anew, before it ends, when another key seals, and when the clock was set."""
        loop = asyncio.get_running_loop()
        key, sealed_at, dated = self._instructions.key_name(), loop.time(), self._now() - loop.time()
        while True:
            await asyncio.sleep(LOOKS_EVERY_S)
            now_key, now_dated = self._instructions.key_name(), self._now() - loop.time()
            is_old = loop.time() - sealed_at >= RENEWED_AFTER_S
            if now_key == key and not is_old and abs(now_dated - dated) < STEPPED_S:
                continue
            key, sealed_at, dated = now_key, loop.time(), now_dated
            await self._retained.say_everything()
