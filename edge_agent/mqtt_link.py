"""The road to the broker: one connection that is always being kept or being restored.

It moves bytes and knows topics; what the bytes mean is the caller's business. It keeps nothing: whatever is not
acknowledged by the fleet is in the outbox and is sent again over the next connection. A fresh client is built for
every connection, so that no stale queue of the last one is replayed.

Invariant: one thread owns the connection. It alone makes paho's client, reads and writes its socket, and hangs up; the
client is a local variable of that thread, so that nobody else can reach it. (paho lets whoever publishes write the
socket, and TLS breaks when two threads do.) Everybody else hands over through bounded queues::

    publish ───────► outgoing ─┐   ┌─► downlinks ─► take_messages    outcomes ─► take_outcomes    is_connected   connections
                               ▼   │
    owner: connect ─► subscribe ─► wait for socket or handover ─► read, write … until lost ─► pause (jittered) ─► connect

Back-pressure: a broker that acknowledges slowly fills `outgoing`; then `publish` says no, and the outbox offers the
event again with its next turn. Whatever the broker does, what it makes this process hold is bounded in bytes, in both
directions; what it may make it read is bounded in packets a second.

MQTT 3.1.1, QoS 1, clean session, retained last will (OASIS).
"""

from __future__ import annotations

import contextlib
import logging
import random
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from edge_agent.bounded_client import (
    BoundedClient,
    BoundedSocket,
    BrokerMisbehavesError,
    TooLargeDownlinkError,
)
from edge_agent.downlink_queue import DownlinkQueue
from edge_agent.errors import NotEnrolledError
from edge_agent.link import EventKey, Fate, Message, Outcome
from edge_agent.pinned_tls import pinned_context, show_certificate
from edge_agent.reconnection import Reconnection
from edge_agent.settings import MqttSettings

__all__ = ["MqttLink"]

log = logging.getLogger(__name__)
_CONNECT_TIMEOUT_S: Final = 5.0
_WELCOME_S: Final = 15.0  # how long a broker may take to answer a greeting
_OUTGOING: Final = 64  # messages that may wait for the owner; twice what the outbox has under way by default
_OUTGOING_BYTES: Final = 256 * 1024  # the same in bytes; a single message may always wait
_UNACKNOWLEDGED: Final = 20
"""Messages that the broker has not acknowledged; the receive window of most brokers, and paho's own."""
_UNACKNOWLEDGED_BYTES: Final = 64 * 1024  # or one message: what a slow network carries between two pings
_STALL_S: Final = 30.0
_SLOWEST_BYTES_PER_S: Final = 1000.0
"""A message that the broker does not acknowledge for so long, and the time that its bytes take at 8 kbit/s, ends the connection."""
_READ_PER_S: Final = (
    1000  # packets: a broker that never stops talking must not take the processor from the detection
)
_LOOK_EVERY_MS: Final = 1000  # whether a ping is due or overdue
_FIRST_DEAF_S, _LONGEST_DEAF_S = 60.0, 3600.0
"""How long a topic with a message that is too large is not listened to; doubles."""
_LAST_WORDS_S: Final = 1.0


