"""A world on disk and its processes: certificates, keys, configurations, broker, fleet, aggregator, agents.

::

    <directory>/
      pki/ tokens/ broker/ fleet/ aggregator/     a plant (`service.plant`), of keys that are made for this run
      devices/d01/    agent.toml, state/, machine.json (the world's hand on that machine)
      logs/           one file per process

Every process is the real one, started as a person would start it (`python -m ...`). Nothing listens but on loopback;
every key is made here, for this run.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aggregator.identity import open_identity
from aggregator.publishing import open_fleet
from aggregator.release_keys import read_private_key
from aggregator.settings import load_aggregator_settings
from fleet.plant.plant_tokens import make_aggregator_parts
from fleet.plant.written import WrittenFiles
from protocol.identity import public_key_pem
from runtime.durable_files import private_directory, write_quickly
from service.plant_description import BrokerKind
from simulations.addresses import pick_addresses
from simulations.configurations import TENANT, agent_table, aggregator_settings
from simulations.fleet_site import FleetSite, write_secret, write_toml
from simulations.machines import Machines
from simulations.processes import Supervisor
from simulations.scenario import Scenario

__all__ = ["World"]

AGENT_WAVE: Final = 3
"""Agents started at a time: each costs about a second of CPU, and two cores have no more to give."""

_QUIET: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class World:
    """One simulated world. `prepare`, `start_services`, `start_agents`; the supervisor stops everything.

    Args:
        directory: absolute; everything of the world lies in it.
        scenario: what it shall be, already at this machine's pace.
        machines: behind the devices.
        supervisor: starts and stops every process.
        broker: which one it has.
    """

    def __init__(
        self,
        directory: Path,
        scenario: Scenario,
        machines: Machines,
        supervisor: Supervisor,
        *,
        broker: BrokerKind = BrokerKind.EMBEDDED,
    ) -> None:
        self.directory = directory
        self.scenario = scenario
        self.machines = machines
        self.supervisor = supervisor
        self.addresses = pick_addresses()
        self.devices = [f"d{number:02d}" for number in range(1, scenario.devices + 1)]
        self._site = FleetSite(directory, self.addresses, tenant=TENANT, supervisor=supervisor, broker=broker)
        self.plant = self._site.plant

    @property
    def broker_name(self) -> str:
        """Which broker its messages go through."""
        return {BrokerKind.EMBEDDED: "embedded", BrokerKind.MOSQUITTO: "Mosquitto"}[
            self.plant.description.broker
        ]

    @property
    def dashboard(self) -> str:
        """Where people look at the fleet."""
        return f"https://{self.addresses.fleet}"

    def device_directory(self, device: str) -> Path:
        """Where a device's configuration and state are."""
        return self.directory / "devices" / device

    def control_file(self, device: str) -> Path:
        """The world's hand on a device's machine."""
        return self.device_directory(device) / "machine.json"

    def prepare(self, release_key: Ed25519PrivateKey | None = None, family: str | None = None) -> None:
        """Write certificates, keys and every configuration; start nothing. A key and a family of a test may take the world's place."""
        self._site.prepare(
            family or self.scenario.family.name,
            release_key or Ed25519PrivateKey.generate(),
            self._site.settings(offline_after_s=self.scenario.offline_after_s),
        )
        private_directory(self.plant.aggregator_data)
        identity = open_identity(self.plant.aggregator_data)
        write_quickly(self.plant.aggregator_key, public_key_pem(identity.public_key()))
        write_toml(self.plant.aggregator_config, aggregator_settings(self.scenario, self.plant))
        for index, device in enumerate(self.devices):
            (self.device_directory(device) / "state").mkdir(parents=True, exist_ok=True)
            self.machines.start(self.control_file(device), index)
            table = agent_table(
                self.scenario,
                self.addresses,
                device=device,
                hardware=self.scenario.hardware[index % len(self.scenario.hardware)],
                machine=self.machines.name(index),
                source=self.machines.source_table(index, self.control_file(device).absolute()),
            )
            write_toml(self.device_directory(device) / "agent.toml", table)

    def publish_release(self, bundle: bytes) -> None:
        """Hand a bundle in and list it, as the aggregator does; raises AggregatorError."""
        settings = load_aggregator_settings(Path(self._config("aggregator")))
        with closing(
            open_fleet(settings, read_private_key(self.plant.release_key, "signing_key"), ())
        ) as fleet:
            fleet.publish(bundle)

    def issue_tokens(self) -> None:
        """Make the plant's tokens, and a claim for each device."""
        self._site.issue_tokens()
        make_aggregator_parts(self.plant, WrittenFiles(self.plant.folder))
        claims = self._site.claims(self.scenario.family.name, "simulated", len(self.devices))
        for device, claim in zip(self.devices, claims, strict=True):
            write_secret(self.device_directory(device) / "claim.token", claim.encode())

    def write_reference_recordings(self) -> tuple[Path, int]:
        """Record the reference machines of version 1; returns the NPZ and the rows of the shortest recording."""
        path = self.directory / "reference.npz"
        recordings = self.machines.reference_recordings()
        with path.open("wb") as file:
            np.savez(file, **recordings)  # type: ignore[arg-type] # numpy's stub wants named keywords
        return path, min(map(len, recordings.values()))

    def start_services(self, *, fleet_is_up: Callable[[], bool]) -> None:
        """Start broker and fleet; returns once the fleet answers."""
        self._site.start(fleet_is_up=fleet_is_up, environment=_QUIET)

    def start_aggregator(self, *, aggregator_is_up: Callable[[], bool]) -> None:
        """Start the aggregator; returns once it answers."""
        self.supervisor.start(
            "aggregator", "aggregator", "serve", "--config", self._config("aggregator"),
            environment={**_QUIET, "FLWR_HOME": str(self.directory / "aggregator" / "flwr")},
        )  # fmt: skip
        self.supervisor.wait_until(aggregator_is_up, "the aggregator's first answer")

    def start_agents(self, is_up: Callable[[str], bool], progress: Callable[[str], None]) -> None:
        """Enrol and start the agents in waves; `is_up` says whether a device has been heard of."""
        for at in range(0, len(self.devices), AGENT_WAVE):
            wave = self.devices[at : at + AGENT_WAVE]
            for device in wave:
                config = str(self.device_directory(device) / "agent.toml")
                self.supervisor.run(f"agent-{device}", "edge_agent", "enrol", "--config", config)
                self.supervisor.start(
                    f"agent-{device}", "edge_agent", "run", "--config", config,
                    environment={**_QUIET, "FLWR_HOME": str(self.device_directory(device) / "flwr")},
                )  # fmt: skip
            self.supervisor.wait_until(
                lambda wave=wave: all(map(is_up, wave)),  # type: ignore[misc] # mypy infers no default's type
                f"the birth of {', '.join(wave)}",
            )
            progress(f"{at + len(wave)} of {len(self.devices)} devices are enrolled and up")

    def _config(self, service: str) -> str:
        return str(self.directory / service / f"{service}.toml")
