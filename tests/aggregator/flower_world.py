"""A small real world for the Flower tests: certificates, a release, device directories, learner processes.

Everything is the production part; only the sensors are missing (the sample buffer is filled with plain random rows).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import http.server
import ipaddress
import os
import random
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from answerers import NO_GRID, Answering, Answers
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID
from waiting import AMPLE_S

from edge_agent.detection_memory import DetectionMemory
from edge_agent.enrolled import Enrolled
from edge_agent.installation.bundle_store import BundleStore
from edge_agent.installation.journal import BundleRef, Journal
from edge_agent.installation.journal_file import JournalFile
from edge_agent.installation.verification import verify
from edge_agent.learner.client_app import client_app
from edge_agent.learner.flower_client import FlowerClient
from edge_agent.learner.participation import Participation
from edge_agent.sample_buffer import SampleBuffer
from edge_agent.settings import StatePaths
from models.architecture import Architecture, initial_parameters
from models.drift.reference import fit_reference
from models.standardiser import Standardiser
from protocol.identity import compressed_key, private_key_pem, public_key_pem
from protocol.invitations import sign_invitation
from protocol.manifest import FeatureSpec, ThresholdSpec
from protocol.messages.payloads import TrainingInvitation
from protocol.names import DeviceId
from protocol.signed_requests import RequestSigner
from protocol.training import TrainingSettings

ARCHITECTURE = Architecture(kind="dense-autoencoder", layers=(6, 4, 6))
PROFILE = TrainingSettings(epochs=1, batch_size=32, learning_rate=0.05, trust_radius=50.0, update_norm=10.0)
COLUMNS = FeatureSpec(kind="passthrough", names=tuple("abcdef"))
RELEASE_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
IDENTITY = ec.derive_private_key(0x5EED, ec.SECP256R1())
"""The aggregator's."""
RUN_LEARNER = Path(__file__).with_name("run_learner_without_server_packages.py")


@dataclass(frozen=True, kw_only=True)
class Tls:
    """A CA and a certificate for 127.0.0.1."""

    ca: Path
    cert: Path
    key: Path


def make_tls(directory: Path) -> Tls:
    """Write a fresh CA and server certificate."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test ca")])
    ca = _certificate(ca_name, ca_name, ca_key.public_key(), ca_key, is_ca=True)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    cert = _certificate(name, ca_name, key.public_key(), ca_key, is_ca=False)
    tls = Tls(ca=directory / "ca.pem", cert=directory / "cert.pem", key=directory / "key.pem")
    tls.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    tls.cert.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    tls.key.write_bytes(private_key_pem(key))
    return tls


def build_bundle() -> bytes:
    """A signed release of `ARCHITECTURE`; takes some seconds (TensorFlow builds the training graph)."""
    from models.export.release import (
        ReleaseContent,
        build_release,
    )  # TensorFlow: only where a release is really needed

    rows = np.random.default_rng(1).normal(size=(200, 6))
    content = ReleaseContent(
        architecture=ARCHITECTURE,
        parameters=initial_parameters(ARCHITECTURE, 3),
        low=np.full(ARCHITECTURE.tensor_count, -4.0, np.float32),
        high=np.full(ARCHITECTURE.tensor_count, 4.0, np.float32),
        features=COLUMNS,
        threshold=ThresholdSpec(score=1.0, quantile=0.999, margin=1.1, fitted_on=200),
        reference=fit_reference(rows, np.abs(rows).mean(axis=1)),
        family="press",
        version=1,
        created_at=1.0,
        training=PROFILE,
    )
    return build_release(content, signing_key=RELEASE_KEY)


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device's directory and identity."""

    id: DeviceId
    directory: Path
    key: ec.EllipticCurvePrivateKey

    @property
    def public_key(self) -> bytes:
        """PEM."""
        return public_key_pem(self.key.public_key())

    @property
    def paths(self) -> StatePaths:
        """Its state directory."""
        return StatePaths(self.directory / "state")


@dataclass
class FamilyFleet:
    """The fleet as far as a learner asks it: the roster of its family, over real HTTPS."""

    keys: dict[DeviceId, ec.EllipticCurvePublicKey] = field(default_factory=dict)
    port: int = 0
    asked: list[str] = field(default_factory=list)

    def table(self, tls: Tls) -> str:
        return f'[fleet]\nurl = "https://127.0.0.1:{self.port}"\nca_file = "{tls.ca}"\n'

    @contextlib.contextmanager
    def serving(self, tls: Tls) -> Iterator[FamilyFleet]:
        """Serve on a free port in a thread; gone afterwards."""
        fleet = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fleet.asked.append(self.path)
                devices = {device: compressed_key(key) for device, key in sorted(fleet.keys.items())}
                body = msgspec.json.encode({"family": "press", "devices": devices, "next_cursor": None})
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.cert, tls.key)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join(5)
            server.server_close()


