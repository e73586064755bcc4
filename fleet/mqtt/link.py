"""The fleet's one connection to the broker: subscribes to every uplink, publishes acks and desired states, reconnects.

Acknowledgements travel at QoS 0: a lost one costs a second delivery of an event that is already stored, and waiting for
the broker's word would let a slow broker hold up ingest. Desired states travel retained at QoS 1, and all of them
again after every (re)connect, because an embedded broker forgets retained messages when it restarts.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiomqtt
import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from fleet.desired import desired_state
from fleet.ingest.judging import Arrival
from fleet.metrics import FleetMetrics
from fleet.mqtt.intake import Intake
from fleet.mqtt.outgoing import Outgoing
from fleet.storage.base import Database
from fleet.storage.device_tables import Desired
from protocol.messages.envelope import Event, encode
from protocol.messages.kinds import Kind
from protocol.messages.payloads import Ack, DesiredState
from protocol.topics import UPLINK_KINDS, device_topic, uplink_filter

__all__ = ["BrokerAddress", "BrokerLink"]

MAXIMUM_PAUSE_S: Final = 5.0
"""Longest pause before the next attempt. One client: even at this rate no burden for a broker that comes back."""

PUBLISH_TIMEOUT_S: Final = 15.0
"""A broker that takes nothing for this long counts as gone; what waited is published after the reconnect."""

DESIRED_AT_ONCE: Final = 20
"""Desired states in flight: paho's own window for QoS 1."""

_log = structlog.get_logger()
_quiet = logging.getLogger("fleet.mqtt.client")
_quiet.setLevel(logging.ERROR)  # the client library warns about every full window, which here is normal


@dataclass(frozen=True, kw_only=True)
class BrokerAddress:
    """Where the broker is and how to enter. `tls` turns TLS on; `ca_file` replaces the system's authorities."""

    host: str
    port: int
    username: str
    password: str | None
    tls: bool
    ca_file: Path | None


class BrokerLink:
    """Runs the connection; everything that waits lies in `Outgoing` and `Intake` and outlives it."""

    def __init__(
        self,
        address: BrokerAddress,
        *,
        tenant: str,
        boot_id: str,
        database: Database,
        intake: Intake,
        outgoing: Outgoing,
        metrics: FleetMetrics,
        first_pause_s: float,
        now: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._address = address
        self._tenant = tenant
        self._boot_id = boot_id
        self._sequence = 0
        self._database = database
        self._intake = intake
        self._outgoing = outgoing
        self._metrics = metrics
        self._first_pause_s = first_pause_s
        self._now = now
        self._jitter = jitter
        self._pause_s = first_pause_s
        self._is_connected = False

    async def run(self) -> None:
        """Stay connected until cancelled. Says once when the broker goes away and once when it is back."""
        reported = False
        while True:
            try:
                await self._connected()
            except* (aiomqtt.MqttError, OSError, SQLAlchemyError) as group:
                if self._is_connected or not reported:
                    _log.warning(
                        "broker_unreachable",
                        broker=f"{self._address.host}:{self._address.port}",
                        error=_first_line(group),
                        hint="the API keeps working; devices keep their events until the broker is back",
                    )
                reported = True
            finally:
                self._is_connected = False
                self._metrics.broker_connected.set(0)
            # between half and the whole pause: several services do not come back in step
            await asyncio.sleep(self._pause_s * (0.5 + self._jitter() / 2))
            self._pause_s = min(self._pause_s * 2, MAXIMUM_PAUSE_S)

    async def _connected(self) -> None:
        async with self._client() as client:
            await client.subscribe([(uplink_filter(self._tenant, kind), 1) for kind in sorted(UPLINK_KINDS)])
            self._is_connected = True
            self._metrics.broker_connected.set(1)
            self._metrics.broker_connects.inc()
            self._pause_s = self._first_pause_s
            _log.info("broker_connected", broker=f"{self._address.host}:{self._address.port}")
            self._outgoing.announce(await asyncio.to_thread(self._devices_with_desired))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._receive(client))
                tasks.create_task(self._publish_acks(client))
                tasks.create_task(self._publish_desired(client))

    def _client(self) -> aiomqtt.Client:
        address = self._address
        context = ssl.create_default_context(cafile=address.ca_file) if address.tls else None
        return aiomqtt.Client(
            address.host,
            address.port,
            username=address.username,
            password=address.password,
            tls_context=context,
            protocol=aiomqtt.ProtocolVersion.V311,
            timeout=PUBLISH_TIMEOUT_S,
            keepalive=20,
            logger=_quiet,
        )

    async def _receive(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            topic = str(message.topic)
            payload = message.payload if isinstance(message.payload, bytes) else b""
            if not payload and topic.endswith(f"/{Kind.DEATH.value}"):
                continue  # a device that came back has cleared its retained will
            self._intake.offer(
                Arrival(
                    topic=topic,
                    payload=payload,
                    retained=message.retain,
                    received_at=self._now(),
                )
            )

    async def _publish_acks(self, client: aiomqtt.Client) -> None:
        while True:
            await self._outgoing.acks_waiting.wait()
            waiting = self._outgoing.take_acks()
            while waiting:
                device, acks = next(iter(waiting.items()))
                topic = device_topic(self._tenant, device, Kind.ACK)
                for ack in acks:
                    try:
                        await client.publish(topic, self._message(ack), qos=0)
                    except aiomqtt.MqttError:
                        self._give_back(waiting)
                        raise
                    self._metrics.acks.inc()
                del waiting[device]

    def _give_back(self, waiting: dict[str, tuple[Ack, ...]]) -> None:
        for device, acks in waiting.items():
            for ack in acks:
                self._outgoing.acknowledge({device: ack})

    async def _publish_desired(self, client: aiomqtt.Client) -> None:
        while True:
            await self._outgoing.desired_waiting.wait()
            names = self._outgoing.take_desired()
            try:
                for start in range(0, len(names), DESIRED_AT_ONCE):
                    await self._publish_some(client, names[start : start + DESIRED_AT_ONCE])
            except (
                BaseException
            ):  # also when cancelled: a cleared state has no row to be found by at the reconnect
                self._outgoing.announce(names)
                raise

    async def _publish_some(self, client: aiomqtt.Client, names: Sequence[str]) -> None:
        states = await asyncio.to_thread(self._desired_of, names)
        async with asyncio.TaskGroup() as tasks:
            for name in names:
                state = states.get(name)
                # an empty retained message is how MQTT forgets one
                payload = b"" if state is None else self._message(state)
                topic = device_topic(self._tenant, name, Kind.DESIRED)
                tasks.create_task(client.publish(topic, payload, qos=1, retain=True))
        self._metrics.desired.inc(len(names))

    def _desired_of(self, names: Sequence[str]) -> dict[str, DesiredState]:
        with self._database.read() as session:
            rows = session.scalars(select(Desired).where(Desired.device.in_(names)))
            return {row.device: desired_state(row) for row in rows}

    def _devices_with_desired(self) -> Iterable[str]:
        with self._database.read() as session:
            return session.scalars(select(Desired.device)).all()

    def _message(self, data: Ack | DesiredState) -> bytes:
        self._sequence += 1
        return encode(
            Event(
                source="fleet",
                boot_id=self._boot_id,
                sequence=self._sequence,
                time=self._now(),
                data=data,
            )
        )


def _first_line(group: BaseException) -> str:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return str(group).splitlines()[0] if str(group) else type(group).__name__