class MqttLink:
    """`edge_agent.link.Link` over paho-mqtt. Starts its thread at once; `refusals` counts connections in a row without a welcome."""

    def __init__(
        self,
        settings: MqttSettings,
        *,
        client_id: str,
        certificate: Path | None = None,
        will: Message,
        subscriptions: tuple[str, ...],
        wake: Callable[[], None],
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Begin to connect.

        Args:
            settings: where the broker is.
            client_id: the device id; a second agent with the same id is thrown out by the broker.
            certificate: PEM of key and certificate, read again for each connection; without it no broker is tried.
            will: retained by the broker when the device is lost.
            subscriptions: topics, QoS 1.
            wake: called from the link's thread when there is something to look at.
            draw: uniform in [0, 1), for the jitter.

        Raises:
            SettingsError: the CA file cannot be used.
        """
        self._settings = settings
        self._client_id = client_id
        self._certificate = certificate
        self._will = will
        self._subscriptions = subscriptions
        self._wake = wake
        ca_file = settings.ca_file if settings.tls else None
        self._tls = pinned_context(ca_file, "mqtt.ca_file") if ca_file is not None else None
        self._downlinks = DownlinkQueue(subscriptions)
        self._lock = threading.Lock()
        self._outgoing: deque[tuple[Message, EventKey, bool]] = deque()
        self._outgoing_bytes = 0
        self._outcomes: list[Outcome] = []
        self._settled = threading.Event()
        self._settled.set()
        self._stopping = threading.Event()
        self._renewing = threading.Event()
        self._bell, self._rope = socket.socketpair()
        self._rope.setblocking(False)  # noqa: FBT003 - the standard library's own signature
        self._in_flight: dict[int, tuple[EventKey, int, float]] = {}
        self._deaf: dict[str, tuple[float, float]] = {}
        self._listens_to: set[str] = set()
        self._refused_topics = ""
        self._complaints = 0
        self._reconnection = Reconnection(
            settings.url, client_id, maximum_s=settings.reconnect_max_s, draw=draw
        )
        self._line: BoundedSocket | None = None
        self._past_bytes = 0
        self.is_connected = False
        self.connections = self.refusals = 0
        self._thread = threading.Thread(target=self._run, name="mqtt-link", daemon=True)
        self._thread.start()

    @property
    def bytes_sent(self) -> int:
        """See `edge_agent.link.Link.bytes_sent`."""
        line = self._line
        return self._past_bytes + (line.bytes_sent if line is not None else 0)

    @property
    def trouble(self) -> str:
        """See `edge_agent.link.Link.trouble`."""
        return self._reconnection.trouble(time.monotonic()) or self._refused_topics

    def publish(self, message: Message, key: EventKey, *, retain: bool = False) -> bool:
        """See `edge_agent.link.Link.publish`."""
        with self._lock:
            is_full = len(self._outgoing) >= _OUTGOING or (
                self._outgoing_bytes + len(message.payload) > _OUTGOING_BYTES and bool(self._outgoing)
            )
            if not self.is_connected or is_full:
                return False
            self._outgoing.append((message, key, retain))
            self._outgoing_bytes += len(message.payload)
            self._settled.clear()
        self._ring()
        return True

    def take_outcomes(self) -> list[Outcome]:
        """See `edge_agent.link.Link.take_outcomes`."""
        with self._lock:
            taken, self._outcomes = self._outcomes, []
        return taken

    def take_messages(self) -> list[Message]:
        """See `edge_agent.link.Link.take_messages`."""
        return self._downlinks.take()

    def reconnect(self) -> None:
        """Connect again, with the certificate that is there now; what is under way stays in the outbox."""
        self._renewing.set()
        self._ring()

    def close(self, timeout_s: float) -> None:
        """See `edge_agent.link.Link.close`."""
        if not self._settled.wait(timeout_s):
            log.warning("farewell_not_acknowledged waited_s=%g: it stays in the outbox", timeout_s)
        self._stopping.set()
        self._ring()
        self._thread.join(timeout_s + _CONNECT_TIMEOUT_S)

    def _ring(self) -> None:
        """Make the owner look at once."""
        # Full: it has been rung already; closed: nobody is left to hear it.
        with contextlib.suppress(OSError):
            self._rope.send(b"!")

    def _run(self) -> None:
        while not self._stopping.is_set():
            was_reached = self._connect_once()
            self._stopping.wait(self._reconnection.pause_s(time.monotonic(), was_reached=was_reached))
        self._bell.close()
        self._rope.close()

    def _connect_once(self) -> bool:
        """Connect and serve until the connection is lost or closed; returns whether there was one."""
        client = self._new_client()
        connections, complaints, was_reached, fate = self.connections, self._complaints, False, Fate.LOST
        self._renewing.clear()  # what is read below is the newest there is
        try:
            if self._tls is not None and self._certificate is not None:
                show_certificate(self._tls, self._certificate)
            client.connect(self._settings.host, self._settings.port, keepalive=self._settings.keepalive_s)
            self._line, was_reached = client.line, True
            self._serve(client)
            if self._renewing.is_set():
                fate = Fate.UNSENT
            elif (connections, complaints) == (self.connections, self._complaints):
                # Some brokers hang up instead of answering that they refuse.
                why = f" ({self._line.alert})" if self._line and self._line.alert else ""
                self._complain(f"the broker hung up{why}; is this device enrolled, and not revoked?")
        except (BrokerMisbehavesError, NotEnrolledError) as error:
            fate = Fate.UNSENT
            if isinstance(error, TooLargeDownlinkError):
                self._turn_deaf(error.topic)
            self._complain(f"{error}.")
        except Exception as error:  # noqa: BLE001 - whatever a foreign library makes of a foreign sender ends this connection only
            self._complain(f"{type(error).__name__}: {error}; is the broker running and reachable?")
        finally:
            self.refusals += int(was_reached and connections == self.connections)
            if (sock := client.socket()) is not None:
                sock.close()
            self._forget_connection(Fate.UNSENT if self._stopping.is_set() else fate)
            self._past_bytes, self._line = self.bytes_sent, None
        return was_reached

    def _new_client(self) -> BoundedClient:
        client = BoundedClient(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=True,
            protocol=mqtt.MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = _CONNECT_TIMEOUT_S
        client.will_set(self._will.topic, self._will.payload, qos=1, retain=True)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribed
        client.on_message = self._on_message
        client.on_publish = self._on_acknowledged
        return client

    def _serve(self, client: BoundedClient) -> None:
        """Read and write until the connection ends; nobody else ever waits for the socket."""
        poller = select.poll()
        poller.register(self._bell, select.POLLIN)
        began_s = second_s = time.monotonic()
        read_before, is_blocked = 0, False
        while (line := client.line) is not None:
            if time.monotonic() - second_s >= 1.0:
                second_s, read_before = time.monotonic(), line.packets_read
            is_flooded = line.packets_read - read_before >= _READ_PER_S
            # A broker that does not take what it is told is not listened to: each of its words asks for an answer.
            may_read, wants_write = not is_flooded and not is_blocked, client.want_write()
            poller.register(
                line.fileno(), (select.POLLIN if may_read else 0) | (select.POLLOUT if wants_write else 0)
            )
            # What TLS has decrypted already no longer shows at the socket.
            is_readable = may_read and line.pending() > 0
            found = dict(poller.poll(0 if is_readable else _LOOK_EVERY_MS // (20 if is_flooded else 1)))
            events = found.get(line.fileno(), 0)
            is_blocked = wants_write and not events & select.POLLOUT
            if self._bell.fileno() in found:
                self._bell.recv(4096)
            if wants_write and events & ~select.POLLIN:
                client.loop_write()
            if is_readable or events & ~select.POLLOUT:
                client.loop_read()
            client.loop_misc()
            self._send_waiting(client)
            self._listen(client)
            if self._stopping.is_set() or self._renewing.is_set():
                client.hang_up(_LAST_WORDS_S)
                return
            if client.line is not None:
                self._check_patience(began_s)

    def _send_waiting(self, client: BoundedClient) -> None:
        while self._outgoing and self._has_room(self._outgoing[0][0]):
            with self._lock:
                message, key, retain = self._outgoing.popleft()
                self._outgoing_bytes -= len(message.payload)
                self._outcomes.append(Outcome(fate=Fate.LEFT, keys=(key,)))
            info = client.publish(message.topic, message.payload, qos=1, retain=retain)
            self._in_flight[info.mid] = key, len(message.payload), time.monotonic()
        with self._lock:
            if not self._outgoing and not self._in_flight:
                self._settled.set()

    def _has_room(self, message: Message) -> bool:
        under_way = sum(size for _, size, _ in self._in_flight.values())
        return not self._in_flight or (
            len(self._in_flight) < _UNACKNOWLEDGED
            and under_way + len(message.payload) <= _UNACKNOWLEDGED_BYTES
        )

    def _check_patience(self, began_s: float) -> None:
        """Raises `BrokerMisbehavesError` or `TimeoutError` where the broker has had long enough."""
        now_s = time.monotonic()
        if not self.is_connected and now_s - began_s > _WELCOME_S:
            raise BrokerMisbehavesError(f"the broker has not answered a greeting for {_WELCOME_S:g} s")
        oldest = next(iter(self._in_flight.values()), None)
        if oldest is not None and now_s - oldest[2] > _STALL_S + oldest[1] / _SLOWEST_BYTES_PER_S:
            raise TimeoutError(f"the broker has not acknowledged a message for {now_s - oldest[2]:.0f} s")

    def _listen(self, client: BoundedClient) -> None:
        """Subscribe to what this device listens to, and again to what it was deaf to for long enough."""
        now_s = time.monotonic()
        if not self.is_connected or len(self._listens_to) == len(self._subscriptions):
            return
        topics = [
            topic
            for topic in self._subscriptions
            if topic not in self._listens_to and self._deaf.get(topic, (0.0, 0.0))[0] <= now_s
        ]
        if topics:
            client.subscribe([(topic, 1) for topic in topics])
            self._listens_to.update(topics)

    def _turn_deaf(self, topic: str) -> None:
        if topic in self._subscriptions:
            _, last_s = self._deaf.get(topic, (0.0, _FIRST_DEAF_S / 2))
            pause_s = min(_LONGEST_DEAF_S, 2 * last_s)
            self._deaf[topic] = time.monotonic() + pause_s, pause_s

    def _forget_connection(self, fate: Fate) -> None:
        with self._lock:
            self.is_connected = False
            for what, keys in (
                (fate, [key for key, _, _ in self._in_flight.values()]),
                (Fate.UNSENT, [key for _, key, _ in self._outgoing]),
            ):
                if keys:
                    self._outcomes.append(Outcome(fate=what, keys=tuple(keys)))
            self._outgoing.clear()
            self._outgoing_bytes = 0
            self._in_flight.clear()
            self._listens_to.clear()
            self._settled.set()

    def _on_connect(
        self, client: mqtt.Client, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        if reason.is_failure:
            self._complain(f"the broker refused this device: {reason}; is it enrolled, and not revoked?")
            client.disconnect()
            return
        if self.is_connected:
            raise BrokerMisbehavesError("the broker answers a greeting twice")
        self.connections += 1
        self.is_connected, self.refusals = True, 0
        self._refused_topics = ""
        self._reconnection.connected(time.monotonic())
        self._wake()

    def _on_disconnect(
        self, _client: mqtt.Client, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        if self.is_connected and not self._stopping.is_set() and not self._renewing.is_set():
            self._reconnection.lost(str(reason))
        self.is_connected = False  # the rest follows when the owner leaves the connection
        self._wake()

    def _on_subscribed(
        self, _client: mqtt.Client, _data: Any, _mid: int, reasons: list[ReasonCode], _properties: Any
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            self._refused_topics = "the broker does not let this device listen to what the fleet says; do its access rules know the device?"
            self._reconnection.complain(self._refused_topics)

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        with contextlib.suppress(UnicodeDecodeError):  # a topic that is no text is none of ours
            self._deaf.pop(message.topic, None)
            self._downlinks.put(Message(topic=message.topic, payload=bytes(message.payload)))
        self._wake()

    def _on_acknowledged(self, _client: mqtt.Client, _data: Any, mid: int, *_: Any) -> None:
        taken = self._in_flight.pop(mid, None)
        if taken is not None:
            with self._lock:
                self._outcomes.append(Outcome(fate=Fate.TAKEN, keys=(taken[0],)))
            self._wake()

    def _complain(self, what: str) -> None:
        self._complaints += 1
        if not self._stopping.is_set():
            self._reconnection.complain(what)
