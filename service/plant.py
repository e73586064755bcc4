"""A plant: one folder that holds everything the services of one tenant need, and where each thing in it lies.

::

    plant/plant.toml                 tenant, host, addresses, broker, database; no secret
    plant/pki/                       CA, a certificate and key each for broker, fleet and aggregator, release key, root.json
    plant/pki/clients/               what fleet and aggregator show the broker, once a certificate of theirs was stolen
    plant/pki/offline/               keys that sign certificates and the signed repository: to be taken off the machine
    plant/tokens/ROLE.token          what people and programs show the services
    plant/fleet/fleet.toml           and data/: database, bundles, the signed repository
    plant/aggregator/aggregator.toml and data/
    plant/broker/                    what the broker is started with
    plant/families/NAME.toml         a family as [[family]] of aggregator.toml takes it; NAME.reading.json: how its files are read
    plant/devices/NAME.join          what a device is started with
    plant/log/ plant/run/            of `fedge up`
    plant/systemd/ plant/compose.yaml plant/kubernetes/   the same plant, started by others

`fedge init plant` makes it (`fleet.plant`); whoever else works on a plant finds it here. Not a settings file of a service: those are
written out of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from runtime.errors import SettingsError
from runtime.settings import read_settings
from service.addresses import split_endpoint
from service.plant_description import Description

__all__ = ["FILE", "Plant", "PlantOption", "find_plant", "load_plant", "look_for_plant"]

FILE: Final = "plant.toml"
VARIABLE: Final = "FEDGE_PLANT"

PlantOption = Annotated[
    Path | None, typer.Option("--plant", envvar=VARIABLE, help="folder that `fedge init plant` made")
]
"""Of every command on a plant; hand it to `find_plant`."""

_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what is listened to, and how it is dialled from here


@dataclass(frozen=True, kw_only=True)
class Plant:
    """A plant on this machine. `folder` is absolute; every path below it is, too."""

    folder: Path
    description: Description

    @property
    def file(self) -> Path:
        """The description."""
        return self.folder / FILE

    @property
    def tenant(self) -> str:
        """Whose it is."""
        return self.description.tenant

    # what devices dial, and the same from this machine

    @property
    def fleet_url(self) -> str:
        """The fleet's API and pages, as devices and browsers dial them."""
        return f"https://{self._public(self.description.listen.fleet)}"

    @property
    def broker_url(self) -> str:
        """The broker, as devices dial it."""
        return f"mqtts://{self._public(self.description.listen.broker)}"

    @property
    def flower_address(self) -> str:
        """The Flower server, as devices dial it."""
        return self._public(self.description.listen.flower)

    @property
    def local_fleet_url(self) -> str:
        """The fleet's API, for programs on this machine."""
        return f"https://{self._local(self.description.listen.fleet)}"

    @property
    def local_aggregator_url(self) -> str:
        """The aggregator's API, for programs on this machine."""
        return f"https://{self._local(self.description.listen.aggregator)}"

    @property
    def local_broker_url(self) -> str:
        """The broker, for programs on this machine."""
        return f"mqtts://{self._local(self.description.listen.broker)}"

    # identities and keys

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.folder / "pki"

    @property
    def ca(self) -> Path:
        """What every client trusts, PEM."""
        return self.pki / "ca.pem"

    def certificate(self, service: str) -> Path:
        """What broker, fleet or aggregator shows, PEM."""
        return self.pki / f"{service}.pem"

    def key(self, service: str) -> Path:
        """The private key to it, mode 0600."""
        return self.pki / f"{service}.key"

    @property
    def clients(self) -> Path:
        """What fleet and aggregator show the broker, where a stolen certificate had to lose its worth: a CA of its own, see `clients_ca`."""
        return self.pki / "clients"

    @property
    def clients_ca(self) -> Path:
        """Whose certificates let services in at the broker, PEM: the one CA of all services, until one was stolen."""
        own = self.clients / "ca.pem"
        return own if own.exists() else self.ca

    @property
    def clients_ca_key(self) -> Path:
        """Signs them, where they are of a CA of their own."""
        return self.offline / "clients-ca.key"

    def client_files(self, service: str) -> tuple[Path, Path]:
        """Certificate and key that fleet or aggregator shows the broker."""
        own = self.clients / f"{service}.pem", self.clients / f"{service}.key"
        return own if own[0].exists() else (self.certificate(service), self.key(service))

    @property
    def release_key(self) -> Path:
        """Signs releases, mode 0600; its public half is ``release.pub.pem`` beside it."""
        return self.pki / "release.key"

    @property
    def aggregator_key(self) -> Path:
        """The public key that devices know the aggregator by, PEM."""
        return self.pki / "aggregator.pub.pem"

    @property
    def root_file(self) -> Path:
        """The root of the signed repository, for devices to pin."""
        return self.pki / "root.json"

    @property
    def offline(self) -> Path:
        """Keys that nothing here needs to run, 0600; to be taken off this machine."""
        return self.pki / "offline"

    @property
    def ca_key(self) -> Path:
        """Signs certificates of services; needed to make and to renew them."""
        return self.offline / "ca.key"

    @property
    def root_keys(self) -> tuple[Path, ...]:
        """Three, of which two sign a new root of the signed repository."""
        return tuple(self.offline / f"root-{number}.key" for number in (1, 2, 3))

    @property
    def targets_key(self) -> Path:
        """Signs which families there are and who releases for them; needed for a new family."""
        return self.offline / "targets.key"

    @property
    def tokens(self) -> Path:
        """The tokens' folder."""
        return self.folder / "tokens"

    @property
    def admin_token(self) -> Path:
        """Of role admin at the fleet, the person's who made the plant."""
        return self.tokens / "admin.token"

    @property
    def publisher_token(self) -> Path:
        """Of role publisher at the fleet, the aggregator's."""
        return self.tokens / "publisher.token"

    @property
    def operator_token(self) -> Path:
        """Of role operator at the aggregator, the person's who made the plant."""
        return self.tokens / "operator.token"

    @property
    def viewer_token(self) -> Path:
        """Of role viewer at the aggregator, the fleet's."""
        return self.tokens / "viewer.token"

    # services

    @property
    def fleet_config(self) -> Path:
        """fleet.toml, mode 0600."""
        return self.folder / "fleet" / "fleet.toml"

    @property
    def fleet_data(self) -> Path:
        """The fleet's data_dir."""
        return self.folder / "fleet" / "data"

    @property
    def aggregator_config(self) -> Path:
        """aggregator.toml."""
        return self.folder / "aggregator" / "aggregator.toml"

    @property
    def aggregator_data(self) -> Path:
        """The aggregator's data_dir."""
        return self.folder / "aggregator" / "data"

    @property
    def broker(self) -> Path:
        """What the broker is started with, and its state."""
        return self.folder / "broker"

    # families and devices

    @property
    def families(self) -> Path:
        """The families' folder: aggregator.toml's families_dir."""
        return self.folder / "families"

    def family_file(self, family: str) -> Path:
        """How a family is trained and judged."""
        return self.families / f"{family}.toml"

    def reading_file(self, family: str) -> Path:
        """How the files of a family's machines are read."""
        return self.families / f"{family}.reading.json"

    @property
    def devices(self) -> Path:
        """Files for devices."""
        return self.folder / "devices"

    def join_file(self, device: str) -> Path:
        """What a device joins with; a secret."""
        return self.devices / f"{device}.join"

    @property
    def agent_requirements(self) -> Path:
        """What is installed on a device, with hashes."""
        return self.devices / "agent-requirements.txt"

    # what `fedge up` leaves

    @property
    def log(self) -> Path:
        """The logs' folder."""
        return self.folder / "log"

    @property
    def run(self) -> Path:
        """What is true while the plant is up."""
        return self.folder / "run"

    @property
    def systemd(self) -> Path:
        """Units that start this plant without `fedge up`."""
        return self.folder / "systemd"

    @property
    def compose(self) -> Path:
        """Containers of this plant."""
        return self.folder / "compose.yaml"

    @property
    def kubernetes(self) -> Path:
        """A Kustomize overlay of this plant."""
        return self.folder / "kubernetes"

    def _public(self, listen: str) -> str:
        return _endpoint(self.description.host, split_endpoint(listen).port)

    def _local(self, listen: str) -> str:
        host, port = split_endpoint(listen)
        return _endpoint(_EVERYWHERE.get(host, host), port)


