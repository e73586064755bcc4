"""A fleet and its broker, on disk and as processes, on loopback: what a world and a crowd of hollow devices stand on.

It is a plant (`service.plant`), made of the parts that `fedge init plant` is made of. Every process is the real one, started as a
person would start it (`python -m ...`). Every key is made here, for this run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aggregator.release_keys import create_key_files
from fleet.migrations.upgrade import open_storage
from fleet.plant.broker import broker_command, write_plant_broker
from fleet.plant.keys import admit_family, make_repository
from fleet.plant.making import make_certificates
from fleet.plant.plant_tokens import make_fleet_tokens
from fleet.plant.tables import Table, fleet_table
from fleet.plant.written import WrittenFiles
from fleet.settings import load_fleet_settings
from runtime.durable_files import private_directory, write_quickly
from service.plant import Plant
from service.plant_description import BrokerKind, Description, Listen
from simulations.addresses import Addresses
from simulations.processes import Supervisor

__all__ = ["FleetSite", "Table", "write_secret", "write_toml"]


class FleetSite:
    """The fleet's corner of a world.

    Args:
        directory: of the world, absolute.
        addresses: where broker and fleet listen.
        tenant: of both.
        supervisor: starts and stops the processes.
        broker: which one it is.
    """

    def __init__(
        self,
        directory: Path,
        addresses: Addresses,
        *,
        tenant: str,
        supervisor: Supervisor,
        broker: BrokerKind,
    ) -> None:
        listen = Listen(
            fleet=addresses.fleet,
            aggregator=addresses.aggregator,
            flower=addresses.flower,
            broker=addresses.broker,
        )
        self.plant = Plant(
            folder=directory,
            description=Description(tenant=tenant, host="127.0.0.1", broker=broker, listen=listen),
        )
        self._supervisor = supervisor

    def settings(self, *, offline_after_s: float, database_url: str | None = None) -> Table:
        """fleet.toml, as a plant has it."""
        table = fleet_table(self.plant, database_url=database_url)
        return {"offline_after_s": offline_after_s, **table}

    def prepare(self, family: str, release_key: Ed25519PrivateKey, settings: Table) -> None:
        """Write certificates, keys, fleet.toml and the signed repository: of one run, one person's ceremony is enough."""
        plant, files = self.plant, WrittenFiles(self.plant.folder)
        for folder in (plant.fleet_config.parent, plant.broker, plant.fleet_data):
            private_directory(folder)
        make_certificates(plant, files, renew=False)
        create_key_files(plant.release_key, release_key)
        write_toml(plant.fleet_config, settings)
        make_repository(plant, files)
        admit_family(plant, family)

    def issue_tokens(self) -> None:
        """Make the tokens of administrator and publisher."""
        settings = load_fleet_settings(self.plant.fleet_config, {})
        with closing(open_storage(settings.effective_database_url)) as database:
            make_fleet_tokens(self.plant, database, WrittenFiles(self.plant.folder))

    def claims(self, family: str, site: str, count: int) -> list[str]:
        """Make claims, each for one device."""
        asked = (
            "claims",
            "create",
            "--family",
            family,
            "--unreleased",
            "--site",
            site,
            "--count",
            str(count),
        )
        return self.ask(*asked).split()

    def ask(self, *command: str) -> str:
        """Run a command of ``fedge-fleet`` on this fleet; returns what it printed. Raises ProcessFailedError."""
        return self._supervisor.run("tokens", "fleet", *command, "--config", str(self.plant.fleet_config))

    def start(self, *, fleet_is_up: Callable[[], bool], environment: Mapping[str, str]) -> None:
        """Start broker and fleet; returns once the fleet answers."""
        settings = load_fleet_settings(self.plant.fleet_config, {})
        with closing(open_storage(settings.effective_database_url)) as database:
            write_plant_broker(self.plant, settings, database)
        self._supervisor.start_program("broker", *broker_command(self.plant))
        self._supervisor.start(
            "fleet", "fleet", "serve", "--config", str(self.plant.fleet_config), environment=environment
        )
        self._supervisor.wait_until(fleet_is_up, "the fleet's first answer")


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that this user alone may read."""
    write_quickly(path, content, mode=0o600)


def write_toml(path: Path, content: Table) -> None:
    """Write a settings file."""
    path.write_bytes(tomli_w.dumps(content).encode())
