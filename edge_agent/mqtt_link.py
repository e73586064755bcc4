"""The road to the broker: one connection that is always being kept or being restored.

It moves bytes and knows topics; what the bytes mean is the caller's business. It keeps nothing: whatever is not
acknowledged by the fleet is in the outbox and is sent again over the next connection. A fresh client is built for
every connection, so that no stale queue of the last one is replayed.

::

    thread: connect ─► subscribe (desired, ack, training) ─► read until lost ─► wait (jittered, bounded) ─► connect …
    loop:   publish(...)   take_messages()   is_connected   connections

MQTT 3.1.1, QoS 1, clean session, retained last will. Source: OASIS MQTT 3.1.1; backoff with full jitter after
M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog 2015.
"""

from __future__ import annotations

import logging
import queue
import random
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from edge_agent.errors import LinkError
from edge_agent.settings import MqttSettings

__all__ = ["Credentials", "Incoming", "Link", "MqttLink", "Will", "backoff_s", "client_tls"]

log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S: Final = 5.0
_INCOMING: Final = 1000
"""Messages that may wait for the loop; beyond, the newest is dropped (all of them are repeated by their senders)."""
_MOST_REASONS_TOLD: Final = 8
"""Different complaints in the log of one outage; errors that never repeat must not fill it either."""


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """MQTT user and password from enrolment; the password never appears in a log or a repr."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r})"


@dataclass(frozen=True, kw_only=True)
class Will:
    """What the broker says in this device's name when it goes silent."""

    topic: str
    payload: bytes


@dataclass(frozen=True, kw_only=True)
class Incoming:
    """One message as it came: not decoded, not trusted."""

    topic: str
    payload: bytes


class Link(Protocol):
    """What the agent asks of a road to the fleet. Every call returns at once."""

    @property
    def is_connected(self) -> bool:
        """Is a publish worth trying?"""

    @property
    def connections(self) -> int:
        """How often it has connected; a change means that everything unacknowledged must be sent again."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Hand one message over; False where the link did not take it."""

    def take_messages(self) -> list[Incoming]:
        """What arrived since the last call, oldest first."""

    def close(self, timeout_s: float) -> None:
        """Give what was published last up to `timeout_s` to leave, then disconnect cleanly (no will)."""


def backoff_s(attempt: int, maximum_s: float, draw: float) -> float:
    """How long to wait before attempt number `attempt` + 1.

    Args:
        attempt: failed attempts in a row, ≥ 1.
        maximum_s: upper bound, seconds.
        draw: uniform in [0, 1): spreads a fleet that lost its broker at the same moment.

    Returns:
        Seconds in [0.1, maximum_s].
    """
    ceiling = min(maximum_s, 0.5 * 2.0 ** min(attempt - 1, 16))
    return max(min(0.1, maximum_s), ceiling * (0.5 + 0.5 * draw))


def client_tls(settings: MqttSettings) -> ssl.SSLContext | None:
    """The TLS context that trusts `ca_file` and nothing else; None for ``mqtt://`` (loopback).

    Raises:
        LinkError: the CA file cannot be read or holds no certificate.
    """
    if not settings.tls:
        return None
    ca_file = settings.ca_file or Path()
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise LinkError(
            f"cannot use mqtt.ca_file {ca_file}: {error}; expected a PEM file with the broker's CA"
        ) from None


class MqttLink:
    """`Link` over paho-mqtt. Starts its thread at once; the broker may appear later."""

    def __init__(
        self,
        settings: MqttSettings,
        *,
        client_id: str,
        credentials: Credentials,
        will: Will,
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
            LinkError: the CA file cannot be used.
        """
        self._settings = settings
        self._client_id = client_id
        self._credentials = credentials
        self._will = will
        self._subscriptions = subscriptions
        self._wake = wake
        self._draw = draw
        self._tls = client_tls(settings)
        self._incoming: queue.Queue[Incoming] = queue.Queue(_INCOMING)
        self._stopping = threading.Event()
        self._client: mqtt.Client | None = None
        self._last_publish: mqtt.MQTTMessageInfo | None = None
        self._complaints = 0
        self._told: set[str] = set()
        self.is_connected = False
        self.connections = 0
        self._thread = threading.Thread(target=self._run, name="mqtt-link", daemon=True)
        self._thread.start()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """See `Link.publish`."""
        client = self._client
        if client is None or not self.is_connected:
            return False
        info = client.publish(topic, payload, qos=1, retain=retain)
        self._last_publish = info
        return info.rc == mqtt.MQTT_ERR_SUCCESS

    def take_messages(self) -> list[Incoming]:
        """See `Link.take_messages`."""
        taken = []
        while True:
            try:
                taken.append(self._incoming.get_nowait())
            except queue.Empty:
                return taken

    def close(self, timeout_s: float) -> None:
        """See `Link.close`."""
        if self.is_connected and self._last_publish is not None:
            try:
                self._last_publish.wait_for_publish(timeout_s)
            except (ValueError, RuntimeError) as error:
                log.warning("farewell_not_sent error=%s", error)
        self._stopping.set()
        if self._client is not None:
            self._client.disconnect()
        self._thread.join(timeout_s + _CONNECT_TIMEOUT_S)

    def _run(self) -> None:
        attempt = 0
        while not self._stopping.is_set():
            connections = self.connections
            self._connect_once()
            attempt = 1 if self.connections != connections else attempt + 1
            self._stopping.wait(backoff_s(attempt, self._settings.reconnect_max_s, self._draw()))

    def _connect_once(self) -> None:
        """Connect and serve until the connection is lost or closed."""
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
        self._client = client
        try:
            client.connect(self._settings.host, self._settings.port, keepalive=self._settings.keepalive_s)
            if self._stopping.is_set():
                return
            connections, complaints = self.connections, self._complaints
            client.loop_forever(retry_first_connection=False)
            if (
                connections == self.connections
                and complaints == self._complaints
                and not self._stopping.is_set()
            ):
                # Some brokers hang up instead of answering that they refuse.
                self._complain("the broker hung up; is this device enrolled, and not revoked?")
        except (OSError, ValueError) as error:
            self._complain(f"{error}; is the broker running and reachable?")
        finally:
            self.is_connected = False
            self._client = None

    def _on_connect(
        self, client: mqtt.Client, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        if reason.is_failure:
            self._complain(f"the broker refused this device: {reason}; is it enrolled, and not revoked?")
            client.disconnect()
            return
        client.subscribe([(topic, 1) for topic in self._subscriptions])
        self._told.clear()
        self._last_publish = None
        self.connections += 1
        self.is_connected = True
        log.info("broker_connected url=%s", self._settings.url)
        self._wake()

    def _on_disconnect(
        self, _client: mqtt.Client, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        if self.is_connected and not self._stopping.is_set():
            log.warning(
                "broker_lost url=%s reason=%s: reconnecting; events wait in the outbox",
                self._settings.url,
                reason,
            )
        self.is_connected = False
        self._wake()

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        try:
            self._incoming.put_nowait(Incoming(topic=message.topic, payload=bytes(message.payload)))
        except (queue.Full, UnicodeDecodeError) as error:
            log.warning("downlink_dropped error=%s", type(error).__name__)
        self._wake()

    def _complain(self, what: str) -> None:
        self._complaints += 1
        # Once per reason until it is back, though reasons may alternate: a week without a broker must not fill the log.
        if what not in self._told and len(self._told) < _MOST_REASONS_TOLD:
            self._told.add(what)
            log.warning(
                "broker_unreachable url=%s: %s The agent goes on and keeps trying.", self._settings.url, what
            )
