"""A fleet and its broker, on disk and as processes, on loopback: what a world and a crowd of hollow devices stand on.

::

    <directory>/
      pki/       throwaway CA, a certificate for each service, root.json of the signed repository
      broker/    what the fleet writes for its broker
      fleet/     fleet.toml, database, bundles, tokens

Every process is the real one, started as a person would start it (`python -m ...`). Every key is made here, for this run.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import tomli_w
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fleet.trust.creation import create_repository
from protocol.identity import private_key_pem
from runtime.durable_files import private_directory, write_quickly
from simulations.addresses import Addresses
from simulations.certificates import Certificates
from simulations.mosquitto import Mosquitto
from simulations.processes import Supervisor

__all__ = ["FleetSite", "Table", "broker_account", "shown", "write_secret", "write_toml"]

Table = dict[str, object]


class FleetSite:
    """The fleet's corner of a world.

    Args:
        directory: of the world, absolute.
        addresses: where broker and fleet listen.
        tenant: of both.
        supervisor: starts and stops the processes.
        mosquitto: the broker; None embeds one.
    """

    def __init__(
        self,
        directory: Path,
        addresses: Addresses,
        *,
        tenant: str,
        supervisor: Supervisor,
        mosquitto: Mosquitto | None,
    ) -> None:
        self.directory, self.addresses, self.tenant = directory, addresses, tenant
        self.certificates = Certificates(directory / "pki")
        self._supervisor, self._mosquitto = supervisor, mosquitto

    @property
    def config(self) -> Path:
        """Where fleet.toml is."""
        return self.directory / "fleet" / "fleet.toml"

    @property
    def root_file(self) -> Path:
        """The root of the signed repository, for devices to pin."""
        return self.certificates.directory / "root.json"

    def token_file(self, role: str) -> Path:
        """Where the fleet token of a role is."""
        return self.directory / "fleet" / f"{role}.token"

    def settings(self, *, offline_after_s: float) -> Table:
        """fleet.toml: the fleet says who is shut out, by commands to Mosquitto or in the embedded broker's file."""
        embedded: Table = {"shut_out": "file", "shut_out_file": "../broker/shut-out"}
        return {
            "listen": self.addresses.fleet,
            **shown("fleet"),
            "data_dir": "data",
            "tenant": self.tenant,
            "offline_after_s": offline_after_s,
            "mqtt": {
                **broker_account(self.addresses, "fleet"),
                **({} if self._mosquitto is not None else embedded),
            },
        }

    def prepare(self, family: str, release_key: Ed25519PublicKey, settings: Table) -> None:
        """Write fleet.toml and the signed repository, with keys that nobody keeps: of one run, one ceremony is enough."""
        for name in ("broker", "fleet"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        write_toml(self.config, settings)
        data = private_directory(self.directory / "fleet" / "data")
        instruction_key = ec.generate_private_key(ec.SECP256R1())
        write_secret(data / "instruction.key", private_key_pem(instruction_key))
        repository = create_repository(
            data / "trust",
            root_keys=[Ed25519PrivateKey.generate() for _ in range(3)],
            targets_key=Ed25519PrivateKey.generate(),
            online_keys=[Ed25519PrivateKey.generate() for _ in range(2)],
            families={family: [release_key]},
            fleet_key=instruction_key.public_key(),
            now=time.time(),
        )
        write_quickly(self.root_file, repository.read("1.root.json"))

    def issue_token(self, role: str, *whose: str) -> None:
        """Make a fleet token of a role with the fleet's own command."""
        token = self.ask("tokens", "create", "--role", role, "--name", f"sim-{role}", *whose)
        write_secret(self.token_file(role), token.strip().encode())

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
        return self._supervisor.run("tokens", "fleet", *command, "--config", str(self.config))

    def start(self, *, fleet_is_up: Callable[[], bool], environment: Mapping[str, str]) -> None:
        """Start broker and fleet; returns once the fleet answers."""
        self._start_broker()
        self._supervisor.start(
            "fleet", "fleet", "serve", "--config", str(self.config), environment=environment
        )
        self._supervisor.wait_until(fleet_is_up, "the fleet's first answer")

    def _start_broker(self) -> None:
        folder, files, mosquitto = self.directory / "broker", self.certificates, self._mosquitto
        options = () if mosquitto is None else mosquitto.options(folder, self.addresses.broker)
        self._supervisor.run(
            "broker-files", "fleet", "broker-files", "--config", str(self.config), "--out", str(folder), *options
        )  # fmt: skip
        for kind in ("pem", "key"):
            shutil.copy(files.directory / f"broker.{kind}", folder)
        if mosquitto is not None:
            self._supervisor.start_program("broker", *mosquitto.command(folder))
            return
        self._supervisor.start(
            "broker", "simulations.broker", "--listen", self.addresses.broker, "--tenant", self.tenant,
            "--shut-out", str(folder / "shut-out"), "--clients", str(folder / "clients.pem"),
            "--certificate", str(files.certificate("broker")), "--key", str(files.key("broker")),
        )  # fmt: skip


def shown(service: str) -> Table:
    """What a service shows who calls it."""
    return {"tls_cert": f"../pki/{service}.pem", "tls_key": f"../pki/{service}.key"}


def broker_account(addresses: Addresses, service: str) -> Table:
    """A service's ``[mqtt]``."""
    return {"url": addresses.broker_url, "ca_file": "../pki/ca.pem", **shown(service)}


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that this user alone may read."""
    write_quickly(path, content, mode=0o600)


def write_toml(path: Path, content: Table) -> None:
    """Write a settings file."""
    path.write_bytes(tomli_w.dumps(content).encode())
