"""The embedded MQTT broker of a simulated world: amqtt on loopback, over mutual TLS, with topic rights.

``python -m simulations.broker --listen 127.0.0.1:PORT --tenant T --shut-out FILE --certificate FILE --key FILE --clients FILE``

Not for production (use Mosquitto; `deploy/` shows how): amqtt keeps sessions and retained messages in memory and
manages about a thousand QoS 1 messages a second (`benchmarks/embedded_broker.py`). It speaks nothing but TLS, refuses
to listen beyond loopback, lets in who shows a certificate of a CA in the clients' file and is called as it says, throws out and
keeps out who stands in the file that the fleet maintains, and gives each device its own topics only.
docs/decisions/0011 says why amqtt.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import ssl
import sys
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from amqtt.adapters import ReaderAdapter, WriterAdapter
from amqtt.broker import Broker
from amqtt.contexts import Action, BaseContext
from amqtt.errors import BrokerError
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import Session

from protocol.errors import TopicError
from protocol.topics import DOWNLINK_KINDS, PREFIX, TRAINING, UPLINK_KINDS, parse_device_topic
from runtime.bounded_logs import log_to_stderr
from service.addresses import is_loopback, split_endpoint

FLEET: Final = "fleet"
"""The name that hears what devices say and tells them what to do."""

AGGREGATOR: Final = "aggregator"
"""The name that publishes training invitations."""

LOOK_EVERY_S: Final = 0.1
"""How soon the file of who is shut out is looked at again."""

_peer: ContextVar[str | None] = ContextVar("_peer", default=None)
"""The name in the certificate of whom the present connection is with."""


class NameFile:
    """One name a line; read again whenever it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at: tuple[int, int] | None = None
        self._names: frozenset[str] = frozenset()

    def names(self) -> frozenset[str]:
        """Who stands in it; nobody where there is no such file yet."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return self._names
        if (stat.st_mtime_ns, stat.st_ino) != self._read_at:
            self._names = frozenset(self._path.read_text("utf-8").split())
            self._read_at = (stat.st_mtime_ns, stat.st_ino)
        return self._names


class CertificateNames(BaseAuthPlugin):
    """Accepts who is called as his certificate says, unless he is shut out, and whose will is his to say."""

    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)
        self._shut_out = NameFile(Path(self.config.shut_out))

    async def authenticate(self, *, session: Session) -> bool | None:
        """Whether the session may begin; its user is the name in the certificate from then on."""
        name = certificate_name(session.ssl_object)
        if name is None or name != session.client_id or name in self._shut_out.names():
            return False
        if session.will_flag and not may(name, session.will_topic or "", self.config.tenant, publish=True):
            return False
        session.username = name
        return True

    @dataclass
    class Config:
        """Who is shut out, and whose broker it is."""

        shut_out: str = ""
        tenant: str = ""


class DeviceTopics(BaseTopicPlugin):
    """A device publishes its own uplink and reads its own downlink and the invitations; `may` has the rest."""

    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: Action | None = None
    ) -> bool | None:
        """Whether `session` may do `action` on `topic`."""
        if session is None or not session.username or not topic:
            return False
        return may(session.username, topic, self.config.tenant, publish=action == Action.PUBLISH)

    @dataclass
    class Config:
        """Whose topics there are."""

        tenant: str = ""


class CertifiedBroker(Broker):
    """Demands a certificate of everybody; a connection ends no session but that of the name it shows."""

    @staticmethod
    def _create_ssl_context(listener: Any) -> ssl.SSLContext:
        context = Broker._create_ssl_context(listener)  # noqa: SLF001 - amqtt asks for a certificate, and has no setting that demands one
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    async def _client_connected(
        self, listener_name: str, reader: ReaderAdapter, writer: WriterAdapter
    ) -> None:
        _peer.set(certificate_name(writer.get_ssl_info()))
        await super()._client_connected(listener_name, reader, writer)

    async def _delete_session(self, client_id: str) -> None:
        # amqtt ends the former session of a client id before it asks whether its new holder may come in
        if _peer.get() in {None, client_id}:
            await super()._delete_session(client_id)

    async def throw_out(self, shut_out: NameFile) -> None:
        """End the sessions of whoever is shut out, again and again."""
        while True:
            for name in shut_out.names() & self.sessions.keys():
                session, handler = self.sessions[name]
                if session.transitions.is_connected():
                    session.will_flag = False
                    await handler.handle_connection_closed()
            await asyncio.sleep(LOOK_EVERY_S)


def certificate_name(connection: ssl.SSLObject | None) -> str | None:
    """The common name that the peer's certificate, which was verified, has."""
    shown: Any = (connection.getpeercert() if connection else None) or {}
    names = [value for part in shown.get("subject", ()) for key, value in part if key == "commonName"]
    return str(names[0]) if len(names) == 1 else None


