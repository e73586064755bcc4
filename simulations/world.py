"""A world on disk and its processes: certificates, keys, configurations, broker, fleet, aggregator, agents.

::

    <directory>/
      pki/            throwaway CA, server certificate, release key
      broker/         password file (the fleet maintains it)
      fleet/          fleet.toml, database, bundles
      aggregator/     aggregator.toml, database
      devices/d01/    agent.toml, state/, machine.json (the world's hand on that machine)
      logs/           one file per process

Every process is the real one, started as a person would start it (`python -m ...`). Nothing listens but on loopback;
every password and key is made here, for this run.
"""

from __future__ import annotations

import datetime as dt
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
import numpy as np
import tomli_w

from simulations.certificates import create_certificates, create_release_key, write_secret
from simulations.errors import PortInUseError
from simulations.machines import Machines
from simulations.orders import rollout_body, rollout_groups
from simulations.processes import Supervisor
from simulations.scenario import Scenario

__all__ = ["Addresses", "World"]

TENANT: Final = "demo"
AGENT_WAVE: Final = 3
"""Agents started at a time: each costs about a second of CPU, and two cores have no more to give."""

_QUIET: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where the world's services listen, ``host:port`` on loopback, and the broker's URL."""

    broker_url: str
    fleet: str
    aggregator: str
    flower: str
    has_own_broker: bool


class World:
    """One simulated world. `prepare`, `start_services`, `start_agents`; the supervisor stops everything."""

    def __init__(
        self,
        directory: Path,
        scenario: Scenario,
        machines: Machines,
        supervisor: Supervisor,
        *,
        broker_url: str | None = None,
    ) -> None:
        self.directory = directory
        self.scenario = scenario
        self.machines = machines
        self.supervisor = supervisor
        self.addresses = pick_addresses(broker_url)
        self.devices = [f"d{number:02d}" for number in range(1, scenario.devices + 1)]
        self._pki = directory / "pki"

    @property
    def ca_file(self) -> Path:
        """The CA every client of this world trusts."""
        return self._pki / "ca.pem"

    @property
    def release_key(self) -> Path:
        """The private key that signs this world's releases."""
        return self._pki / "release.key"

    def token_file(self, role: str) -> Path:
        """Where the fleet token of a role is."""
        return self.directory / "fleet" / f"{role}.token"

    @property
    def aggregator_token_file(self) -> Path:
        """Where the aggregator's operator token is."""
        return self.directory / "aggregator" / "operator.token"

    def device_directory(self, device: str) -> Path:
        """Where a device's configuration and state are."""
        return self.directory / "devices" / device

    def control_file(self, device: str) -> Path:
        """The world's hand on a device's machine."""
        return self.device_directory(device) / "machine.json"

    def hardware(self, index: int) -> str:
        """The hardware kind of device `index`."""
        kinds = self.scenario.hardware
        return kinds[index % len(kinds)]

    def prepare(self) -> None:
        """Write certificates, keys and every configuration; start nothing."""
        create_certificates(self._pki, dt.datetime.now(dt.UTC))
        create_release_key(self.release_key, self._pki / "release.pub.pem")
        for name in ("broker", "fleet", "aggregator"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        for service in ("fleet", "aggregator"):
            write_secret(self.directory / service / "mqtt.password", secrets.token_urlsafe(24).encode())
        _write_toml(self.directory / "fleet" / "fleet.toml", self._fleet_toml())
        _write_toml(self.directory / "aggregator" / "aggregator.toml", self._aggregator_toml())
        for index, device in enumerate(self.devices):
            (self.device_directory(device) / "state").mkdir(parents=True, exist_ok=True)
            self.machines.start(self.control_file(device), index)
            _write_toml(self.device_directory(device) / "agent.toml", self._agent_toml(index, device))

    def issue_tokens(self) -> None:
        """Make operator, publisher and claim tokens with the services' own commands."""
        fleet, aggregator = self._config("fleet"), self._config("aggregator")
        for role in ("admin", "publisher"):
            token = self.supervisor.run(
                "tokens",
                "fleet",
                "tokens",
                "create",
                "--role",
                role,
                "--name",
                f"sim-{role}",
                "--config",
                fleet,
            )
            write_secret(self.token_file(role), token.strip().encode())
        claim = self.supervisor.run(
            "tokens", "fleet", "claims", "create", "--uses", str(len(self.devices)), "--config", fleet
        )
        write_secret(self.directory / "devices" / "claim.token", claim.strip().encode())
        token = self.supervisor.run(
            "tokens", "aggregator", "tokens", "create", "--name", "sim", "--config", aggregator
        )
        write_secret(self.aggregator_token_file, token.strip().encode())

    def write_reference_recordings(self) -> tuple[Path, int]:
        """Record the reference machines of version 1; returns the NPZ and the rows of the shortest recording."""
        path = self.directory / "reference.npz"
        recordings = self.machines.reference_recordings()
        with path.open("wb") as file:
            np.savez(file, **recordings)  # type: ignore[arg-type] # numpy's stub wants named keywords
        return path, min(map(len, recordings.values()))

    def start_services(self, *, fleet_is_up: Callable[[], bool]) -> None:
        """Start broker and fleet; returns once the fleet answers."""
        if self.addresses.has_own_broker:
            passwords = self.directory / "broker" / "passwords"
            passwords.touch(mode=0o600)
            listen = self.addresses.broker_url.removeprefix("mqtt://")
            self.supervisor.start(
                "broker", "simulations.broker", "--listen", listen, "--passwords", str(passwords)
            )
        self.supervisor.start(
            "fleet", "fleet", "serve", "--config", self._config("fleet"), environment=_QUIET
        )
        self.supervisor.wait_until(fleet_is_up, "the fleet's first answer", 40)

    def start_aggregator(self, *, aggregator_is_up: Callable[[], bool]) -> None:
        """Start the aggregator; returns once it answers."""
        self.supervisor.start(
            "aggregator", "aggregator", "serve", "--config", self._config("aggregator"),
            environment={**_QUIET, "FLWR_HOME": str(self.directory / "aggregator" / "flwr")},
        )  # fmt: skip
        self.supervisor.wait_until(aggregator_is_up, "the aggregator's first answer", 60)

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
            self.supervisor.wait_until(partial(_all_up, is_up, wave), f"the birth of {', '.join(wave)}", 60)
            progress(f"{at + len(wave)} of {len(self.devices)} devices are enrolled and up")

    def _config(self, service: str) -> str:
        return str(self.directory / service / f"{service}.toml")

    def _fleet_toml(self) -> dict[str, object]:
        mqtt: dict[str, object] = {
            "url": self.addresses.broker_url,
            "username": "fleet",
            "password_file": "mqtt.password",
            "accounts": "none",
        }
        if self.addresses.has_own_broker:
            mqtt |= {"accounts": "password-file", "accounts_file": "../broker/passwords"}
            mqtt["services"] = {"aggregator": "../aggregator/mqtt.password"}
        return {
            "listen": self.addresses.fleet,
            "tls_cert": "../pki/server.pem",
            "tls_key": "../pki/server.key",
            "data_dir": "data",
            "tenant": TENANT,
            "release_keys": ["../pki/release.pub.pem"],
            "offline_after_s": 30.0,
            "mqtt": mqtt,
        }

    def _aggregator_toml(self) -> dict[str, object]:
        s, t = self.scenario, self.scenario.training
        return {
            "listen": self.addresses.aggregator,
            "flower_listen": self.addresses.flower,
            "tls_cert": "../pki/server.pem",
            "tls_key": "../pki/server.key",
            "data_dir": "data",
            "tenant": TENANT,
            "signing_key": "../pki/release.key",
            "release_keys": ["../pki/release.pub.pem"],
            "watch_every_s": 1.0,
            "fleet": {
                "url": f"https://{self.addresses.fleet}",
                "ca_file": "../pki/ca.pem",
                "token_file": "../fleet/publisher.token",
            },
            "mqtt": {
                "url": self.addresses.broker_url,
                "username": "aggregator",
                "password_file": "mqtt.password",
            },
            "family": [
                {
                    "name": s.family,
                    "rounds": t.rounds,
                    "training": {
                        "epochs": t.epochs,
                        "batch_size": t.batch_size,
                        "learning_rate": t.learning_rate,
                    },
                    "server_optimizer": t.server_optimizer,
                    "baseline": t.baseline,
                    "minimum_devices": t.minimum_devices,
                    "join_timeout_s": 60.0,
                    "round_deadline_s": 30.0,
                    "trigger": {"drift_share": t.drift_share, "within_s": 600.0, "cooldown_s": 3600.0},
                    "privacy": {k: v for k, v in msgspec.to_builtins(t.privacy).items() if v is not None},
                    "gate": {"maximum_alarm_rate": 0.05, "maximum_int8_error": 0.5},
                    "threshold": {"quantile": s.detection.quantile, "margin": s.detection.margin},
                    "rollout": rollout_body(s, rollout_groups(s)),
                }
            ],
        }

    def _agent_toml(self, index: int, device: str) -> dict[str, object]:
        s = self.scenario
        return {
            "state_dir": "state",
            "tenant": TENANT,
            "family": s.family,
            "device": device,
            "hardware": self.hardware(index),
            "labels": {"machine": self.machines.name(index)},
            "release_keys": ["../../pki/release.pub.pem"],
            "fleet": {
                "url": f"https://{self.addresses.fleet}",
                "ca_file": "../../pki/ca.pem",
                "claim_token_file": "../claim.token",
            },
            "mqtt": {"url": self.addresses.broker_url},
            "flower": {"ca_file": "../../pki/ca.pem"},
            "source": self.machines.source_table(index, self.control_file(device).absolute()),
            "detection": {
                "commissioning_windows": s.detection.commissioning_windows,
                "opens_after_windows": s.detection.opens_after_windows,
            },
            "health": {"every_s": 2.0},
            "debug": {"score_log": True},
        }


def pick_addresses(broker_url: str | None) -> Addresses:
    """Free loopback ports for the services, and for the broker unless one is given.

    Raises:
        PortInUseError: `broker_url` names a broker that nobody answers at.
    """
    fleet, aggregator, flower, broker = (f"127.0.0.1:{port}" for port in free_ports(4))
    if broker_url is not None:
        parts = urlsplit(broker_url)
        try:
            socket.create_connection((parts.hostname or "", parts.port or 1883), 3).close()
        except OSError as error:
            raise PortInUseError(
                f"no broker answers at {broker_url}: {error}; start it or leave --broker out"
            ) from None
    return Addresses(
        broker_url=broker_url or f"mqtt://{broker}",
        fleet=fleet,
        aggregator=aggregator,
        flower=flower,
        has_own_broker=broker_url is None,
    )


def free_ports(count: int) -> list[int]:
    """Distinct TCP ports that are free on loopback now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [int(s.getsockname()[1]) for s in sockets]
    finally:
        for s in sockets:
            s.close()


def _all_up(is_up: Callable[[str], bool], devices: Sequence[str]) -> bool:
    return all(is_up(device) for device in devices)


def _write_toml(path: Path, content: dict[str, object]) -> None:
    path.write_bytes(tomli_w.dumps(content).encode())
