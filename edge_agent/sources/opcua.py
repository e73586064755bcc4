"""Nodes of an OPC UA server, read together in one request, by asyncua (extra ``opcua``).

A node whose status is bad, whose value is no number, or whose source time is too old is missing; the others are not. A server that does
not answer gives no row, and the next row connects anew. What a server sends for one row is bounded before it is decoded: a string of a
gigabyte, or an array of a million items, ends the connection.

asyncua lives in an event loop that runs only while a row is read; its channel is renewed in those moments, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import SourceError
from edge_agent.sources.live_settings import OpcUaSettings
from edge_agent.sources.sampled import number, password_in

if TYPE_CHECKING:
    from asyncua import Client, ua

__all__ = ["OpcUaInstrument"]

log = logging.getLogger(__name__)

_MOST_BYTES: Final = 256 * 1024
"""That a server may send for one row, or while it is connected to; and as much more a node as a number with its times takes."""
_BYTES_A_NODE: Final = 256
_CONNECTING: Final = 4
"""Requests that connecting takes, each with its own patience."""


class OpcUaInstrument:
    """Implements `sampled.Instrument`; raises SourceError where asyncua is not installed, or a node id is none."""

    def __init__(self, settings: OpcUaSettings) -> None:
        try:
            from asyncua import ua  # a second and 40 MB, for this source alone
        except ImportError:
            raise SourceError("source.kind 'opcua' needs asyncua: pip install 'fedge[opcua]'") from None
        logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # it logs tracebacks; we say what matters
        self._settings, self._password = settings, password_in(settings.password_file)
        self._nodes = [_node(ua.NodeId, sensor, text) for sensor, text in settings.nodes.items()]
        self._most_bytes = _MOST_BYTES + _BYTES_A_NODE * len(self._nodes)
        self._runner = asyncio.Runner()
        self._client: Client | None = None
        self._received = 0
        self._refused = frozenset[str]()

    def read(self) -> NDArray[np.float32]:
        """See `Instrument`."""
        try:
            found = self._runner.run(self._read())
        except SourceError:
            self._hang_up()
            raise
        except Exception as error:  # noqa: BLE001 - whatever a server makes asyncua raise; none of it crosses this adapter
            self._hang_up()
            if self._received > self._most_bytes:
                raise SourceError(
                    f"{self._settings.url} sends more than {self._most_bytes:,} bytes for {len(self._nodes)} numbers; is a node an array or a text?"
                ) from None
            raise SourceError(f"{self._settings.url}: {_why(error, self._settings)}") from None
        return self._row(found)

    def close(self) -> None:
        """See `Instrument`."""
        self._hang_up()
        self._runner.close()

    async def _read(self) -> Sequence[ua.DataValue]:
        from asyncua import ua

        patience_s = self._settings.answers_within_s
        self._received = 0
        if self._client is None:
            async with asyncio.timeout(_CONNECTING * patience_s):
                self._client = await self._connected()
        self._received = 0
        async with asyncio.timeout(patience_s):
            found: Sequence[ua.DataValue] = await self._client.uaclient.read_attributes(
                self._nodes, ua.AttributeIds.Value
            )
        if len(found) != len(self._nodes):
            raise SourceError(f"{self._settings.url} answered for {len(found)} of {len(self._nodes)} nodes")
        return found

    async def _connected(self) -> Client:
        from asyncua import Client, ua
        from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256

        settings = self._settings
        client = Client(settings.url, timeout=settings.answers_within_s)
        self._bound(client)
        if settings.security != "none":
            mode = ua.MessageSecurityMode
            await client.set_security(
                SecurityPolicyBasic256Sha256,
                certificate=str(settings.certificate_file),
                private_key=str(settings.key_file),
                server_certificate=str(settings.server_certificate_file),
                mode=mode.SignAndEncrypt if settings.security == "sign-encrypt" else mode.Sign,
            )
        if settings.username is not None and self._password is not None:
            client.set_user(settings.username)
            client.set_password(self._password)
        await client.connect()
        return client

    def _bound(self, client: Client) -> None:
        """Count what comes in, and hang up before more of it is kept than a row may take: asyncua itself takes any length."""
        made = client.uaclient._make_protocol  # noqa: SLF001 - there is no other way in; the hostile-server tests watch over it

        def counted() -> Any:
            protocol = made()
            take = protocol.data_received

            def data_received(data: bytes) -> None:
                self._received += len(data)
                if self._received > self._most_bytes:
                    protocol.receive_buffer = None
                    protocol.disconnect_socket()
                    return
                take(data)

            protocol.data_received = data_received
            return protocol

        client.uaclient._make_protocol = counted  # noqa: SLF001 - as above

    def _hang_up(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        try:
            self._runner.run(asyncio.wait_for(client.disconnect(), self._settings.answers_within_s))
        except Exception as error:  # noqa: BLE001 - a server that is gone cannot be said goodbye to
            log.debug("opcua_not_closed error=%s", error)

    def _row(self, found: Sequence[ua.DataValue]) -> NDArray[np.float32]:
        row = np.full(len(found), np.nan, np.float32)
        refused = set[str]()
        oldest = None
        if self._settings.stale_after_s is not None:
            oldest = datetime.now(UTC).timestamp() - self._settings.stale_after_s
        for place, (sensor, value) in enumerate(zip(self._settings.nodes, found, strict=True)):
            status = value.StatusCode
            if status is not None and not status.is_good():
                refused.add(f"{sensor}: {status.name}")
            elif oldest is not None and _is_older(value.SourceTimestamp, oldest):
                refused.add(f"{sensor}: stale")
            else:
                row[place] = number(value.Value.Value if value.Value is not None else None)
                if np.isnan(row[place]):
                    refused.add(f"{sensor}: no number")
        if refused - self._refused:
            log.warning("opcua_values_missing %s", ", ".join(sorted(refused)[:20]))
        self._refused = frozenset(refused)
        return row


def _node(node_id: type[ua.NodeId], sensor: str, text: str) -> ua.NodeId:
    try:
        return node_id.from_string(text)
    except Exception:  # noqa: BLE001 - asyncua raises what its parser happens to raise
        raise SourceError(
            f"source.nodes.{sensor} = {text!r} is no node id; valid: ns=2;s=Line3.Pressure or ns=2;i=1001"
        ) from None


def _is_older(time: datetime | None, oldest_s: float) -> bool:
    """Whether a source time is before `oldest_s`; one that is not given is as old as can be. asyncua gives UTC, naive in old versions."""
    if time is None:
        return True
    aware = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    return aware.timestamp() < oldest_s


def _why(error: Exception, settings: OpcUaSettings) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {settings.answers_within_s:g} s"
    if isinstance(error, FileNotFoundError):
        return f"cannot read {error.filename}"
    if isinstance(error, OSError) and not isinstance(error, ConnectionError):
        return f"cannot be reached ({error.strerror or error}): is the server up, and the address right?"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there: is the server up, and the port right?"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
