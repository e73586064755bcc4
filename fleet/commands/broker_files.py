"""``broker-files``: what a Mosquitto of this fleet's tenant is started with (on the server)."""

from __future__ import annotations

import secrets
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Final

import typer

from fleet.broker_door.broker_files import BrokerPlaces
from fleet.commands.connection import ConfigOption
from fleet.settings import load_fleet_settings
from runtime.durable_files import read_bytes
from runtime.errors import SettingsError

__all__ = ["broker_files"]

SERVICES_PORT: Final = "8884"

_USUAL = BrokerPlaces()


def broker_files(
    config: ConfigOption,
    out: Annotated[Path, typer.Option(help="where the files are written")],
    services_ca: Annotated[
        Path | None,
        typer.Option(help="CA of fleet's and aggregator's certificates, where it is not [mqtt] ca_file"),
    ] = None,
    listen: Annotated[
        str, typer.Option(help="Mosquitto's listener: port, or port and address")
    ] = _USUAL.listen,
    services_listen: Annotated[
        str | None,
        typer.Option(
            help="a listener for services alone, which replicas need; 8884 where [mqtt] shared is set"
        ),
    ] = None,
    folder: Annotated[
        Path, typer.Option(readable=False, help="where acl, clients.pem, broker.pem and broker.key will lie")
    ] = _USUAL.folder,
    state: Annotated[
        Path, typer.Option(readable=False, help="where dynamic-security.json will lie; the broker writes it")
    ] = _USUAL.state,
    plugin: Annotated[str, typer.Option(help="the dynamic-security plugin")] = _USUAL.plugin,
) -> None:
    """Write fedge.conf, acl, clients.pem and dynamic-security.json for Mosquitto."""
    # the database layer takes a second to import, which a client command need not wait for
    from fleet.broker_door.assembly import write_broker_files
    from fleet.device_ca import DeviceCa
    from fleet.migrations.upgrade import open_storage

    settings = load_fleet_settings(config)
    trusted = services_ca or (settings.mqtt.ca_file if settings.mqtt else None)
    if trusted is None:
        raise SettingsError(
            "[mqtt] ca_file is missing: the broker must know whose certificates let services in"
        )
    services = read_bytes(trusted)
    if services is None:
        raise SettingsError(f"there is no {trusted}, the CA of the services' certificates")
    is_shared = settings.mqtt is not None and settings.mqtt.shared
    authority = DeviceCa(settings.data_dir, tenant=settings.tenant, random_bytes=secrets.token_bytes)
    authority.ensure(time.time())
    with closing(open_storage(settings.effective_database_url)) as database:
        write_broker_files(
            settings,
            database,
            out,
            services_ca=services,
            device_ca=authority.trusted().encode(),
            places=BrokerPlaces(
                listen=listen,
                services=SERVICES_PORT if services_listen is None and is_shared else services_listen or "",
                folder=folder,
                state=state,
                plugin=plugin,
            ),
        )
    print(f"{out}: fedge.conf, acl, clients.pem and dynamic-security.json of a broker for {settings.tenant}")
