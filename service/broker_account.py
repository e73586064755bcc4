"""A cloud service's account at the broker: one session after the other, for as long as the service lives.

One asyncio loop owns each client (`service.mqtt_client`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

import structlog

from runtime.backoff import backoff_s
from runtime.errors import SettingsError
from service.broker_settings import BrokerSettings
from service.mqtt_client import MqttClient

__all__ = ["BrokerAccount"]

TIMEOUT_S: Final = 15.0
"""A broker that takes nothing for this long counts as gone; what waited is published after the reconnect."""

KEEPALIVE_S: Final = 20
"""A connection that died without a word is noticed after one and a half of these."""

MAXIMUM_PAUSE_S: Final = 5.0
"""Longest pause before the next attempt. One client: even at this rate no burden for a broker that comes back."""

_log = structlog.get_logger()


class BrokerAccount:
    """Connects as `settings` say.

    Args:
        settings: the broker and who we are there.
        client_id: the name in the service's certificate; the broker takes it from there.
        draw: uniform in [0, 1), anew at each call; several services do not come back in step.

    Raises:
        SettingsError: certificate, key or CA file cannot be used.
    """

    def __init__(self, settings: BrokerSettings, *, client_id: str, draw: Callable[[], float]) -> None:
        parts = urlsplit(settings.url)
        self._settings, self._client_id, self._draw = settings, client_id, draw
        self._host = parts.hostname or ""
        self._port = parts.port or (1883 if _tls(settings) is None else 8883)

    def client(self) -> MqttClient:
        """A client for one connection; it shows the certificate as the file has it now.

        Raises:
            SettingsError: as the constructor.
        """
        return MqttClient(
            self._host,
            self._port,
            client_id=self._client_id,
            tls=_tls(self._settings),
            keepalive_s=KEEPALIVE_S,
            timeout_s=TIMEOUT_S,
        )

    async def stay_connected(
        self,
        session: Callable[[MqttClient], Awaitable[None]],
        *,
        also_ends: tuple[type[Exception], ...] = (),
    ) -> None:
        """Hold `session` with each connection, and connect again whenever it broke, until canceled.

        Says once when the broker goes away and once when it is back.

        Args:
            session: runs until the connection breaks; what it raises then is an OSError.
            also_ends: other errors after which a new connection is the remedy.
        """
        clock, failed = asyncio.get_running_loop().time, 0
        # a certificate that is just being exchanged does not fit its key for a moment
        broken: tuple[type[Exception], ...] = (OSError, SettingsError, *also_ends)
        while True:
            connected_at: float | None = None
            try:
                async with self.client() as client:
                    connected_at = clock()
                    _log.info("broker_connected", broker=self._settings.url)
                    await session(client)
            except* broken as group:
                if connected_at is not None or failed == 0:
                    _log.warning("broker_unreachable", broker=self._settings.url, error=_first_line(group))
            # a session that broke at once is one more failure: two processes that push each other out calm down
            if connected_at is not None and clock() - connected_at > MAXIMUM_PAUSE_S:
                failed = 0
            failed += 1
            pause_s = backoff_s(
                failed, first_s=self._settings.reconnect_s, maximum_s=MAXIMUM_PAUSE_S, draw=self._draw()
            )
            await asyncio.sleep(pause_s)


def _tls(settings: BrokerSettings) -> ssl.SSLContext | None:
    if settings.tls_cert is None or not settings.url.startswith("mqtts:"):
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"mqtt.ca_file {settings.ca_file} holds no usable CA: {error}") from None
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"mqtt.tls_cert {settings.tls_cert} and mqtt.tls_key {settings.tls_key} cannot be used together: {error}"
        ) from None
    return context


def _first_line(group: BaseException) -> str:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return str(group).splitlines()[0] if str(group) else type(group).__name__
