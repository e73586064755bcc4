"""Mosquitto on this machine, started with the files that ``fedge-fleet broker-files`` writes; only where they lie is the caller's.

A system's own Mosquitto service is not touched: this is another process of the same program.
"""

from __future__ import annotations

import os
import pwd
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet.broker_door.broker_files import BrokerPlaces
from runtime.durable_files import write_quickly
from service.addresses import split_endpoint

__all__ = ["INSTALL", "PLUGIN", "Mosquitto", "find_mosquitto", "write_start_file"]

START_FILE: Final = "mosquitto.conf"
PLUGIN: Final = "mosquitto_dynamic_security.so"
INSTALL: Final = f"Mosquitto 2 with {PLUGIN}; on Debian or Ubuntu: sudo apt-get install mosquitto"

_LIBRARIES: Final = ("/usr/lib/*", "/usr/lib", "/usr/local/lib", "/opt/homebrew/lib")
_PROGRAMS: Final = "/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"


@dataclass(frozen=True, kw_only=True)
class Mosquitto:
    """The program and its plugin on this machine."""

    program: str
    plugin: Path

    def places(self, folder: Path, listen: str) -> BrokerPlaces:
        """Where the files of a broker at `listen` (host:port) lie, which are all in `folder`."""
        host, port = split_endpoint(listen)
        return BrokerPlaces(
            listen=f"{port} {host}",
            folder=folder,
            state=folder / "dynamic-security.json",
            plugin=str(self.plugin),
        )

    def command(self, folder: Path) -> tuple[str, ...]:
        """The command that starts it with the files of the fleet in `folder`; see `write_start_file`."""
        return (self.program, "-c", str(folder / START_FILE))


def write_start_file(folder: Path) -> None:
    """Write what Mosquitto is started with: the fleet's configuration in `folder`, which belongs to this user alone, as this user."""
    said = f"user {pwd.getpwuid(os.geteuid()).pw_name}\nlog_timestamp_format %Y-%m-%dT%H:%M:%S broker\n"
    write_quickly(folder / START_FILE, said.encode() + (folder / "fedge.conf").read_bytes())


def find_mosquitto() -> Mosquitto | None:
    """Mosquitto as it is installed here; None where it or its plugin is missing."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path=_PROGRAMS)
    plugins = [
        plugin for folder in _LIBRARIES for plugin in Path("/").glob(f"{folder.removeprefix('/')}/{PLUGIN}")
    ]
    if program is None or not plugins:
        return None
    return Mosquitto(program=program, plugin=plugins[0])
