"""The embedded MQTT broker of a simulated world: amqtt on loopback, over TLS, with passwords and topic rights.

``python -m simulations.broker --listen 127.0.0.1:PORT --passwords FILE --certificate FILE --key FILE``

Not for production (use Mosquitto; `deploy/` shows how): amqtt keeps sessions and retained messages in memory and
manages about a thousand QoS 1 messages a second (`benchmarks/embedded_broker.py`). It speaks nothing but TLS, refuses
to listen beyond loopback, refuses anonymous clients, reads the accounts file that the fleet maintains (again at each
change), and gives each device its own topics only. docs/decisions/0011 says why amqtt.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from amqtt.broker import Broker
from amqtt.contexts import Action, BaseContext
from amqtt.errors import BrokerError
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import Session

from fleet.broker_accounts.passwords import verify_password
from protocol.errors import TopicError
from protocol.topics import DOWNLINK_KINDS, PREFIX, TRAINING, UPLINK_KINDS, parse_device_topic
from runtime.bounded_logs import log_to_stderr
from service.addresses import is_loopback, split_endpoint

FLEET: Final = "fleet"
"""The user name with rights on every topic of ours."""

AGGREGATOR: Final = "aggregator"
"""The user name that publishes training invitations and may read everything of ours."""


class PasswordFile(BaseAuthPlugin):
    """Accepts the users of a Mosquitto password file; the file is read again whenever it changes."""

    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)
        self._path = Path(self.config.path)
        self._read_at: tuple[int, int] | None = None
        self._entries: dict[str, str] = {}
        self._verified: dict[str, tuple[str, str]] = {}

    async def authenticate(self, *, session: Session) -> bool | None:
        """Whether the session's user name and password are in the file."""
        self._read_if_changed()
        username, password = session.username, session.password
        if not username or not password or username not in self._entries:
            return False
        given = password, self._entries[username]
        if self._verified.get(username) == given:
            return True
        is_right = await asyncio.to_thread(verify_password, *given)
        if is_right:
            self._verified[username] = given
        return is_right

    def _read_if_changed(self) -> None:
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return
        if (stat.st_mtime_ns, stat.st_ino) == self._read_at:
            return
        lines = (line.partition(":") for line in self._path.read_text().splitlines())
        self._entries = {name: entry.strip() for name, _, entry in lines}
        self._read_at = (stat.st_mtime_ns, stat.st_ino)

    @dataclass
    class Config:
        """Where the password file is."""

        path: str = ""


class DeviceTopics(BaseTopicPlugin):
    """A device publishes its own uplink and reads its own downlink and the invitations; services do everything."""

    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: Action | None = None
    ) -> bool | None:
        """Whether `session` may do `action` on `topic`."""
        if session is None or not session.username or not topic:
            return False
        return may(session.username, topic, publish=action == Action.PUBLISH)

    @dataclass
    class Config:
        """No options."""


def may(username: str, topic: str, *, publish: bool) -> bool:
    """Whether a user may publish to, or else read, a topic or filter."""
    levels = topic.split("/")
    is_ours = "/".join(levels[:2]) == PREFIX
    is_invitation = is_ours and len(levels) == 5 and levels[3] == TRAINING and "#" not in levels
    if username == FLEET or (username == AGGREGATOR and not publish):
        return is_ours
    if is_invitation:
        return username == AGGREGATOR or not publish
    try:
        parsed = parse_device_topic(topic)
    except TopicError:
        return False
    return parsed.device == username and parsed.kind in (UPLINK_KINDS if publish else DOWNLINK_KINDS)


def broker_settings(listen: str, passwords: Path, certificate: Path, key: Path) -> dict[str, object]:
    """The amqtt configuration: one TLS listener at `listen` (host:port), our two plug-ins, nothing of its defaults."""
    return {
        "listeners": {
            "default": {
                "type": "tcp",
                "bind": listen,
                "max_connections": 1000,
                "ssl": True,
                "certfile": str(certificate),
                "keyfile": str(key),
            }
        },
        "plugins": {
            "simulations.broker.PasswordFile": {"path": str(passwords)},
            "simulations.broker.DeviceTopics": {},
        },
    }


async def serve(settings: dict[str, object]) -> None:
    """Run a broker of these `broker_settings` until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    broker = Broker(settings)
    await broker.start()
    await stop.wait()
    await broker.shutdown()


def main() -> int:
    """Parse the command line and serve; returns the exit status."""
    parser = argparse.ArgumentParser(description="MQTT broker for a simulated world (loopback only)")
    parser.add_argument("--listen", required=True, help="host:port on loopback")
    parser.add_argument("--passwords", required=True, type=Path, help="Mosquitto password file")
    parser.add_argument("--certificate", required=True, type=Path, help="what clients are shown, PEM")
    parser.add_argument("--key", required=True, type=Path, help="its private key, PEM")
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
        asyncio.run(
            serve(broker_settings(options.listen, options.passwords, options.certificate, options.key))
        )
    except (BrokerError, OSError) as error:
        sys.stderr.write(f"broker: cannot listen on {options.listen}: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
