"""A plant's broker: its files, and the command that starts it.

Mosquitto where it is installed; else the embedded broker of the simulations, for a trial on few devices. Either speaks mutual TLS
and nothing else, and knows everybody by the name in the certificate.
"""

from __future__ import annotations

import importlib.util
import secrets
import shutil
import sys
import time

from fleet.broker_door.assembly import write_broker_files
from fleet.broker_door.broker_files import BrokerPlaces
from fleet.device_ca import DeviceCa
from fleet.plant.mosquitto import INSTALL, Mosquitto, find_mosquitto, write_start_file
from fleet.plant.tables import SHUT_OUT
from fleet.settings import Settings
from fleet.storage.base import Database
from runtime.durable_files import private_directory
from service.errors import StartError
from service.plant import Plant
from service.plant_description import BrokerKind

__all__ = ["broker_command", "choose_broker", "write_plant_broker"]


def choose_broker() -> BrokerKind:
    """Which broker a new plant on this machine has.

    Raises:
        StartError: neither is installed.
    """
    if find_mosquitto() is not None:
        return BrokerKind.MOSQUITTO
    _check_embedded()
    return BrokerKind.EMBEDDED


def write_plant_broker(plant: Plant, settings: Settings, database: Database) -> str:
    """Write what the broker is started with; who is shut out stays as the broker itself last wrote it.

    Returns:
        The device CA's certificates, PEM.

    Raises:
        StartError: the plant's broker is not installed here.
        StorageError: a file can be neither read nor written.
    """
    folder = private_directory(plant.broker)
    mosquitto = _mosquitto() if plant.description.broker is BrokerKind.MOSQUITTO else None
    places = mosquitto.places(folder, plant.description.listen.broker) if mosquitto else BrokerPlaces()
    authority = DeviceCa(settings.data_dir, tenant=settings.tenant, random_bytes=secrets.token_bytes)
    authority.ensure(time.time())
    write_broker_files(
        settings,
        database,
        folder,
        services_ca=plant.clients_ca.read_bytes(),
        device_ca=(device_ca := authority.trusted()).encode(),
        places=places,
        keeps_state=True,
    )
    for path in (plant.certificate("broker"), plant.key("broker")):
        shutil.copy(path, folder)
    if mosquitto is not None:
        write_start_file(folder)
    return device_ca


def broker_command(plant: Plant) -> tuple[str, ...]:
    """The command that starts the plant's broker with its files; raises StartError where it is not installed."""
    if plant.description.broker is BrokerKind.MOSQUITTO:
        return _mosquitto().command(plant.broker)
    _check_embedded()
    return (
        sys.executable, "-m", "simulations.broker", "--listen", plant.description.listen.broker, "--tenant", plant.tenant,
        "--shut-out", str(plant.broker / SHUT_OUT), "--clients", str(plant.broker / "clients.pem"),
        "--certificate", str(plant.broker / "broker.pem"), "--key", str(plant.broker / "broker.key"),
    )  # fmt: skip


def _mosquitto() -> Mosquitto:
    found = find_mosquitto()
    if found is None:
        raise StartError(f"this plant's broker is Mosquitto, which is not installed here; it needs {INSTALL}")
    return found


def _check_embedded() -> None:
    if importlib.util.find_spec("amqtt") is None:
        raise StartError(
            f"there is no broker on this machine: install {INSTALL}; or, for a trial, pip install 'fedge[sim]'"
        )
