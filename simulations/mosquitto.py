"""Mosquitto as the broker of a world, where this machine has it, with the files of production.

``fedge-fleet broker-files`` writes them; only where they lie is this world's. Where Mosquitto 2 or its dynamic-security plugin is
missing, a world embeds its own broker.
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
from simulations.errors import ScenarioError

__all__ = ["BrokerChoice", "Mosquitto", "choose_broker"]

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

    def options(self, folder: Path, listen: str) -> tuple[str, ...]:
        """What ``fedge-fleet broker-files`` is told, so that its files in `folder` are those of a broker at `listen` (host:port)."""
        host, _, port = listen.rpartition(":")
        return (
            *("--listen", f"{port} {host}", "--folder", str(folder), "--plugin", str(self.plugin)),
            *("--state", str(folder / "dynamic-security.json")),
        )

    def command(self, folder: Path) -> tuple[str, ...]:
        """The command that starts it with the files of the fleet in `folder`, which belongs to this user alone."""
        file, user = folder / "mosquitto.conf", pwd.getpwuid(os.geteuid()).pw_name
        write_quickly(file, f"user {user}\n".encode() + (folder / "fedge.conf").read_bytes())
        return (self.program, "-c", str(file))


def choose_broker(choice: BrokerChoice) -> Mosquitto | None:
    """Mosquitto, or None for the embedded broker.

    Raises:
        ScenarioError: Mosquitto was asked for, and a part of it is missing here.
    """
    found = None if choice is BrokerChoice.EMBEDDED else _find()
    if found is None and choice is BrokerChoice.MOSQUITTO:
        raise ScenarioError(
            f"--broker mosquitto needs Mosquitto 2 with {_PLUGIN};"
            " on Debian or Ubuntu: sudo apt-get install mosquitto"
        )
    return found


def _find() -> Mosquitto | None:
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path=_PROGRAMS)
    plugins = [
        plugin for folder in _LIBRARIES for plugin in Path("/").glob(f"{folder.removeprefix('/')}/{_PLUGIN}")
    ]
    if program is None or not plugins:
        return None
    return Mosquitto(program=program, plugin=plugins[0])
