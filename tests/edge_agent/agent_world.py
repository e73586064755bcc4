"""A device for tests: a state directory with identity, pinned root, factory bundle and a recording to watch.

The models are the small real ones of tests/models/golden, so no TensorFlow is needed. A healthy row is standard
normal, a faulty one lies far outside.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealing_world import FLEET_KEY
from trust_repository import TrustRepository

from models.architecture import Architecture, initial_parameters
from models.bundles import bundle_files, make_golden_vectors
from models.detection.prior import FleetPrior
from models.drift.reference import DriftReference, fit_reference
from models.features import passthrough_spec
from models.int8_model import Int8Model
from protocol.bundle import TrustedKeys, entries_for, open_bundle, pack_bundle
from protocol.identity import private_key_pem
from protocol.manifest import Manifest, ThresholdSpec
from protocol.training import TrainingSettings

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "models" / "golden"
FEATURES = 6
NAMES = tuple(f"feature-{i}" for i in range(FEATURES))
SPEC = passthrough_spec(NAMES)
ARCHITECTURE = Architecture(kind="dense-autoencoder", layers=(6, 4, 2, 4, 6))
RELEASE_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUSTED = TrustedKeys([RELEASE_KEY.public_key()])
DEVICE, TENANT, FAMILY = "pump-07", "demo", "pump"


def int8_model() -> bytes:
    return (GOLDEN / "autoencoder.int8.tflite").read_bytes()


@cache
def _reference() -> DriftReference:
    rows, model = healthy(200, seed=1), Int8Model(int8_model())
    return fit_reference(rows, np.array([model.infer_and_score(row)[1] for row in rows]))


def make_bundle(
    version: int = 1,
    *,
    threshold: float = 4.0,
    prior: FleetPrior | None = None,
    training: TrainingSettings | None = None,
) -> bytes:
    """A release; without a profile in `training` no learner stays on it."""
    model = Int8Model(int8_model())
    files = bundle_files(
        int8_model=int8_model(),
        training_model=(GOLDEN / "autoencoder.training.tflite").read_bytes(),
        parameters=initial_parameters(ARCHITECTURE, 3),
        reference=_reference(),
        golden=make_golden_vectors(model, FEATURES),
        prior=prior,
    )
    manifest = Manifest(
        family=FAMILY,
        version=version,
        created_at=1.0,
        model=ARCHITECTURE.to_manifest(),
        features=SPEC,
        threshold=ThresholdSpec(score=threshold, quantile=0.99, margin=1.1, fitted_on=100),
        detector="network" if prior is None else "mixture",
        training=training,
        files=entries_for(files),
    )
    return pack_bundle(manifest, files, RELEASE_KEY)


def signed_anew(key: Ed25519PrivateKey) -> bytes:
    """The release of `make_bundle`, by another key."""
    bundle = open_bundle(make_bundle(), TRUSTED)
    return pack_bundle(bundle.manifest, bundle.files, key)


def manifest_of(bundle: bytes) -> Manifest:
    return open_bundle(bundle, TRUSTED).manifest


def healthy(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, FEATURES)).astype(np.float32)


def faulty(count: int, seed: int = 0) -> np.ndarray:
    return healthy(count, seed) + np.float32(7.0)


def write_trust(
    directory: Path, *bundles: bytes, repository: TrustRepository | None = None
) -> TrustRepository:
    """A pinned root, and the repository that the image brought along, with these bundles on its list."""
    repository = repository or TrustRepository(
        FAMILY, release_key=RELEASE_KEY, fleet_key=FLEET_KEY, now=datetime.now(UTC)
    )
    for bundle in bundles:
        repository.list(manifest_of(bundle).release, bundle)
    repository.publish()
    repository.mirror(directory / "state" / "trust")
    (directory / "root.json").write_bytes(repository.pinned)
    return repository


def write_device(
    directory: Path,
    *,
    rows: np.ndarray,
    speed: float = 200.0,
    mqtt_url: str | None = None,
    mqtt_ca: Path | None = None,
    connection: Path | None = None,
    bundle: bytes | None = None,
    extra: str = "",
    repository: TrustRepository | None = None,
) -> Path:
    """Everything `fedge-agent run` needs; returns agent.toml. `speed` is windows per second, `connection` what it shows the broker."""
    state = directory / "state"
    (state / "bundles").mkdir(parents=True)
    if bundle is not None:
        (state / "bundles" / "factory.fedge").write_bytes(bundle)
    key = ec.generate_private_key(ec.SECP256R1())
    (state / "device.key").write_bytes(private_key_pem(key))
    (state / "enrolment.json").write_text(json.dumps({"device": DEVICE, "tenant": TENANT}))
    if connection is not None:
        shutil.copy(connection, state / "connection.pem")
    write_trust(directory, *(() if bundle is None else (bundle,)), repository=repository)
    np.savez(directory / "rows.npz", rows=rows, feature_names=np.array(NAMES))
    (directory / "machine.json").write_text(json.dumps({"rows": [0, len(rows)], "loop": True}))
    config = directory / "agent.toml"
    config.write_text(
        f'state_dir = "state"\ntenant = "{TENANT}"\nfamily = "{FAMILY}"\nhardware = "rpi4"\n'
        'labels = { site = "hall-1" }\n[trust]\nroot = "root.json"\n'
        + (f'[mqtt]\nurl = "{mqtt_url}"\nreconnect_max_s = 0.5\n' if mqtt_url else "")
        + (f'ca_file = "{mqtt_ca}"\n' if mqtt_ca else "")
        + f'[source]\nkind = "replay"\npath = "rows.npz"\nkey = "rows"\nrow_every_s = 1.0\nspeed = {speed}\n'
        'control_file = "machine.json"\n'
        "[detection]\ncommissioning_windows = 60\nreference_windows = 60\n"
        "[health]\nevery_s = 0.5\nstatus_every_s = 0.1\n" + extra
    )
    return config


@contextmanager
def running_agent(
    config: Path, environment: Mapping[str, str] = os.environ
) -> Iterator[subprocess.Popen[bytes]]:
    """A real agent process; ended by its own pid whatever happens."""
    log = (config.parent / "agent.log").open("ab")
    child = subprocess.Popen(
        [sys.executable, "-m", "edge_agent", "run", "--config", str(config)],
        cwd=ROOT,
        stderr=log,
        stdout=log,
        env={**environment, "PYTHONPATH": f"{ROOT}:{config.parent}"},
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
        child.wait()
        log.close()


def status_of(config: Path) -> dict[str, object]:
    """status.json, or nothing yet."""
    try:
        found: dict[str, object] = json.loads((config.parent / "state" / "status.json").read_bytes())
    except FileNotFoundError:
        return {}
    return found


def health_of_status(config: Path) -> dict[str, object]:
    health = status_of(config).get("health", {})
    assert isinstance(health, dict)
    return health