def load_plant(folder: Path) -> Plant:
    """The plant in `folder`; raises SettingsError where there is none, or its plant.toml is not valid."""
    folder = folder.absolute()
    if not (folder / FILE).is_file():
        raise SettingsError(
            f"{folder} is no plant: it holds no {FILE}; make one with `fedge init plant --host NAME`"
        )
    return Plant(folder=folder, description=read_settings(folder / FILE, Description))


def find_plant(
    given: Path | None, *, environment: Mapping[str, str] = os.environ, here: Path | None = None
) -> Plant:
    """The plant that a command is about: the given folder, else $FEDGE_PLANT, else this folder, else the only one below it.

    Args:
        given: what ``--plant`` said.
        environment: of the process.
        here: where to look; the working directory.

    Raises:
        SettingsError: there is none, or more than one; says what to give.
    """
    found = look_for_plant(given, environment=environment, here=here)
    if found is None:
        raise SettingsError(
            f"there is no plant in {(here or Path()).absolute()}: make one with `fedge init plant --host NAME`,"
            " or give --plant DIR"
        )
    return found


def look_for_plant(
    given: Path | None, *, environment: Mapping[str, str] = os.environ, here: Path | None = None
) -> Plant | None:
    """As `find_plant`; None where nobody named a plant and none is here."""
    named = given or (Path(environment[VARIABLE]) if environment.get(VARIABLE) else None)
    if named is not None:
        return load_plant(named)
    here = (here or Path()).absolute()
    if (here / FILE).is_file():
        return load_plant(here)
    below = sorted(file.parent for file in here.glob(f"*/{FILE}"))
    if len(below) > 1:
        names = ", ".join(folder.name for folder in below)
        raise SettingsError(f"which plant? {here} holds {names}: give --plant DIR, or set {VARIABLE}")
    return load_plant(below[0]) if below else None


def _endpoint(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
