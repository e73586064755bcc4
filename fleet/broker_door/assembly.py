"""Puts the broker's door together as the settings say: which adapter, and the files of its broker."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from fleet.broker_door.broker_files import BrokerPlaces, acl, configuration
from fleet.broker_door.dynamic_security import DynamicSecurity
from fleet.broker_door.name_file import NameFile
from fleet.broker_door.plugin_state import plugin_state
from fleet.broker_door.shut_out import BrokerDoor, OpenDoor, names_let_in, names_shut_out
from fleet.settings import Settings
from fleet.storage.base import Database
from runtime.durable_files import write_durably

__all__ = ["open_door", "write_broker_files"]

_STATE_MODE: Final = 0o600


def open_door(settings: Settings, database: Database, *, session: str) -> BrokerDoor:
    """The door as the settings have it; `session` is that of `DynamicSecurity`.

    A file of names is brought up to date at once.

    Raises:
        StorageError: that file cannot be written.
    """
    mqtt = settings.mqtt
    if mqtt is None or mqtt.shut_out == "none":
        return OpenDoor()
    if mqtt.shut_out_file is not None:
        door = NameFile(database, mqtt.shut_out_file)
        door.write()
        return door
    return DynamicSecurity(
        lambda: names_shut_out(database),
        lets_in=lambda names: names_let_in(database, names),
        mark=_mark(settings),
        session=session,
    )


def write_broker_files(
    settings: Settings,
    database: Database,
    folder: Path,
    *,
    services_ca: bytes,
    device_ca: bytes,
    places: BrokerPlaces,
    keeps_state: bool = False,
) -> None:
    """Write what Mosquitto is started with into `folder`: fedge.conf, acl, clients.pem and dynamic-security.json.

    With a listener for services also services.pem.

    Args:
        settings: whose tenant it is for.
        database: says who is shut out.
        folder: is made.
        services_ca: PEM of the CA whose certificates let services in.
        device_ca: PEM of every CA whose certificates let devices in.
        places: where the files will lie on the broker's machine.
        keeps_state: leave dynamic-security.json as it is, where it is: the broker writes it, and the fleet mends it.

    Raises:
        StorageError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = plugin_state(names_shut_out(database), _mark(settings))
    files = {
        "fedge.conf": configuration(places).encode(),
        "acl": acl(settings.tenant).encode(),
        "clients.pem": services_ca + device_ca,
        "dynamic-security.json": msgspec.json.format(msgspec.json.encode(state), indent=1),
        **({"services.pem": services_ca} if places.services else {}),
    }
    if keeps_state and (folder / "dynamic-security.json").exists():
        del files["dynamic-security.json"]
    for name, content in files.items():
        write_durably(folder / name, content, mode=_STATE_MODE)


def _mark(settings: Settings) -> str:
    return f"fedge {settings.tenant}: shut out"