def may(name: str, topic: str, tenant: str, *, publish: bool) -> bool:
    """Whether the holder of a name may publish to, or else read, a topic or filter: as Mosquitto's acl has it."""
    own, _, kind = topic.rpartition("/")
    if own == f"{PREFIX}/{tenant}/{TRAINING}":
        return kind not in {"", "#"} and (not publish or name == AGGREGATOR)
    if name == FLEET:
        kinds = {k.value for k in (DOWNLINK_KINDS if publish else UPLINK_KINDS)}
        return own.rpartition("/")[0] == f"{PREFIX}/{tenant}" and kind in kinds
    try:
        parsed = parse_device_topic(topic)
    except TopicError:
        return False
    kinds = {k.value for k in (UPLINK_KINDS if publish else DOWNLINK_KINDS)}
    return parsed.device == name and parsed.tenant == tenant and kind in kinds


def broker_settings(options: argparse.Namespace) -> dict[str, object]:
    """The amqtt configuration: one TLS listener, our two plug-ins, nothing of its defaults."""
    return {
        "listeners": {
            "default": {
                "type": "tcp",
                "bind": options.listen,
                "max_connections": 1000,
                "ssl": True,
                "certfile": str(options.certificate),
                "keyfile": str(options.key),
                "cafile": str(options.clients),
            }
        },
        "plugins": {
            "simulations.broker.CertificateNames": {
                "shut_out": str(options.shut_out),
                "tenant": options.tenant,
            },
            "simulations.broker.DeviceTopics": {"tenant": options.tenant},
        },
    }


async def serve(options: argparse.Namespace) -> None:
    """Run a broker until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    broker = CertifiedBroker(broker_settings(options))
    await broker.start()
    porter = asyncio.create_task(broker.throw_out(NameFile(options.shut_out)))
    await stop.wait()
    porter.cancel()
    await broker.shutdown()


def main() -> int:
    """Parse the command line and serve; returns the exit status."""
    parser = argparse.ArgumentParser(description="MQTT broker for a simulated world (loopback only)")
    parser.add_argument("--listen", required=True, help="host:port on loopback")
    parser.add_argument("--tenant", required=True, help="whose broker it is")
    parser.add_argument("--shut-out", required=True, type=Path, help="names that stay out, one a line")
    parser.add_argument("--certificate", required=True, type=Path, help="what clients are shown, PEM")
    parser.add_argument("--key", required=True, type=Path, help="its private key, PEM")
    parser.add_argument("--clients", required=True, type=Path, help="CAs of clients, PEM")
    options = parser.parse_args()
    try:
        is_here = is_loopback(split_endpoint(options.listen).host)
    except ValueError as error:
        sys.stderr.write(f"broker: {error}\n")
        return 2
    if not is_here:
        sys.stderr.write(
            f"broker: {options.listen} is not loopback; beyond this machine use Mosquitto (deploy/README.md)\n"
        )
        return 2
    log_to_stderr("broker: %(message)s", logging.ERROR)
    logging.getLogger("amqtt").setLevel(
        logging.CRITICAL
    )  # it prints tracebacks for what is told in one line below
    try:
        asyncio.run(serve(options))
    except (BrokerError, OSError) as error:
        sys.stderr.write(f"broker: cannot listen on {options.listen}: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
