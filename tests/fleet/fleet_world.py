"""What the fleet's tests stand on: real keys, real bundles, real messages, a real server process, a real broker."""

from __future__ import annotations

import base64
import os
import re
import secrets
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID
from free_ports import is_taken
from mosquitto_broker import LocalCertificates
from sqlalchemy.orm import Session
from trust_world import Keys, make_repository
from waiting import died, wait_until

from fleet.auth.claim_tokens import ClaimTerms, create_claims
from fleet.auth.operator_tokens import PREFIX, SessionRows
from fleet.device_ca import DeviceCa
from fleet.ingest.judging import Arrival
from fleet.storage.base import Database
from fleet.storage.device_tables import Device
from fleet.trust.repository import TrustRepository
from models.architecture import Architecture, initial_parameters
from models.bundles import GoldenVectors, bundle_files
from models.drift.reference import fit_reference
from protocol.bundle import entries_for, pack_bundle
from protocol.enrolment import ENROLMENT_DOMAIN, certificate_question, enrolment_statement
from protocol.identity import fingerprint, issue_token, private_key_pem, public_key_pem, sign_statement
from protocol.manifest import FeatureSpec, Manifest, Provenance, ThresholdSpec
from protocol.messages.envelope import CLOUD_EVENT, Event, decode, encode, kind_of
from protocol.messages.kinds import AgentState, Kind
from protocol.messages.payloads import Ack, AnomalyClosed, AnomalyEvent, Health, Payload
from protocol.sealed_events import SEALED_BY_DEVICES, seal
from protocol.topics import device_topic
from service.roles import Role
from service.tokens import TokenGrant, create_token

TENANT = "demo"
RELEASE_KEY = Ed25519PrivateKey.generate()
NOW = 1_767_225_600.0
FAMILIES = ("motor", "pump", "fan", "counted", "taken", "busy")
PEM = serialization.Encoding.PEM


def bundle(
    version: int = 1,
    *,
    content: bytes = b"model",
    key: Ed25519PrivateKey = RELEASE_KEY,
    family: str = "motor",
    changed: dict[str, bytes] | None = None,
    provenance: Provenance | None = None,
) -> bytes:
    """A sound bundle that every check of the fleet accepts; its int8 model is `content`, which nothing here runs."""
    architecture = Architecture(kind="dense-autoencoder", layers=(4, 2, 4))
    rows = np.random.default_rng(1).normal(size=(100, 4)).astype(np.float32)
    files = bundle_files(
        int8_model=content,
        training_model=b"a graph for " + architecture.layout_sha256.encode(),
        parameters=initial_parameters(architecture, 1),
        reference=fit_reference(rows, np.abs(rows).mean(axis=1)),
        golden=GoldenVectors(inputs=((0.0,) * 4,), outputs=((0,) * 4,)),
    )
    files |= changed or {}
    manifest = Manifest(
        family=family,
        version=version,
        created_at=NOW,
        model=architecture.to_manifest(),
        features=FeatureSpec(kind="passthrough", names=("a", "b", "c", "d")),
        threshold=ThresholdSpec(score=1.0, quantile=0.999, margin=1.1, fitted_on=100),
        files=entries_for(files),
        provenance=provenance or Provenance(),
    )
    return pack_bundle(manifest, files, key)


def make_trust(data_dir: Path) -> TrustRepository:
    """A signed repository in which `RELEASE_KEY` speaks for every family of these tests."""
    return make_repository(data_dir, Keys(families=dict.fromkeys(FAMILIES, RELEASE_KEY)))


def operator_token(session: Session, name: str, role: Role, now: float = NOW, **grant: Any) -> str:
    """A new token of the fleet's; a person of the token's name answers for it, where somebody must."""
    person = None if role is Role.PUBLISHER else name
    given = TokenGrant(**{"name": name, "role": role, "person": person} | grant)
    return create_token(SessionRows(session), given, prefix=PREFIX, now=now, random_bytes=secrets.token_bytes)


