"""Values that others publish on MQTT topics: the newest of each, as long as it is fresh.

One thread of this source keeps the connection and takes messages in; the row is made from what lies there. A retained message says
nothing of when it was measured, and is passed over. What a broker sends is bounded before it is collected (`edge_agent.bounded_client`);
what a publisher sends is read strictly: a number, or a field of a JSON object.

MQTT 3.1.1 with QoS 0: a value that was lost is followed by the next one.
"""

from __future__ import annotations

import logging
import math
import random
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import numpy as np
import paho.mqtt.client as mqtt
from numpy.typing import NDArray
from paho.mqtt.enums import CallbackAPIVersion

from edge_agent.bounded_client import BoundedClient, BrokerMisbehavesError
from edge_agent.errors import EdgeAgentError, SourceError
from edge_agent.pinned_tls import pinned_context, show_certificate
from edge_agent.sources.live_settings import TopicSettings
from edge_agent.sources.sampled import number, password_in
from runtime.backoff import backoff_s
from runtime.errors import FedgeError
from runtime.unreadable import UNREADABLE

__all__ = ["TopicInstrument", "value_in"]

log = logging.getLogger(__name__)

MOST_PAYLOAD_BYTES: Final = 64 * 1024
"""Of one message: a JSON object with hundreds of fields."""
_LONGEST_PAUSE_S: Final = 30.0
_JOIN_S: Final = 2.0


class TopicInstrument:
    """Implements `sampled.Instrument`; connects at its first row. Raises SourceError for a secret or CA that cannot be used."""

    def __init__(self, settings: TopicSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._clock = settings, clock
        self._wanted: dict[str, list[tuple[str, str]]] = {}
        for sensor, text in settings.topics.items():
            topic, _, field = text.partition("#")
            self._wanted.setdefault(topic, []).append((sensor, field))
        self._newest: dict[str, tuple[float, float]] = {}
        self._state = "not connected yet"
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._client = self._made()

    def read(self) -> NDArray[np.float32]:
        """See `Instrument`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep, name="source-mqtt", daemon=True)
            self._thread.start()
        oldest_s = self._clock() - self._settings.stale_after_s
        nothing = (-math.inf, math.nan)
        newest = [self._newest.get(sensor, nothing) for sensor in self._settings.topics]
        if all(heard_s < oldest_s for heard_s, _ in newest):
            raise SourceError(
                f"{self._settings.url}: nothing on {', '.join(list(self._wanted)[:5])} for {self._settings.stale_after_s:g} s ({self._state})"
            )
        return np.array([value if heard_s >= oldest_s else math.nan for heard_s, value in newest], np.float32)

    def close(self) -> None:
        """See `Instrument`."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(_JOIN_S)

    def _made(self) -> BoundedClient:
        settings = self._settings
        client = BoundedClient(
            CallbackAPIVersion.VERSION2,
            client_id=f"fedge-source-{secrets.token_hex(6)}",
            protocol=mqtt.MQTTv311,
        )
        password = password_in(settings.password_file)
        if settings.username is not None:
            client.username_pw_set(settings.username, password)
        if settings.ca_file is not None:
            try:
                context = pinned_context(settings.ca_file, "source.ca_file")
                if settings.certificate_file is not None:
                    show_certificate(context, settings.certificate_file)
            except (FedgeError, EdgeAgentError) as error:
                raise SourceError(str(error)) from None
            client.tls_set_context(context)
        client.on_connect = self._connected
        client.on_message = self._heard
        return client

    def _keep(self) -> None:
        """Connect, take in, and connect again after growing pauses, until told to stop."""
        tries = 0
        while not self._stopping.is_set():
            try:
                self._client.connect(self._settings.host, self._settings.port, self._settings.keepalive_s)
                while not self._stopping.is_set():
                    if (code := self._client.loop(timeout=1.0)) != mqtt.MQTT_ERR_SUCCESS:
                        self._say(
                            self._state
                            if "refuse" in self._state
                            else f"connection lost: {mqtt.error_string(code)}"
                        )
                        break
                    tries = 0 if self._state == "connected" else tries
            except (OSError, ValueError, BrokerMisbehavesError) as error:
                self._say(_why(error))
            tries += 1
            pause_s = backoff_s(tries, first_s=1.0, maximum_s=_LONGEST_PAUSE_S, draw=random.random())  # noqa: S311 - spreads devices
            self._stopping.wait(pause_s)
        self._client.disconnect()

    def _say(self, state: str) -> None:
        if state != self._state:
            log.info("source_broker url=%s state=%s", self._settings.url, state)
        self._state = state

    def _connected(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._say(f"the broker refuses this account: {reason}")
            return
        self._say("connected")
        client.subscribe([(topic, 0) for topic in self._wanted])

    def _heard(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        if message.retain:
            return
        now_s, payload = self._clock(), message.payload
        wanted = self._wanted.get(message.topic, ())
        found = _parsed(payload) if len(payload) <= MOST_PAYLOAD_BYTES else None
        for sensor, field in wanted:
            self._newest[sensor] = (now_s, value_in(found, field))


def value_in(found: object, field: str) -> float:
    """The number in a message that was read: itself, or that of a field by its path; NaN where there is none.

    >>> [value_in(2.5, ""), value_in({"a": {"b": 3}}, "a.b"), value_in({"a": "x"}, "a"), value_in(1, "a")]
    [2.5, 3.0, nan, nan]
    """
    for part in field.split(".") if field else ():
        found = found.get(part) if isinstance(found, Mapping) else None
    return number(found)


def _parsed(payload: bytes | bytearray) -> object:
    """What a publisher sent: JSON, or a number as C writes it; None for anything else."""
    try:
        return msgspec.json.decode(payload)
    except UNREADABLE:
        pass
    try:
        return float(payload.decode("ascii")) if len(payload) <= 64 else None
    except ValueError:  # UnicodeDecodeError is one
        return None


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not the pinned CA's: {error.verify_message}"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there"
    return f"{error}"[:200]
