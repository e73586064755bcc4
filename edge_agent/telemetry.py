"""Everything this device says and hears: payloads become numbered events in the outbox, downlinks become typed values.

It knows topics, sequence numbers and bytes, not what the payloads are about. What is poison on the way in is counted
and told in one line, and never reaches the agent; nor does what is said in the fleet's name and not sealed by it.

::

    post(payloads) ─► Event(boot, sequence) ─► Outbox ─► deliver() ─► ReportSeals ─► Link.publish
    Link.take_messages ─┬─► receive() ─► FleetWords ─► acks → Outbox │ Downlink(desired, commands) │ invitations (the learner's to check)
    FleetPoll.take ─────┘
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

from edge_agent.enrolled import Enrolled
from edge_agent.fleet_words import FleetWords
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
from protocol.sealed_events import SEALED_BY_THE_FLEET
from protocol.topics import device_topic, training_topic

__all__ = ["Downlink", "Identity", "OwnRoads", "Road", "Sealing", "Telemetry", "last_will", "subscriptions"]

log = logging.getLogger(__name__)

SILENCE_TOLD_S: Final = 180.0
"""A fleet that is updated is away for less."""
_MOST_TOLD: Final = 32
"""Different complaints about downlinks in the log of one start; the counter goes on."""
_MOST_RESULTS: Final = 16
"""That wait to be told over HTTPS; as many commands may be outstanding."""


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


@dataclass(kw_only=True)
class _Heard:
    """What one turn heard, in the order in which it came."""

    acks: list[Ack] = field(default_factory=list)
    desired: list[DesiredState] = field(default_factory=list)
    commands: list[Commands] = field(default_factory=list)
    invitations: list[TrainingInvitation | None] = field(default_factory=list)

    def add(self, data: Payload) -> None:
        match data:
            case Ack():
                self.acks.append(data)
            case DesiredState():
                self.desired.append(data)
            case Commands():
                self.commands.append(data)
            case TrainingInvitation():
                self.invitations.append(data)
            case _:
                pass  # the topics of a downlink bring nothing else


class Road(Protocol):
    """One question that the fleet is asked over HTTPS; `edge_agent.fleet_poll.FleetPoll` is one."""

    def take(self) -> Event | None:
        """The newest answer not taken yet."""

    def forget(self) -> None:
        """What was taken is not believed."""


@dataclass(frozen=True, kw_only=True)
class OwnRoads:
    """The way to the fleet past the broker.

    asked: what it is asked there.
    tell: says, in a sealed message, what became of a command, where no broker carries it.
    doubt: asks everything anew, the signed repository too.
    """

    asked: tuple[Road, ...] = ()
    tell: Callable[[bytes], None] = lambda _: None
    doubt: Callable[[], None] = lambda: None


class Sealing(Protocol):
    """What seals this device's reports; `edge_agent.report_seals.ReportSeals` is one."""

    problem: str

    def sealed(self, entry: OutboxEntry) -> OutboxEntry | None:
        """The event as it may leave; None where it is not ready yet."""


