"""The road to the broker: one connection that is always being kept or being restored.

It moves bytes and knows topics; what the bytes mean is the caller's business. It keeps nothing: whatever is not
acknowledged by the fleet is in the outbox and is sent again over the next connection. A fresh client is built for
every connection, so that no stale queue of the last one is replayed.

Invariant: one thread owns the connection. It alone makes paho's client, reads and writes its socket, and hangs up; the
client is a local variable of that thread, so that nobody else can reach it. (paho lets whoever publishes write the
socket, and TLS breaks when two threads do.) Everybody else hands over through bounded queues::

    publish ───────► outgoing ─┐   ┌─► incoming ───────► take_messages           is_connected   connections
                               ▼   │
    owner: connect ─► subscribe ─► wait for socket or handover ─► read, write … until lost ─► pause (jittered) ─► connect

Back-pressure: a broker that acknowledges slowly fills `outgoing`; then `publish` says no, and the outbox offers the
event again with its next turn.

MQTT 3.1.1, QoS 1, clean session, retained last will. Source: OASIS MQTT 3.1.1.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import random
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from edge_agent.enrolled import MqttAccess
from edge_agent.link import Message
from edge_agent.pinned_tls import pinned_context
from edge_agent.settings import MqttSettings
from runtime.backoff import backoff_s

__all__ = ["MqttLink"]

log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S: Final = 5.0
_FIRST_PAUSE_S: Final = 0.5
"""Before the second attempt, at most; doubles up to ``mqtt.reconnect_max_s``."""
_INCOMING: Final = 1000
"""Messages that may wait for the loop; beyond, the newest is dropped (all of them are repeated by their senders)."""
_OUTGOING: Final = 64
"""Messages that may wait for the owner; twice what the outbox has under way by default."""
_UNACKNOWLEDGED: Final = 20
"""Messages that the broker has not acknowledged; the receive window of most brokers, and paho's own."""
_LOOK_EVERY_MS: Final = 1000
"""How often an idle owner looks whether a ping is due or overdue."""
_LAST_WORDS_S: Final = 1.0
_MOST_REASONS_TOLD: Final = 8
"""Different complaints in the log of one outage; errors that never repeat must not fill it either."""


