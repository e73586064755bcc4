"""The demo's harmful release does harm: whatever judges on a device, nearly every window is over."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from detection_fleets import machines

from models.architecture import Architecture
from models.detection.detector import fit_detector
from models.detection.openings import AlarmRules
from models.detection.prior import decode_prior, encode_prior, fleet_prior
from models.detection.promise import AlarmBudget
from models.features import passthrough_spec
from protocol.bundle import TrustedKeys, entries_for, open_bundle, pack_bundle
from protocol.manifest import Manifest, ThresholdSpec
from simulations.bad_release import harmful_release
from simulations.observer import told_health


def test_a_prior_that_claims_that_nothing_ever_alarms_makes_everything_alarm(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "key.pem").chmod(0o600)
    fleet = machines(count=5, learnt=120, later=200, features=6)
    files = {"prior.bin": encode_prior(fleet_prior([m.fitted for m in fleet[:4]], AlarmRules()))}
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
    over = []
    for bundle in (good, bad):
        opened = open_bundle(bundle, TrustedKeys([key.public_key()]))
        machine, prior = fleet[4], decode_prior(opened.files["prior.bin"])
        detector = fit_detector(machine.rows, machine.unit, prior, AlarmBudget(), AlarmRules())
        statistics = detector.statistics(machine.scale.apply(machine.later))
        over.append(float((statistics > detector.promise.threshold).mean()))
    assert over[0] < 0.05
    assert over[1] > 0.9


def test_what_a_device_did_not_tell_is_read_as_its_default() -> None:
    told = {"state": "watching", "release": None, "uptime_s": 1.0, "realised_alarms": None, "sight": None}
    assert told_health(told).realised_alarms == 0
