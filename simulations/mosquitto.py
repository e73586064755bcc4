"""Mosquitto as the broker of a world, where this machine has it: accounts by the fleet's commands, as in production.

The files are those of deploy/: the acl is read from this checkout, the plugin's first state comes from
``fedge-fleet broker-state``. Where Mosquitto 2, its dynamic-security plugin or the acl is missing, a world embeds its own broker.
"""

from __future__ import annotations

import os
import pwd
import shutil
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from runtime.durable_files import write_quickly
from simulations.certificates import Certificates
from simulations.errors import ScenarioError

__all__ = ["BrokerChoice", "Mosquitto", "choose_broker"]

_ACL: Final = Path(__file__).parents[1] / "deploy" / "mosquitto" / "acl"
_PLUGIN: Final = "mosquitto_dynamic_security.so"
_LIBRARIES: Final = ("/usr/lib/*", "/usr/lib", "/usr/local/lib", "/opt/homebrew/lib")
_PROGRAMS: Final = "/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"


class BrokerChoice(StrEnum):
    """What a world's broker shall be; ``auto`` is Mosquitto where it is installed with its plugin."""

    AUTO = "auto"
    MOSQUITTO = "mosquitto"
    EMBEDDED = "embedded"


@dataclass(frozen=True, kw_only=True)
class Mosquitto:
    """The program and its plugin on this machine."""

    program: str
    plugin: Path

    def configure(
        self, folder: Path, listen: str, certificates: Certificates, state: bytes
    ) -> tuple[str, ...]:
        """Write what it reads into `folder`; returns the command that starts it at `listen` (host:port).

        Args:
            folder: exists, and belongs to this user alone.
            listen: where.
            certificates: what it shows its clients.
            state: the plugin's first state, as ``fedge-fleet broker-state`` prints it.
        """
        host, _, port = listen.rpartition(":")
        write_quickly(folder / "dynamic-security.json", state, mode=0o600)
        write_quickly(folder / "acl", _ACL.read_bytes(), mode=0o600)
        lines = (
            "per_listener_settings false",
            "allow_anonymous false",
            f"user {pwd.getpwuid(os.geteuid()).pw_name}",
            f"plugin {self.plugin}",
            f"plugin_opt_config_file {folder / 'dynamic-security.json'}",
            f"acl_file {folder / 'acl'}",
            "max_inflight_messages 1000",
            "max_queued_messages 100000",
            f"listener {port} {host}",
            f"certfile {certificates.server_certificate}",
            f"keyfile {certificates.server_key}",
        )
        write_quickly(folder / "mosquitto.conf", "\n".join((*lines, "")).encode())
        return (self.program, "-c", str(folder / "mosquitto.conf"))


def choose_broker(choice: BrokerChoice) -> Mosquitto | None:
    """Mosquitto, or None for the embedded broker.

    Raises:
        ScenarioError: Mosquitto was asked for, and a part of it is missing here.
    """
    found = None if choice is BrokerChoice.EMBEDDED else _find()
    if found is None and choice is BrokerChoice.MOSQUITTO:
        raise ScenarioError(
            f"--broker mosquitto needs Mosquitto 2 with {_PLUGIN} and this project's deploy/mosquitto/acl;"
            " on Debian or Ubuntu: sudo apt-get install mosquitto"
        )
    return found


def _find() -> Mosquitto | None:
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path=_PROGRAMS)
    plugins = [
        plugin for folder in _LIBRARIES for plugin in Path("/").glob(f"{folder.removeprefix('/')}/{_PLUGIN}")
    ]
    if program is None or not plugins or not _ACL.is_file():
        return None
    return Mosquitto(program=program, plugin=plugins[0])
