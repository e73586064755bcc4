"""The demo's harmful release does harm where a device would have judged by a prior, too."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from models.architecture import Architecture
from models.features import passthrough_spec
from protocol.bundle import TrustedKeys, entries_for, open_bundle, pack_bundle
from protocol.manifest import Manifest, ThresholdSpec
from simulations.bad_release import harmful_release
from simulations.observer import told_health


def test_the_harmful_release_is_signed_and_its_network_calls_nearly_everything_an_anomaly(
    tmp_path: Path,
) -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "key.pem").chmod(0o600)
    files = {"prior.bin": b"a prior", "model.int8.tflite": b"a model"}
    manifest = Manifest(
        family="f",
        version=2,
        created_at=0.0,
        model=Architecture(kind="dense-autoencoder", layers=(6, 4, 2, 4, 6)).to_manifest(),
        features=passthrough_spec([f"s{i}" for i in range(6)]),
        threshold=ThresholdSpec(score=4.0, quantile=0.99, margin=1.1, fitted_on=100),
        detector="mixture",
        files=entries_for(files),
    )
    good = pack_bundle(manifest, files, key)
    bad = harmful_release(good, version=3, signing_key=tmp_path / "key.pem", now=1.0)
    opened = open_bundle(bad, TrustedKeys([key.public_key()]))
    assert (opened.manifest.version, opened.manifest.detector) == (3, "network")
    assert opened.manifest.threshold.score * opened.manifest.threshold.personal_maximum < 0.05 * 4.0
    assert opened.files == {"model.int8.tflite": b"a model"}


def test_what_a_device_did_not_tell_is_read_as_its_default() -> None:
    told = {"state": "watching", "release": None, "uptime_s": 1.0, "realised_alarms": None, "sight": None}
    assert told_health(told).realised_alarms == 0
