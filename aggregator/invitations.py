"""The invitation board over MQTT: what shall stand retained on each family's training topic, and a task that makes it so.

`post` and `clear` may be called from any thread; they change what shall stand and return. `run` connects, publishes ALL
families anew (an embedded broker forgets, and a run may have ended while it was away), then every change, and starts over
when the connection breaks. An empty retained message clears a topic.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import aiomqtt
import structlog

from aggregator.errors import SettingsError
from aggregator.fleet_client import read_secret
from aggregator.settings import MqttSettings
from protocol.messages.envelope import Event, encode
from protocol.messages.payloads import TrainingInvitation
from protocol.names import FamilyName
from protocol.topics import training_topic

__all__ = ["MqttInvitationBoard", "broker_account"]

RECONNECT_S: Final = (0.5, 1.0, 2.0, 5.0)
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
SOURCE: Final = "aggregator"

_log = structlog.get_logger()


class MqttInvitationBoard:
    """Implements `aggregator.rounds.ports.InvitationBoard`.

    Args:
        settings: the broker.
        tenant: first level of the topics.
        families: whose topics are cleared while nothing is posted.
        boot_id: of this process, for event ids.
        now: Unix seconds.

    Raises:
        SettingsError: plain MQTT beyond loopback, or a password or CA file that cannot be used.
    """

    def __init__(
        self,
        settings: MqttSettings,
        *,
        tenant: str,
        families: Iterable[str],
        boot_id: str,
        now: Callable[[], float],
    ) -> None:
        self._connect = broker_account(settings)
        self._tenant, self._boot_id, self._now = tenant, boot_id, now
        self._lock = threading.Lock()
        self._standing: dict[str, TrainingInvitation | None] = dict.fromkeys(families)
        self._dirty: set[str] = set(self._standing)
        self._sequence = 0
        self._wake: Callable[[], object] = lambda: None
        self._is_connected = False

    @property
    def is_connected(self) -> bool:
        """Whether the broker is there."""
        return self._is_connected

    def post(self, invitation: TrainingInvitation) -> None:
        """See `InvitationBoard.post`."""
        self._set(invitation.family, invitation)

    def clear(self, family: FamilyName) -> None:
        """See `InvitationBoard.clear`."""
        self._set(family, None)

    async def run(self) -> None:
        """Keep the broker's retained invitations as they shall stand, until this task is canceled."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        self._wake = partial(loop.call_soon_threadsafe, changed.set)
        attempt = 0
        while True:
            try:
                async with self._connect() as client:
                    _log.info("broker_connected")
                    attempt, self._is_connected = 0, True
                    with self._lock:
                        self._dirty = set(self._standing)
                    await self._publish_changes(client, changed)
            except aiomqtt.MqttError as error:
                _log.warning("broker_lost", reason=str(error))
            finally:
                self._is_connected = False
            await asyncio.sleep(RECONNECT_S[min(attempt, len(RECONNECT_S) - 1)])
            attempt += 1

    async def _publish_changes(self, client: aiomqtt.Client, changed: asyncio.Event) -> None:
        # The client notices a lost connection only while somebody reads from it.
        listener = asyncio.create_task(_drain(client))
        try:
            while not listener.done():
                changed.clear()
                for family, payload in self._take_changes():
                    await client.publish(training_topic(self._tenant, family), payload, qos=1, retain=True)
                waiter = asyncio.create_task(changed.wait())
                await asyncio.wait({waiter, listener}, return_when=asyncio.FIRST_COMPLETED)
                waiter.cancel()
            listener.result()
        finally:
            listener.cancel()

    def _set(self, family: str, invitation: TrainingInvitation | None) -> None:
        with self._lock:
            self._standing[family] = invitation
            self._dirty.add(family)
        self._wake()

    def _take_changes(self) -> list[tuple[str, bytes]]:
        with self._lock:
            changes = [(family, self._payload(family)) for family in sorted(self._dirty)]
            self._dirty.clear()
        return changes

    def _payload(self, family: str) -> bytes:
        invitation = self._standing[family]
        if invitation is None:
            return b""
        self._sequence += 1
        return encode(
            Event(
                source=SOURCE,
                boot_id=self._boot_id,
                sequence=self._sequence,
                time=self._now(),
                data=invitation,
            )
        )


def broker_account(settings: MqttSettings) -> Callable[[], aiomqtt.Client]:
    """Check the broker's settings once and return what makes a client for each connection.

    Raises:
        SettingsError: see `MqttInvitationBoard`.
    """
    parts = urlsplit(settings.url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host:
        raise SettingsError(
            f"mqtt.url {settings.url!r} names no broker; expected e.g. mqtts://broker.example:8883"
        )
    if parts.scheme == "mqtt" and host not in LOOPBACK:
        raise SettingsError(
            f"mqtt.url {settings.url!r} would send passwords in clear; use mqtts:// beyond loopback"
        )
    password = None
    if settings.password_file is not None:
        password = read_secret(settings.password_file, "mqtt.password_file")
    context: ssl.SSLContext | None = None
    if parts.scheme == "mqtts":
        try:
            context = ssl.create_default_context(cafile=str(settings.ca_file) if settings.ca_file else None)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(f"mqtt.ca_file {settings.ca_file} cannot be used: {error}") from None

    def connect() -> aiomqtt.Client:
        return aiomqtt.Client(
            host,
            port or (1883 if context is None else 8883),
            username=settings.username,
            password=password,
            tls_context=context,
            protocol=aiomqtt.ProtocolVersion.V311,
            timeout=10.0,
        )

    return connect


async def _drain(client: aiomqtt.Client) -> None:
    async for _ in client.messages:
        pass
