"""A device whose machine alarms steadily, for the real agent process with a real broker."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from agent_broker import agents_broker
from agent_world import ARCHITECTURE, DEVICE, FAMILY, faulty, healthy, make_bundle, status_of, write_device
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from mosquitto_broker import MosquittoBroker
from waiting import wait_until

from protocol.identity import public_key_pem
from protocol.messages.payloads import TrainingInvitation
from protocol.training import TrainingSettings

RESEND = "[outbox]\nresend_s = 0.5\n"
INVITATION = TrainingInvitation(
    run_id="run-1",
    family=FAMILY,
    base_release="pump/1",
    layout_sha256=ARCHITECTURE.layout_sha256,
    flower_address="127.0.0.1:1",  # nobody listens there: a learner knocks for as long as it is let
    issued_at=0.0,
    expires_at=4e9,
)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[MosquittoBroker]:
    made = agents_broker(tmp_path)
    yield made
    made.stop()


def alarming_device(directory: Path, broker: MosquittoBroker, extra: str = RESEND) -> Path:
    # 70 healthy windows for the scale, then a fault of 20 windows in every 100: anomalies come steadily.
    quiet = healthy(70, 9) * 0.5
    rows = np.concatenate([healthy(100), *([faulty(20), quiet] * 3)])
    return write_device(
        directory,
        rows=rows,
        speed=100.0,
        mqtt_url=broker.url,
        mqtt_ca=broker.ca_file,
        connection=broker.certificates.connection(DEVICE),
        bundle=make_bundle(training=TrainingSettings().settled()),
        extra=extra,
    )


@contextlib.contextmanager
def training_device(
    directory: Path, broker: MosquittoBroker, aggregator: ec.EllipticCurvePrivateKey, *, host: str = ""
) -> Iterator[Path]:
    """The same, which trusts `aggregator`; whatever happens, none of its learners outlives the block."""
    (directory / "ca.pem").write_text(_ca_certificate())
    (directory / "aggregator.pub.pem").write_bytes(public_key_pem(aggregator.public_key()))
    flower = '[flower]\nca_file = "ca.pem"\naggregator_key = "aggregator.pub.pem"\n'
    config = alarming_device(directory, broker, RESEND + flower + (f'host = "{host}"\n' if host else ""))
    try:
        yield config
    finally:
        for process in Path("/proc").glob("[0-9]*"):
            # Gone meanwhile, most of them.
            with contextlib.suppress(OSError):
                told = (process / "cmdline").read_bytes().split(b"\0")
                if b"edge_agent.learner" in told and str(config).encode() in told:
                    os.kill(int(process.name), signal.SIGKILL)


def learner_pid(config: Path) -> int | None:
    """The learner that the agent says it has, if it runs."""
    pid = status_of(config).get("learner_pid")
    return pid if isinstance(pid, int) and Path(f"/proc/{pid}").exists() else None


def knocking_learner(config: Path, *, other_than: int | None = None) -> int:
    """The learner, once it is past all that could make it end by itself and knocks at the aggregator's door."""

    def found() -> int | None:
        pid, log = learner_pid(config), config.parent / "state" / "learner" / "learner.log"
        is_knocking = pid not in {None, other_than} and "aggregator_unreachable" in log.read_text()
        return pid if is_knocking else None

    return wait_until(found, "a learner that knocks") or 0


def _ca_certificate() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
    day = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(day)
        .not_valid_after(day + dt.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