class Telemetry:
    """The device's voice and ear. One thread; `clock_s` arguments are monotonic seconds.

    Args:
        identity: who speaks.
        outbox: what waits to be said.
        link: the broker's, if there is one.
        counters: of what goes by.
        now: reads both clocks of the device.
        words: knows the fleet's words from others'.
        sealing: seals what this device reports.
        roads: the way past the broker.
        certificate: says what is wrong with this device's certificate for the broker.
    """

    def __init__(
        self,
        identity: Identity,
        outbox: Outbox,
        link: Link | None,
        counters: Counters,
        *,
        now: Callable[[], Moment],
        words: FleetWords,
        sealing: Sealing,
        roads: OwnRoads = OwnRoads(),
        certificate: Callable[[], str] = lambda: "",
    ) -> None:
        self._identity = identity
        self._outbox = outbox
        self._link = link
        self._counters = counters
        self._now = now
        self._words, self._sealing, self._roads = words, sealing, roads
        self._certificate = certificate
        self._results: deque[OutboxEntry] = deque(maxlen=_MOST_RESULTS)
        self._postponed: dict[Kind, Message] = {}
        self._sequence = 0
        self._connections = 0
        self._connected_s = 0.0
        self._clock_s = 0.0
        self._told: set[tuple[str, str]] = set()
        self._evicted = self._refused = self._unbelieved = self._bytes_sent = 0
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
        self._results.extend(entry for entry in entries if entry.kind is Kind.RESULT)
        self._counters.outbox_evicted += self._outbox.evicted - self._evicted
        self._evicted = self._outbox.evicted

    def deliver(self, clock_s: float) -> None:
        """Send what is due. Without a broker everything waits, but for what became of commands: that goes past it."""
        self._hear_outcomes(clock_s)
        while self._results and (sealed := self._sealing.sealed(self._results[0])) is not None:
            self._results.popleft()
            self._roads.tell(sealed.payload)
        link = self._link
        if link is None or not link.is_connected:
            return
        for due in self._outbox.due(clock_s):
            if (entry := self._sealing.sealed(due)) is None:
                continue
            topic = device_topic(self._identity.tenant, self._identity.device, entry.kind)
            message = Message(topic=topic, payload=entry.payload)
            if not link.publish(message, entry.key, retain=entry.kind is Kind.DEATH):
                break
            self._outbox.handed_over(entry, clock_s)

    def problems(self) -> tuple[str, ...]:
        """What a person should know of the road to the fleet, in sentences."""
        link = self._link
        found = [text for text in (self._words.problem, self._sealing.problem, self._certificate()) if text]
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
        heard = _Heard()
        postponed, self._postponed = list(self._postponed.values()), {}
        for message in (*postponed, *(self._link.take_messages() if self._link is not None else ())):
            kind = self._kinds.get(message.topic)
            if not message.payload and kind in {Kind.TRAINING, Kind.DESIRED, Kind.COMMANDS}:
                # An empty retained message is MQTT's word for "cleared".
                if kind is Kind.TRAINING:
                    heard.invitations.append(None)
                continue
            if kind in SEALED_BY_THE_FLEET and not self._words.may_look(kind):
                self._postpone(kind, message)
                continue
            if (event := self._decoded(message, kind)) is not None and self._may_obey(event):
                heard.add(event.data)
        for road in self._roads.asked:
            if (event := road.take()) is not None:
                if self._words.is_fleets(event):
                    heard.add(event.data)
                else:
                    road.forget()
        for event in self._words.take_doubtful():
            if self._words.is_fleets(event):
                heard.add(event.data)
        for ack in heard.acks:
            self._acknowledge(ack, clock_s)
        self._counters.outbox_refused += self._outbox.refused - self._refused
        self._refused = self._outbox.refused
        self._counters.malformed_downlinks += self._words.refused - self._unbelieved
        self._unbelieved = self._words.refused
        return Downlink(
            desired=tuple(heard.desired),
            commands=tuple(heard.commands),
            invitations=tuple(heard.invitations),
        )

    def _postpone(self, kind: Kind, message: Message) -> None:
        """The newest word waits until there is time to look at it; an acknowledgement comes again with its event."""
        if kind is Kind.ACK or kind in self._postponed:
            self._words.pass_over(kind)
        if kind is not Kind.ACK:
            self._postponed[kind] = message

    def _may_obey(self, event: Event) -> bool:
        return kind_of(event.data) not in SEALED_BY_THE_FLEET or self._words.is_fleets(event)

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

    def _decoded(self, message: Message, kind: Kind | None) -> Event | None:
        if kind is None:
            self._refuse(message.topic, MalformedMessageError("this device did not subscribe to that topic"))
            return None
        try:
            return decode(message.payload, kind)
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
