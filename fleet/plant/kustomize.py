"""A plant as a Kustomize overlay: `kubectl apply --kustomize plant/kubernetes` brings up the plant's own identities in a cluster.

::

    plant/kubernetes/kustomization.yaml      what follows, and base/ (a copy of what this package holds)
    plant/kubernetes/fleet.toml, aggregator.toml      the plant's settings, with the addresses and paths of a cluster
    plant/kubernetes/secrets/                copies of keys, tokens and the database's address, 0600: made Secrets by kubectl
    plant/kubernetes/secrets/*-data.tar      what the services' volumes begin with: the signed repository, the device CA, tokens

For a plant on PostgreSQL that the cluster reaches: replicas of the fleet share one, and the plant's tokens are in it. What must be
the cluster's own (images, a storage class, the address of the Services) is in kustomization.yaml, which is the person's to change.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Final

import tomli_w
from sqlalchemy.engine import make_url

from fleet.broker_door.assembly import write_broker_files
from fleet.broker_door.broker_files import BrokerPlaces
from fleet.plant.containers import IMAGE, MOSQUITTO_IMAGE
from fleet.plant.mosquitto import PLUGIN
from fleet.plant.tables import Table, aggregator_table, fleet_table
from fleet.plant.written import Outcome, WrittenFiles
from fleet.settings import Settings
from fleet.storage.base import Database
from runtime.durable_files import private_directory, read_bytes, write_durably
from service.plant import Plant

__all__ = ["write_kustomize"]

BASE: Final = Path(__file__).with_name("kubernetes_base")
RESOURCES: Final = ("fleet.yaml", "aggregator.yaml", "broker.yaml", "network.yaml")
"""All but PostgreSQL, which the plant has."""

MOST_SEED_BYTES: Final = 900_000
"""A Secret holds a megabyte: a plant that has worked carries its data into the volumes by hand."""

_KEYS: Final = "/etc/fedge-keys"
_PKI: Final = "/etc/fedge-pki"


def write_kustomize(
    plant: Plant, settings: Settings, database: Database, files: WrittenFiles, *, device_ca: str
) -> None:
    """Write the overlay; raises StorageError."""
    folder, secrets = plant.kubernetes, private_directory(plant.kubernetes / "secrets")
    for name in RESOURCES:
        files.write(folder / "base" / name, (BASE / name).read_text())
    files.write(folder / "namespace.yaml", _NAMESPACE)
    files.write(folder / "fleet.toml", tomli_w.dumps(_fleet(plant)))
    files.write(folder / "aggregator.toml", tomli_w.dumps(_aggregator(plant)))
    places = BrokerPlaces(
        services="8884",
        folder=Path("/mosquitto/fedge"),
        state=Path("/mosquitto/data/dynamic-security.json"),
        plugin=f"/usr/lib/{PLUGIN}",
    )
    write_broker_files(
        settings,
        database,
        private_directory(secrets / "broker"),
        services_ca=plant.clients_ca.read_bytes(),
        device_ca=device_ca.encode(),
        places=places,
        keeps_state=False,
    )
    copies = {
        "database.url": settings.effective_database_url.encode(),
        "ca.pem": plant.ca.read_bytes(),
        "release.key": plant.release_key.read_bytes(),
        "fleet.token": plant.publisher_token.read_bytes(),
        "viewer.token": plant.viewer_token.read_bytes(),
        "broker.pem": plant.certificate("broker").read_bytes(),
        "broker.key": plant.key("broker").read_bytes(),
        **{f"{s}.{kind}": _shown(plant, s, kind) for s in ("fleet", "aggregator") for kind in ("pem", "key")},
        **{f"{s}-client.{k}": _client(plant, s, k) for s in ("fleet", "aggregator") for k in ("pem", "key")},
        "fleet-data.tar": _tar(
            plant.fleet_data, ("device-ca.key", "device-ca.pem", "instruction.key", "trust")
        ),
        "aggregator-data.tar": _tar(plant.aggregator_data, ("identity.key", "aggregator.sqlite")),
    }
    changed = [name for name, content in copies.items() if read_bytes(secrets / name) != content]
    files.note(secrets, Outcome.UPDATED if changed else Outcome.KEPT)
    for name in changed:
        write_durably(secrets / name, copies[name], mode=0o600)
    files.write(folder / "kustomization.yaml", _kustomization(plant, settings))


def _fleet(plant: Plant) -> Table:
    own = {"tls_cert": f"{_PKI}/fleet.pem", "tls_key": f"{_PKI}/fleet.key"}
    client = {"tls_cert": f"{_PKI}/fleet-client.pem", "tls_key": f"{_PKI}/fleet-client.key"}
    return {
        **fleet_table(plant),
        "listen": "0.0.0.0:8443",
        **own,
        "data_dir": "/var/lib/fedge-fleet",
        "mqtt": {
            "url": "mqtts://broker-services:8884",
            "shared": True,
            "ca_file": f"{_PKI}/ca.pem",
            **client,
        },
        "aggregator": {
            "url": "https://aggregator:8444",
            "ca_file": f"{_PKI}/ca.pem",
            "token_file": f"{_PKI}/viewer.token",
        },
    }


def _aggregator(plant: Plant) -> Table:
    client = {"tls_cert": f"{_KEYS}/aggregator-client.pem", "tls_key": f"{_KEYS}/aggregator-client.key"}
    return {
        **aggregator_table(plant),
        "listen": "0.0.0.0:8444",
        "flower_listen": "0.0.0.0:9092",
        "tls_cert": f"{_KEYS}/aggregator.pem",
        "tls_key": f"{_KEYS}/aggregator.key",
        "data_dir": "/var/lib/fedge-aggregator",
        "families_dir": "/var/lib/fedge-aggregator/families",
        "signing_key": f"{_KEYS}/release.key",
        "fleet": {
            "url": "https://fleet:8443",
            "ca_file": f"{_KEYS}/ca.pem",
            "token_file": f"{_KEYS}/fleet.token",
        },
        "mqtt": {"url": "mqtts://broker:8883", "ca_file": f"{_KEYS}/ca.pem", **client},
    }


def _shown(plant: Plant, service: str, kind: str) -> bytes:
    return (plant.certificate(service) if kind == "pem" else plant.key(service)).read_bytes()


def _client(plant: Plant, service: str, kind: str) -> bytes:
    return plant.client_files(service)[0 if kind == "pem" else 1].read_bytes()


def _tar(folder: Path, names: tuple[str, ...]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in names:
            if (folder / name).exists():
                archive.add(folder / name, arcname=name)
    return content.getvalue() if content.tell() <= MOST_SEED_BYTES else b""


def _secret(name: str, files: dict[str, str]) -> str:
    lines = "".join(f"\n      - {key}=secrets/{path}" for key, path in files.items())
    return f"  - name: {name}\n    files:{lines}\n"


def _seed(service: str, mark: str) -> str:
    """A patch that has an empty volume begin with what the plant has."""
    data = f"/var/lib/fedge-{service}"
    return f"""\
  - target: {{kind: Deployment, name: {service}}}
    patch: |
      apiVersion: apps/v1
      kind: Deployment
      metadata: {{name: {service}}}
      spec:
        template:
          spec:
            initContainers:
              - name: seed
                image: {IMAGE}
                command:
                  - sh
                  - -c
                  - |
                    [ -e {data}/{mark} ] && exit 0
                    [ -s /seed/data.tar ] || {{ echo "carry {service}/data of the plant into this volume first"; exit 1; }}
                    tar --extract --file /seed/data.tar --directory {data}
                resources: {{requests: {{cpu: 10m, memory: 32Mi}}, limits: {{memory: 128Mi}}}}
                securityContext:
                  allowPrivilegeEscalation: false
                  readOnlyRootFilesystem: true
                  capabilities: {{drop: [ALL]}}
                volumeMounts:
                  - {{name: seed, mountPath: /seed, readOnly: true}}
                  - {{name: data, mountPath: {data}}}
            volumes:
              - name: seed
                secret: {{secretName: {service}-seed, defaultMode: 0440}}
