"""A fleet of its own for a crowd: fleet, Mosquitto and database in one folder, with two releases that no device runs.

Everything is the real program; only the releases are hollow too: sound bundles around an empty model, signed and listed, so that
rollouts can be made of them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

import httpx
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aggregator.publishing import PublishingFleet
from aggregator.settings import FleetSettings
from models.architecture import Architecture, initial_parameters
from models.bundles import GoldenVectors, bundle_files
from models.drift.reference import fit_reference
from protocol.bundle import entries_for, pack_bundle
from protocol.manifest import FeatureSpec, Manifest, ThresholdSpec
from service.addresses import split_endpoint
from service.client import open_connection
from simulations.addresses import pick_addresses
from simulations.fleet_site import FleetSite, Table
from simulations.hollow.place import Place
from simulations.mosquitto import BrokerChoice, choose_broker
from simulations.processes import Supervisor

__all__ = ["FAMILY", "OwnFleet"]

FAMILY: Final = "hollow"
TENANT: Final = "hollow"
RELEASES: Final = (1, 2)

BATCH: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class OwnFleet:
    """Prepared at once, up after `start`; the supervisor stops it.

    Args:
        directory: absolute; a folder of its own, which may be one that was used before.
        supervisor: starts and stops the processes.
        database_url: of a database that is there; None: SQLite in the folder.
        more: tables of fleet.toml over those that it has, by name.
    """

    def __init__(
        self,
        directory: Path,
        supervisor: Supervisor,
        *,
        database_url: str | None = None,
        more: Mapping[str, Table] | None = None,
    ) -> None:
        broker = choose_broker(BrokerChoice.MOSQUITTO)
        self.addresses = pick_addresses()
        self.site = FleetSite(directory, self.addresses, tenant=TENANT, supervisor=supervisor, broker=broker)
        self.supervisor = supervisor
        self.database_url = database_url or f"sqlite:///{directory}/fleet/data/fleet.sqlite"
        self._release_key = Ed25519PrivateKey.generate()
        settings = self.site.settings(offline_after_s=120.0, database_url=self.database_url)
        del settings["aggregator"]  # there is none
        for name, table in (more or {}).items():
            known = settings.get(name, {})
            settings[name] = {**(known if isinstance(known, dict) else {}), **table}
        self.site.prepare(FAMILY, self._release_key, settings)
        self.site.issue_tokens()

    @property
    def url(self) -> str:
        """Of the fleet's API."""
        return f"https://{self.addresses.fleet}"

    @property
    def place(self) -> Place:
        """As its devices know it."""
        broker = split_endpoint(self.addresses.broker)
        ca = self.site.plant.ca
        return Place(
            fleet_url=self.url,
            fleet_ca=ca,
            broker_host=broker.host,
            broker_port=broker.port,
            broker_ca=ca,
            root=self.site.plant.root_file,
            tenant=TENANT,
            family=FAMILY,
        )

    def client(self) -> httpx.Client:
        """A client of the API in the name of an administrator."""
        site = self.site
        client = open_connection(self.url, site.plant.ca, site.plant.admin_token, service="fleet")
        client.timeout = httpx.Timeout(60.0)  # ten thousand devices are at work beside it
        return client

    def start(self) -> None:
        """Start broker and fleet, and publish the releases; raises ProcessFailedError."""
        with self.client() as api:

            def answers() -> bool:
                try:
                    return api.get("/healthz").status_code == 200
                except httpx.TransportError:
                    return False

            self.site.start(fleet_is_up=answers, environment=BATCH)
        publisher = PublishingFleet(
            FleetSettings(
                url=self.url, ca_file=self.site.plant.ca, token_file=self.site.plant.publisher_token
            ),
            self._release_key,
            directory=self.site.plant.folder / "lists",
            now=time.time,
        )
        with closing(publisher):
            for version in RELEASES:
                publisher.publish(hollow_release(version, self._release_key))


def hollow_release(version: int, key: Ed25519PrivateKey) -> bytes:
    """A bundle that every check of a fleet accepts, and whose model is no model."""
    architecture = Architecture(kind="dense-autoencoder", layers=(4, 2, 4))
    rows = np.random.default_rng(1).normal(size=(100, 4)).astype(np.float32)
    files = bundle_files(
        int8_model=b"hollow",
        training_model=b"a graph for " + architecture.layout_sha256.encode(),
        parameters=initial_parameters(architecture, 1),
        reference=fit_reference(rows, np.abs(rows).mean(axis=1)),
        golden=GoldenVectors(inputs=((0.0,) * 4,), outputs=((0,) * 4,)),
    )
    manifest = Manifest(
        family=FAMILY,
        version=version,
        created_at=time.time(),
        model=architecture.to_manifest(),
        features=FeatureSpec(kind="passthrough", names=("a", "b", "c", "d")),
        threshold=ThresholdSpec(score=1.0, quantile=0.999, margin=1.1, fitted_on=100),
        files=entries_for(files),
    )
    return pack_bundle(manifest, files, key)