@dataclass(kw_only=True)
class Machine:
    """A device's identity and its stream of messages."""

    name: str
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    connection: ec.EllipticCurvePrivateKey | None = None
    boot: str = "boot-1"
    number: int = 0
    sequence: int = 0

    def token(self, now: float, audience: str = "fleet") -> str:
        return issue_token(self.key, self.name, audience, now)

    def request(self, connection: ec.EllipticCurvePrivateKey | None = None) -> str:
        """A request for a certificate, for a connection key of its own each time where none is given."""
        self.connection = connection or ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        builder = x509.CertificateSigningRequestBuilder().subject_name(name)
        return builder.sign(self.connection, hashes.SHA256()).public_bytes(PEM).decode()

    def enrolment(self, **changes: Any) -> dict[str, Any]:
        """The body of an enrolment; `changes` of what is signed are signed too."""
        said: dict[str, Any] = {
            "device": self.name,
            "tenant": TENANT,
            "family": "motor",
            "public_key": public_key_pem(self.key.public_key()).decode(),
            "hardware": "rpi4",
            "labels": {"machine": "lathe"},
        } | changes
        said.setdefault("certificate_request", self.request())
        statement = enrolment_statement(
            identity=self.key.public_key(),
            **{key: str(said[key]) for key in ("device", "tenant", "family", "certificate_request")},
        )
        signature = base64.b64encode(sign_statement(self.key, ENROLMENT_DOMAIN, statement)).decode()
        return {"signature": signature} | said

    def question(self, request: str | None = None) -> dict[str, str]:
        """The body that asks for the next certificate, by `request` where one is given."""
        asked = certificate_question(self.key, self.name, self.request() if request is None else request)
        return {"certificate_request": asked.certificate_request, "signature": asked.signature}

    def former_enrolment(self, **changes: Any) -> dict[str, Any]:
        """The body as an agent of before this fleet's certificates sends it."""
        statement = f"{self.name}\n{fingerprint(self.key.public_key())}".encode()
        return {
            "device": self.name,
            "public_key": public_key_pem(self.key.public_key()).decode(),
            "hardware": "rpi4",
            "family": "motor",
            "labels": {"machine": "lathe"},
            "signature": base64.b64encode(sign_statement(self.key, "enrolment/v1", statement)).decode(),
        } | changes

    def event(self, data: Payload, *, sequence: int | None = None, at: float = NOW) -> Event:
        if sequence is None:
            self.sequence += 1
            sequence = self.sequence
        event = Event(
            source=self.name,
            boot_id=self.boot,
            boot_number=self.number,
            sequence=sequence,
            time=at,
            data=data,
        )
        if kind_of(data) not in SEALED_BY_DEVICES:
            return event
        return seal(event, self.key, tenant=TENANT, device=self.name, nonce=secrets.token_hex(16))

    def restart(self, boot: str, number: int = 0) -> None:
        """A new boot, which counts its events anew."""
        self.boot, self.number, self.sequence = boot, number, 0

    def arrival(
        self, data: Payload, *, sequence: int | None = None, at: float = NOW, retained: bool = False
    ) -> Arrival:
        return arrival(self.event(data, sequence=sequence, at=at), retained=retained)


def arrival(event: Event, *, retained: bool = False) -> Arrival:
    return Arrival(
        topic=device_topic(TENANT, event.source, kind_of(event.data)),
        payload=encode(event),
        retained=retained,
        received_at=event.time + 1,
    )


def word_of(answer: Any) -> Any:
    """What a sealed answer over HTTPS says."""
    assert answer.headers["content-type"] == CLOUD_EVENT, answer.text
    return decode(answer.content).data


def of_a_newer_agent(message: Arrival) -> Arrival:
    """The same message in a version that this fleet does not speak yet."""
    return Arrival(
        topic=message.topic,
        payload=message.payload.replace(b".v1", b".v2"),
        retained=message.retained,
        received_at=message.received_at,
    )


def anomaly(**changes: Any) -> AnomalyEvent:
    fields: dict[str, Any] = {
        "release": "motor/1",
        "score": 2.0,
        "threshold": 1.0,
        "window_index": 7,
        "observed_at_s": 70.0,
    }  # fmt: skip - one line of fields
    return AnomalyEvent(**fields | changes)


def closed(episode: str, **changes: Any) -> AnomalyClosed:
    fields: dict[str, Any] = {
        "release": "motor/1",
        "observed_at_s": 90.0,
        "lasted_s": 20.0,
        "windows": 9,
        "windows_over": 7,
        "peak_score": 4.5,
    }  # fmt: skip - one line of fields
    return AnomalyClosed(episode=episode, **fields | changes)


def health(**changes: Any) -> Health:
    fields: dict[str, Any] = {"state": AgentState.WATCHING, "release": "motor/1", "uptime_s": 10.0}
    return Health(**fields | changes)


def make_claims(database: Database, count: int = 1, *, now: float = NOW, **terms: Any) -> list[str]:
    """Claims of the family of every `Machine`, for a week."""
    wanted = ClaimTerms(**{"name": "t", "family": "motor", "site": "hall-1"} | terms)
    with database.write() as session:
        return create_claims(session, wanted, count, now=now, random_bytes=secrets.token_bytes)