"""


def _kustomization(plant: Plant, settings: Settings) -> str:
    port = make_url(settings.effective_database_url).port or 5432
    broker = {
        name: f"broker/{name}"
        for name in ("fedge.conf", "acl", "clients.pem", "services.pem", "dynamic-security.json")
    }
    pki = ("ca.pem", "fleet.pem", "fleet.key", "fleet-client.pem", "fleet-client.key", "viewer.token")
    keys = ("ca.pem", "aggregator.pem", "aggregator.key", "aggregator-client.pem", "aggregator-client.key",
            "release.key", "fleet.token")  # fmt: skip
    resources = "".join(f"  - base/{name}\n" for name in RESOURCES)
    return f"""\
# `fedge init plant` wrote this file; kubectl apply --kustomize {plant.kubernetes}
# Yours to set: the images, the storage class, and how the three Services get one address, which {plant.description.host} is.
# Not beside `fedge up`, the systemd units or compose.yaml: one of them starts a plant.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: fedge
resources:
  - namespace.yaml
{resources}images:
  - name: {IMAGE}
    newName: registry.example.com/fedge
    newTag: "0.1.0"
  - name: mosquitto
    newName: {MOSQUITTO_IMAGE.rpartition(":")[0]}
    newTag: {MOSQUITTO_IMAGE.rpartition(":")[2]}
configMapGenerator:
  - name: fleet-settings
    files: [fleet.toml]
  - name: aggregator-settings
    files: [aggregator.toml]
secretGenerator:
{_secret("fleet-database", {"url": "database.url"})}\
{_secret("fleet-pki", {name: name for name in pki})}\
{_secret("aggregator-keys", {name: name for name in keys})}\
{_secret("broker-files", {**broker, "broker.pem": "broker.pem", "broker.key": "broker.key"})}\
{_secret("fleet-seed", {"data.tar": "fleet-data.tar"})}\
{_secret("aggregator-seed", {"data.tar": "aggregator-data.tar"})}\
patches:
  - target: {{kind: Service, name: ^(fleet|broker|aggregator)$}}
    patch: |
      - {{op: add, path: /spec/type, value: LoadBalancer}}
  - target: {{kind: PersistentVolumeClaim, name: fleet-data}}
    patch: |
      - {{op: add, path: /spec/storageClassName, value: shared-files}}
  # the plant's database is none of the base's
  - target: {{kind: NetworkPolicy, name: fleet}}
    patch: |
      - {{op: add, path: /spec/egress/-, value: {{ports: [{{port: {port}, protocol: TCP}}]}}}}
  - target: {{kind: NetworkPolicy, name: fleet}}
    patch: |
      - op: add
        path: /spec/egress/-
        value:
          to: [{{podSelector: {{matchLabels: {{app.kubernetes.io/name: aggregator}}}}}}]
          ports: [{{port: 8444, protocol: TCP}}]
{_seed("fleet", "device-ca.key")}{_seed("aggregator", "identity.key")}"""


_NAMESPACE: Final = """\
apiVersion: v1
kind: Namespace
metadata:
  name: fedge
  labels:
    pod-security.kubernetes.io/enforce: restricted
"""