class MqttLink:
    """`edge_agent.link.Link` over paho-mqtt. Starts its thread at once; the broker may appear later."""

    def __init__(
        self,
        settings: MqttSettings,
        *,
        client_id: str,
        credentials: MqttAccess,
        will: Message,
        subscriptions: tuple[str, ...],
        wake: Callable[[], None],
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Begin to connect.

        Args:
            settings: where the broker is.
            client_id: the device id; a second agent with the same id is thrown out by the broker.
            credentials: from enrolment.
            will: retained by the broker when the device is lost.
            subscriptions: topics, QoS 1.
            wake: called from the link's thread when there is something to look at.
            draw: uniform in [0, 1), for the jitter.

        Raises:
            SettingsError: the CA file cannot be used.
        """
        self._settings = settings
        self._client_id = client_id
        self._credentials = credentials
        self._will = will
        self._subscriptions = subscriptions
        self._wake = wake
        self._draw = draw
        ca_file = settings.ca_file if settings.tls else None
        self._tls = pinned_context(ca_file, "mqtt.ca_file") if ca_file is not None else None
        self._incoming: queue.Queue[Message] = queue.Queue(_INCOMING)
        self._lock = threading.Lock()
        self._outgoing: deque[tuple[str, bytes, bool]] = deque()
        self._settled = threading.Event()
        self._settled.set()
        self._stopping = threading.Event()
        self._bell, self._rope = socket.socketpair()
        self._rope.setblocking(False)  # noqa: FBT003 - the standard library's own signature
        self._unacknowledged = 0
        self._complaints = 0
        self._told: set[str] = set()
        self.is_connected = False
        self.connections = 0
        self._thread = threading.Thread(target=self._run, name="mqtt-link", daemon=True)
        self._thread.start()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """See `edge_agent.link.Link.publish`."""
        with self._lock:
            if not self.is_connected or len(self._outgoing) >= _OUTGOING:
                return False
            self._outgoing.append((topic, payload, retain))
            self._settled.clear()
        self._ring()
        return True

    def take_messages(self) -> list[Message]:
        """See `edge_agent.link.Link.take_messages`."""
        taken = []
        while True:
            try:
                taken.append(self._incoming.get_nowait())
            except queue.Empty:
                return taken

    def close(self, timeout_s: float) -> None:
        """See `edge_agent.link.Link.close`."""
        if not self._settled.wait(timeout_s):
            log.warning("farewell_not_acknowledged waited_s=%g: it stays in the outbox", timeout_s)
        self._stopping.set()
        self._ring()
        self._thread.join(timeout_s + _CONNECT_TIMEOUT_S)

    def _ring(self) -> None:
        """Make the owner look at once."""
        with contextlib.suppress(
            OSError
        ):  # full: it has been rung already; closed: nobody is left to hear it
            self._rope.send(b"!")

    def _run(self) -> None:
        attempt = 0
        while not self._stopping.is_set():
            connections, began_s = self.connections, time.monotonic()
            self._connect_once()
            has_lasted = time.monotonic() - began_s > self._settings.reconnect_max_s
            if has_lasted and self.connections != connections:
                attempt = 0
                self._told.clear()
            attempt += 1
            pause_s = backoff_s(
                attempt, first_s=_FIRST_PAUSE_S, maximum_s=self._settings.reconnect_max_s, draw=self._draw()
            )
            self._stopping.wait(pause_s)
        self._bell.close()
        self._rope.close()

    def _connect_once(self) -> None:
        """Connect and serve until the connection is lost or closed."""
        client = self._new_client()
        connections, complaints = self.connections, self._complaints
        try:
            client.connect(self._settings.host, self._settings.port, keepalive=self._settings.keepalive_s)
            self._serve(client)
            if (connections, complaints) == (self.connections, self._complaints):
                # Some brokers hang up instead of answering that they refuse.
                self._complain("the broker hung up; is this device enrolled, and not revoked?")
        except Exception as error:  # noqa: BLE001 - whatever a foreign library makes of a foreign sender ends this connection only
            self._complain(f"{type(error).__name__}: {error}; is the broker running and reachable?")
        finally:
            if (sock := client.socket()) is not None:
                sock.close()
            self._forget_connection()

    def _new_client(self) -> mqtt.Client:
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=True,
            protocol=mqtt.MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = _CONNECT_TIMEOUT_S
        client.username_pw_set(self._credentials.username, self._credentials.password)
        client.will_set(self._will.topic, self._will.payload, qos=1, retain=True)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_acknowledged
        return client

    def _serve(self, client: mqtt.Client) -> None:
        """Read and write until the connection ends; nobody else ever waits for the socket."""
        poller = select.poll()
        poller.register(self._bell, select.POLLIN)
        while (sock := client.socket()) is not None:
            poller.register(sock, select.POLLIN | (select.POLLOUT if client.want_write() else 0))
            # What TLS has decrypted already no longer shows at the socket.
            is_readable = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
            ready = {descriptor for descriptor, _ in poller.poll(0 if is_readable else _LOOK_EVERY_MS)}
            if self._bell.fileno() in ready:
                self._bell.recv(4096)
            if is_readable or sock.fileno() in ready:
                client.loop_read()
            if client.want_write():
                client.loop_write()
            client.loop_misc()
            self._send_waiting(client)
            if self._stopping.is_set():
                if client.socket() is not None:
                    _hang_up(client, sock.fileno())
                return

    def _send_waiting(self, client: mqtt.Client) -> None:
        while self._outgoing and self._unacknowledged < _UNACKNOWLEDGED:
            topic, payload, retain = self._outgoing.popleft()
            self._unacknowledged += 1
            client.publish(topic, payload, qos=1, retain=retain)
        with self._lock:
            if not self._outgoing and not self._unacknowledged:
                self._settled.set()

    def _forget_connection(self) -> None:
        with self._lock:
            self.is_connected = False
            self._outgoing.clear()
            self._unacknowledged = 0
            self._settled.set()

    def _on_connect(
        self, client: mqtt.Client, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        if reason.is_failure:
            self._complain(f"the broker refused this device: {reason}; is it enrolled, and not revoked?")
            client.disconnect()
            return
        client.subscribe([(topic, 1) for topic in self._subscriptions])
        self.connections += 1
        self.is_connected = True
        if self._is_news("connected"):
            log.info("broker_connected url=%s", self._settings.url)
        self._wake()

    def _on_disconnect(
        self, _client: mqtt.Client, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        if self.is_connected and not self._stopping.is_set() and self._is_news(f"lost: {reason}"):
            log.warning(
                "broker_lost url=%s reason=%s: reconnecting; events wait in the outbox",
                self._settings.url,
                reason,
            )
        self._forget_connection()
        self._wake()

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        try:
            self._incoming.put_nowait(Message(topic=message.topic, payload=bytes(message.payload)))
        except (queue.Full, UnicodeDecodeError) as error:
            log.warning("downlink_dropped error=%s", type(error).__name__)
        self._wake()

    def _on_acknowledged(self, *_: Any) -> None:
        self._unacknowledged -= 1

    def _complain(self, what: str) -> None:
        self._complaints += 1
        if self._stopping.is_set():
            return
        if self._is_news(what):
            log.warning(
                "broker_unreachable url=%s: %s The agent goes on and keeps trying.", self._settings.url, what
            )

    def _is_news(self, what: str) -> bool:
        """Whether this was not said since a connection last held: a week of trouble must not fill the log."""
        if what in self._told or len(self._told) >= _MOST_REASONS_TOLD:
            return False
        self._told.add(what)
        return True


def _hang_up(client: mqtt.Client, descriptor: int) -> None:
    """Say goodbye and let the broker close first.

    paho closes at once. What the broker was just saying would then reset the connection, the goodbye would be lost on
    its way, and the broker would speak this device's will. A second descriptor keeps the connection until it is over.
    """
    with socket.socket(fileno=os.dup(descriptor)) as line, contextlib.suppress(OSError):
        client.disconnect()
        line.shutdown(socket.SHUT_WR)
        until_s = time.monotonic() + _LAST_WORDS_S
        while (left_s := until_s - time.monotonic()) > 0:
            line.settimeout(left_s)
            if not line.recv(65536):
                return