def enrol_directly(database: Database, *machines: Machine) -> None:
    """Put devices into the database without HTTP."""
    with database.write() as session:
        for machine in machines:
            session.add(
                Device(
                    id=machine.name,
                    fingerprint=fingerprint(machine.key.public_key()),
                    public_key=public_key_pem(machine.key.public_key()).decode(),
                    hardware="rpi4",
                    family="motor",
                    site="hall-1",
                    labels={},
                    enrolled_at=NOW,
                )
            )


class Told:
    """A `DesiredPublisher` that notes whom it was to tell."""

    def __init__(self) -> None:
        self.announced: list[tuple[str, Kind]] = []

    def announce(self, devices: Iterable[str], kind: Kind = Kind.DESIRED) -> None:
        self.announced += [(device, kind) for device in devices]


@contextmanager
def process(*arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child process of ours, ended by its id whatever happens."""
    with log.open("ab") as stderr:
        child = subprocess.Popen([sys.executable, *arguments], stdout=stderr, stderr=stderr)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@contextmanager
def fleet_process(config: Path, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """``fedge-fleet serve`` as its own process, and the URL it listens on."""
    start = log.stat().st_size if log.exists() else 0

    def url() -> str | None:
        match = re.search(r'"url": "(https?://[^"]+)"', log.read_text()[start:] if log.exists() else "")
        return match[1] if match else None

    with process("-m", "fleet", "serve", "--config", str(config), log=log) as child:
        yield child, wait_until(url, "the fleet to listen", unless=lambda: died(child, log)) or ""


@contextmanager
def broker_process(
    port: int, folder: Path, certificates: LocalCertificates
) -> Iterator[subprocess.Popen[bytes]]:
    """The embedded broker in its own process, beside the fleet of `folder`.

    It trusts the fleet's device CA, and reads the file ``shut-out`` that the fleet maintains.
    """
    DeviceCa(folder / "data", tenant=TENANT, random_bytes=os.urandom).ensure(time.time())
    log, clients = folder / "broker.log", folder / "clients.pem"
    clients.write_bytes(certificates.ca_file.read_bytes() + (folder / "data" / "device-ca.pem").read_bytes())
    with process(
        "-m",
        "simulations.broker",
        "--listen",
        f"127.0.0.1:{port}",
        "--tenant",
        TENANT,
        "--shut-out",
        str(folder / "shut-out"),
        "--clients",
        str(clients),
        "--certificate",
        str(certificates.certificate),
        "--key",
        str(certificates.key),
        log=log,
    ) as child:
        wait_until(lambda: is_taken(port), "the broker to listen", unless=lambda: died(child, log))
        yield child


def kill(child: subprocess.Popen[bytes]) -> None:
    """As a power cut does it: no handler runs."""
    os.kill(child.pid, signal.SIGKILL)
    child.wait()


def shown_by(machine: Machine, chain: str, folder: Path) -> tuple[Path, Path]:
    """Files of the certificate that `machine` got and of its key, as a TLS library reads them."""
    assert machine.connection is not None
    files = folder / f"{machine.name}.pem", folder / f"{machine.name}.key"
    files[0].write_text(chain)
    files[1].write_bytes(private_key_pem(machine.connection))
    return files


class DeviceClient:
    """A device's MQTT connection: publishes raw payloads, remembers what came down."""

    def __init__(self, port: int, name: str, tls: ssl.SSLContext) -> None:
        self.acked: set[tuple[str, int]] = set()
        self.desired: list[bytes] = []
        self.connected = threading.Event()
        self._name = name
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=name, protocol=paho.MQTTv311)
        self._client.tls_set_context(tls)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def publish(self, event: Event) -> None:
        self.publish_raw(kind_of(event.data), encode(event))

    def publish_raw(self, kind: Kind, payload: bytes) -> None:
        self._client.publish(device_topic(TENANT, self._name, kind), payload, qos=1)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: paho.Client, *_: object) -> None:
        client.subscribe([(device_topic(TENANT, self._name, kind), 1) for kind in (Kind.ACK, Kind.DESIRED)])
        self.connected.set()

    def _on_message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        if message.topic.endswith("/desired"):
            self.desired.append(message.payload)
            return
        data = decode(message.payload, Kind.ACK).data
        assert isinstance(data, Ack)
        for boot in data.boots:
            for first, last in boot.ranges:
                self.acked.update((boot.boot_id, n) for n in range(first, last + 1))
