"""Everything this device says and hears: payloads become numbered events in the outbox, downlinks become typed values.

It knows topics, sequence numbers and bytes, not what the payloads are about. What is poison on the way in is counted
and told in one line, and never reaches the agent.

::

    post(payloads) ─► Event(boot, sequence) ─► Outbox ─► deliver() ─► Link.publish
    Link.take_messages ─► receive() ─► acks → Outbox │ Downlink(desired, commands, invitations)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from edge_agent.enrolled import Enrolled
from edge_agent.health import Counters
from edge_agent.link import Link, Message
from edge_agent.outbox import Outbox
from edge_agent.outbox_entry import Moment, OutboxEntry
from protocol.errors import MalformedMessageError, MessageError, MessageTooLargeError
from protocol.messages.commands import Commands
from protocol.messages.envelope import Event, decode, encode, kind_of
from protocol.messages.kinds import DeathReason, Kind
from protocol.messages.payloads import (
    Ack,
    AnomalyClosed,
    AnomalyEvent,
    Death,
    DesiredState,
    Payload,
    TrainingInvitation,
)
from protocol.topics import device_topic, training_topic

__all__ = ["Downlink", "Identity", "Telemetry", "last_will", "subscriptions"]

log = logging.getLogger(__name__)

SILENCE_TOLD_S: Final = 180.0
"""A fleet that is updated is away for less."""
_MOST_TOLD: Final = 32
"""Different complaints about downlinks in the log of one start; the counter goes on."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who speaks: names as in topics, `boot_id`, random per start, and which start that is (0: not known)."""

    tenant: str
    device: str
    family: str
    boot_id: str
    boot_number: int = 0

    @classmethod
    def of(cls, enrolled: Enrolled, family: str, *, boot_id: str, boot_number: int) -> Identity:
        """The identity that an enrolment gives, in one start of the agent."""
        return cls(
            tenant=enrolled.tenant,
            device=enrolled.device,
            family=family,
            boot_id=boot_id,
            boot_number=boot_number,
        )


@dataclass(frozen=True, kw_only=True)
class Downlink:
    """What arrived for the agent to act on, newest last.

    `invitations` holds None where the retained invitation was cleared: the run is over.
    """

    desired: tuple[DesiredState, ...] = ()
    commands: tuple[Commands, ...] = ()
    invitations: tuple[TrainingInvitation | None, ...] = ()