def make_device(
    root: Path,
    name: str,
    bundle: bytes,
    tls: Tls,
    *,
    rows: int = 200,
    seed: int = 0,
    fleet: FamilyFleet | None = None,
) -> Device:
    """Create a commissioned device: enrolled key, active release, filled buffer. With a `fleet` it answers under masks only."""
    device = Device(id=DeviceId(name), directory=root / name, key=ec.generate_private_key(ec.SECP256R1()))
    device.paths.root.mkdir(parents=True)
    device.paths.device_key.write_bytes(private_key_pem(device.key))
    (device.directory / "aggregator.pub.pem").write_bytes(public_key_pem(IDENTITY.public_key()))
    (device.directory / "agent.toml").write_text(
        'state_dir = "state"\ntenant = "demo"\nfamily = "press"\nhardware = "rpi4"\n'
        f'[trust]\nroot = "root.json"\n[flower]\nca_file = "{tls.ca}"\naggregator_key = "aggregator.pub.pem"\n'
        '[source]\nkind = "simulated"\n'
        + ("[learner]\nplain_answers = true\n" if fleet is None else fleet.table(tls))
        # Last, so that a test may add to it. These worlds are about the road, and their models move as far as they like.
        + "[privacy]\nmaximum_trust_radius = 200.0\n"
    )
    if fleet is not None:
        fleet.keys[device.id] = device.key.public_key()
        enrolled = Enrolled(device=name, tenant="demo")
        device.paths.enrolment.write_bytes(msgspec.json.encode(enrolled))
    sha256 = hashlib.sha256(bundle).hexdigest()
    verified = verify(bundle, sha256)
    BundleStore(device.paths.bundles).adopt(sha256, bundle)
    ref = BundleRef(release=verified.manifest.release, sha256=sha256)
    JournalFile(device.paths.install_journal).save(Journal(active=ref, committed=(ref,), factory=ref))
    scale = Standardiser(mean=(0.0,) * 6, std=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0), fitted_on=120)
    DetectionMemory(device.paths, verified.manifest.features).save_standardiser(scale)
    buffer = SampleBuffer(device.paths.buffer, verified.manifest.features, 1 << 20)
    rng = np.random.default_rng(seed)
    for i in range(rows):
        buffer.append((rng.normal(size=6) + 0.3 * seed).astype(np.float32), float(i), float(i))
    buffer.close()
    return device


def invitation_to(port: int, *, seconds: float = AMPLE_S, layout: str | None = None) -> TrainingInvitation:
    """To join run-1 at an aggregator on this machine, signed by it."""
    invitation = TrainingInvitation(
        run_id="run-1",
        family="press",
        base_release="press/1",
        layout_sha256=layout or ARCHITECTURE.layout_sha256,
        flower_address=f"127.0.0.1:{port}",
        issued_at=time.time(),
        expires_at=time.time() + seconds,
        minimum_windows=64,
    )
    return sign_invitation(invitation, IDENTITY)


def connect(
    port: int,
    tls: Tls,
    key: ec.EllipticCurvePrivateKey,
    *,
    aggregator: ec.EllipticCurvePrivateKey = IDENTITY,
) -> FlowerClient:
    """A device's connection to the aggregator on this machine."""
    return FlowerClient(
        f"127.0.0.1:{port}", tls.ca, RequestSigner(key, aggregator.public_key(), clock=time.monotonic)
    )


def invite(device: Device, port: int, *, seconds: float = AMPLE_S, layout: str | None = None) -> Path:
    """Leave an invitation for the device's learner."""
    invitation = invitation_to(port, seconds=seconds, layout=layout)
    device.paths.learner.mkdir(exist_ok=True)
    device.paths.invitation.write_bytes(msgspec.json.encode(invitation))
    return device.paths.invitation


def start_learner(device: Device) -> subprocess.Popen[bytes]:
    """Start the learner the way the agent does, in an interpreter that cannot import the server's packages."""
    with (device.directory / "learner.log").open("ab") as log:
        return subprocess.Popen(
            [
                sys.executable,
                str(RUN_LEARNER),
                "--config",
                str(device.directory / "agent.toml"),
                "--invitation",
                str(device.paths.invitation),
            ],
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )


@contextlib.contextmanager
def learners(devices: list[Device], port: int) -> Iterator[dict[DeviceId, subprocess.Popen[bytes]]]:
    """Run learners; whatever happens they are gone afterwards."""
    children: dict[DeviceId, subprocess.Popen[bytes]] = {}
    try:
        for device in devices:
            invite(device, port)
            children[device.id] = start_learner(device)
        yield children
    finally:
        for child in children.values():
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        for child in children.values():
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    is_ca: bool,
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=60))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    )
    if not is_ca:
        addresses = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(addresses), critical=False)
    return builder.sign(signer, hashes.SHA256())


@contextlib.contextmanager
def answering_device(device: Device, port: int, tls: Tls, answer: Answering) -> Iterator[threading.Event]:
    """A real connection of a device that answers whatever `answer` says, in a thread; set the event to end it."""
    stop = threading.Event()
    client = connect(port, tls, device.key)
    participation = Participation(
        client,
        client_app(Answers(answer), grid=NO_GRID),
        invitation_to(port),
        now=time.time,
        clock=time.monotonic,
        stop=stop,
        show=lambda _: None,
        draw=random.Random(1).random,
    )
    thread = threading.Thread(target=participation.take_part)
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(10)
        client.close()