class Telemetry:
    """The device's voice and ear. One thread; `clock_s` arguments are monotonic seconds.

    `now` reads both clocks of the device, `polled` gives a desired state that came over HTTPS, if any; `certificate` says what
    is wrong with this device's certificate for the broker.
    """

    def __init__(
        self,
        identity: Identity,
        outbox: Outbox,
        link: Link | None,
        counters: Counters,
        *,
        now: Callable[[], Moment],
        polled: Callable[[], DesiredState | None] = lambda: None,
        certificate: Callable[[], str] = lambda: "",
    ) -> None:
        self._identity = identity
        self._outbox = outbox
        self._link = link
        self._counters = counters
        self._now = now
        self._polled = polled
        self._certificate = certificate
        self._sequence = 0
        self._connections = 0
        self._connected_s = 0.0
        self._clock_s = 0.0
        self._told: set[tuple[str, str]] = set()
        self._evicted = self._refused = self._bytes_sent = 0
        self._kinds = {topic: kind for kind, topic in _downlink_topics(identity).items()}

    @property
    def is_connected(self) -> bool:
        """Is there a broker now?"""
        return self._link is not None and self._link.is_connected

    @property
    def connections(self) -> int:
        """How often the broker was connected in this boot."""
        return self._link.connections if self._link is not None else 0

    def post(self, payloads: Iterable[Payload]) -> None:
        """Number the payloads and put them into the outbox in one transaction.

        A raw window that does not fit a message is left out; a payload with NaN is refused in one line. The opening or
        the end of an anomaly that waits in the outbox already, from before a kill, is not put there again.
        """
        now = self._now()
        fresh = (payload for payload in payloads if not self._waits(payload))
        entries = [entry for payload in fresh if (entry := self._entry(payload, now)) is not None]
        if entries:
            self._outbox.put(entries, now=now)
        self._counters.outbox_evicted += self._outbox.evicted - self._evicted
        self._evicted = self._outbox.evicted

    def deliver(self, clock_s: float) -> None:
        """Send what is due. Without a broker everything waits."""
        self._hear_outcomes(clock_s)
        link = self._link
        if link is None or not link.is_connected:
            return
        for entry in self._outbox.due(clock_s):
            topic = device_topic(self._identity.tenant, self._identity.device, entry.kind)
            message = Message(topic=topic, payload=entry.payload)
            if not link.publish(message, entry.key, retain=entry.kind is Kind.DEATH):
                break
            self._outbox.handed_over(entry, clock_s)

    def problems(self) -> tuple[str, ...]:
        """What a person should know of the road to the fleet, in sentences."""
        link = self._link
        found = [trouble] if (trouble := self._certificate()) else []
        if link is None:
            return *found, *self._outbox.problems()
        if not link.is_connected:
            why = f" ({link.trouble})" if link.trouble else ""
            found.append(f"no broker: events wait in the outbox{why}")
        else:
            since_s = min(self._outbox.silence_s(self._clock_s), self._clock_s - self._connected_s)
            if since_s >= SILENCE_TOLD_S:
                found.append(
                    f"connected, but the fleet confirms nothing since {since_s / 60:.0f} minutes: does the fleet's service run?"
                )
            if link.trouble:
                found.append(link.trouble)
        return *found, *self._outbox.problems()

    def receive(self, clock_s: float) -> Downlink:
        """Take what arrived: acknowledgements go to the outbox, the rest to the caller."""
        self._hear_outcomes(clock_s)
        messages = self._link.take_messages() if self._link is not None else []
        acks: list[Ack] = []
        desired: list[DesiredState] = []
        commands: list[Commands] = []
        invitations: list[TrainingInvitation | None] = []
        for message in messages:
            kind = self._kinds.get(message.topic)
            if not message.payload and kind in {Kind.TRAINING, Kind.DESIRED, Kind.COMMANDS}:
                # An empty retained message is MQTT's word for "cleared".
                if kind is Kind.TRAINING:
                    invitations.append(None)
                continue
            data = self._decoded(message, kind)
            if isinstance(data, Ack):
                acks.append(data)
            elif isinstance(data, DesiredState):
                # a person's approval is the fleet's word over HTTPS; whoever writes to the broker may claim one
                desired.append(replace(data, is_approved=False))
            elif isinstance(data, Commands):
                commands.append(data)
            elif isinstance(data, TrainingInvitation):
                invitations.append(data)
        for ack in acks:
            self._acknowledge(ack, clock_s)
        self._counters.outbox_refused += self._outbox.refused - self._refused
        self._refused = self._outbox.refused
        if (polled := self._polled()) is not None:
            desired.append(polled)
        return Downlink(
            desired=tuple(desired),
            commands=tuple(commands),
            invitations=tuple(invitations),
        )

    def _acknowledge(self, ack: Ack, clock_s: float) -> None:
        try:
            self._outbox.acknowledge([ack], clock_s)
        except Exception as error:  # noqa: BLE001 - one that nobody thought of keeps nothing else from being heard
            self._refuse(device_topic(self._identity.tenant, self._identity.device, Kind.ACK), error)

    def _hear_outcomes(self, clock_s: float) -> None:
        self._clock_s = clock_s
        if self._link is None:
            return
        for outcome in self._link.take_outcomes():
            self._outbox.hear(outcome, clock_s)
        sent, self._bytes_sent = self._bytes_sent, self._link.bytes_sent
        self._counters.telemetry_bytes += self._bytes_sent - sent
        if self._link.connections != self._connections:
            self._connections, self._connected_s = self._link.connections, clock_s

    def _waits(self, payload: Payload) -> bool:
        if not isinstance(payload, AnomalyEvent | AnomalyClosed) or not payload.episode:
            return False
        return self._outbox.holds(kind_of(payload), payload.episode)

    def _entry(self, payload: Payload, now: Moment) -> OutboxEntry | None:
        event = Event(
            source=self._identity.device,
            boot_id=self._identity.boot_id,
            boot_number=self._identity.boot_number,
            sequence=self._sequence + 1,
            time=now.wall_s,
            data=payload,
        )
        try:
            encoded = encode(event)
        except MessageError as error:
            if (
                isinstance(error, MessageTooLargeError)
                and isinstance(payload, AnomalyEvent)
                and payload.window
            ):
                return self._entry(payload.without_window(), now)
            log.error("event_not_sent error=%s", error)  # noqa: TRY400 - one line; the number came from a sensor
            return None
        self._sequence += 1
        return OutboxEntry(
            boot_id=event.boot_id,
            sequence=event.sequence,
            kind=kind_of(payload),
            made=now,
            payload=encoded,
        )

    def _decoded(self, message: Message, kind: Kind | None) -> Payload | None:
        if kind is None:
            self._refuse(message.topic, MalformedMessageError("this device did not subscribe to that topic"))
            return None
        try:
            return decode(message.payload, kind).data
        except Exception as error:  # noqa: BLE001 - from outside comes anything; the next message is another one
            self._refuse(message.topic, error)
            return None

    def _refuse(self, topic: str, error: Exception) -> None:
        self._counters.malformed_downlinks += 1
        said = str(error) if isinstance(error, MessageError) else f"{type(error).__name__}: {error}"
        told = topic, said
        if told not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(told)
            log.warning("downlink_refused topic=%s error=%s", topic[:120], said)


def subscriptions(identity: Identity) -> tuple[str, ...]:
    """The topics a device listens to."""
    return tuple(_downlink_topics(identity).values())


def last_will(identity: Identity, now_s: float) -> Message:
    """What the broker shall publish when this device is lost (sequence 0)."""
    event = Event(
        source=identity.device,
        boot_id=identity.boot_id,
        boot_number=identity.boot_number,
        sequence=0,
        time=now_s,
        data=Death(reason=DeathReason.LOST),
    )
    topic = device_topic(identity.tenant, identity.device, Kind.DEATH)
    return Message(topic=topic, payload=encode(event))


def _downlink_topics(identity: Identity) -> dict[Kind, str]:
    return {
        Kind.DESIRED: device_topic(identity.tenant, identity.device, Kind.DESIRED),
        Kind.COMMANDS: device_topic(identity.tenant, identity.device, Kind.COMMANDS),
        Kind.ACK: device_topic(identity.tenant, identity.device, Kind.ACK),
        Kind.TRAINING: training_topic(identity.tenant, identity.family),
    }
