"""Settings, keys, tokens, and the first release: what people hand to the command line."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from command_line import run_command
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aggregator.cli import cli
from aggregator.family_file import load_spec
from aggregator.initial_release import check_trust_radius
from aggregator.release_keys import create_key_files, read_private_key, read_public_key
from aggregator.settings import load_aggregator_settings
from aggregator.tokens import TokenStore
from models.bundles import read_bundle
from models.features import passthrough_spec, vibration_spec
from models.int8_model import Int8Model
from models.standardiser import fit_standardiser
from models.trust_radius import Isolation
from protocol.bundle import TrustedKeys, open_bundle
from protocol.training import TrainingSettings
from runtime.errors import SettingsError, StorageError
from service.errors import TokenChangeError, UnauthenticatedError
from service.roles import Caller, Role
from service.tokens import TokenGrant, create_token, token_digest

GOOD = """
tls_cert = "server.pem"
tls_key = "server.key"
data_dir = "data"
tenant = "demo"
signing_key = "release.key"
[fleet]
url = "https://127.0.0.1:8443"
ca_file = "ca.pem"
token_file = "/abs/fleet.token"
[mqtt]
url = "mqtt://127.0.0.1:1883"
[[family]]
name = "press"
[family.trigger]
drift_share = 0.5
"""


def settings_of(tmp_path: Path, text: str) -> str:
    path = tmp_path / "aggregator.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as refused:
        load_aggregator_settings(path, {})
    return str(refused.value)


def test_paths_are_relative_to_the_settings_file(tmp_path: Path) -> None:
    (tmp_path / "aggregator.toml").write_text(GOOD)
    settings = load_aggregator_settings(tmp_path / "aggregator.toml", {})
    assert settings.tls_cert == tmp_path / "server.pem"
    assert settings.fleet.ca_file == tmp_path / "ca.pem"
    assert settings.fleet.token_file == Path("/abs/fleet.token")
    assert settings.families["press"].trigger.drift_share == 0.5


@pytest.mark.parametrize(
    ("find", "replace", "said"),
    [
        ("tenant", "tennant", "unknown key 'tennant'; did you mean 'tenant'?"),
        (
            "drift_share",
            "drift_shar",
            "aggregator.toml:16: unknown key 'family[0].trigger.drift_shar'; did you mean 'family[0].trigger.drift_share'?",
        ),
        (
            "[family.trigger]",
            "[family.training]\ntrust_radius = 0.1\nupdate_norm = 10\n[family.trigger]",
            "family 'press': training.update_norm = 10 is beyond the trust radius of 0.1",
        ),
        ("ca_file", "zzz", "unknown key 'fleet.zzz'; valid here: ca_file"),
        ("0.5", "1.5", "family[0].trigger.drift_share = 1.5"),
        ('"press"', '"pre ss"', "'pre ss' is not a valid name"),
        ("https://127", "http://127", "fleet.url"),
        ('tenant = "demo"', "", "tenant is missing"),
        ("[fleet]", "[fleet", "is not valid TOML"),
        ('tenant = "demo"', 'tenant = "demo"\nlisten = "8444"', "listen: '8444' is not host:port"),
        ("[[family]]", '[[family]]\nname = "press"\n[[family]]', "the same name"),
        ("0.5", "inf", "give a finite number"),
        ("mqtt://127.0.0.1", "mqtt://broker.example", "would send messages in clear"),
    ],
)
def test_a_mistake_in_the_settings_is_named_with_what_would_be_valid(
    tmp_path: Path, find: str, replace: str, said: str
) -> None:
    assert find in GOOD
    assert said in settings_of(tmp_path, GOOD.replace(find, replace, 1))


def test_a_release_key_is_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "release.key"
    public = create_key_files(path, Ed25519PrivateKey.generate())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert public == tmp_path / "release.pub.pem"
    private = read_private_key(path, "signing_key")
    assert read_public_key(public, "release_keys") == private.public_key()
    with pytest.raises(SettingsError, match="never overwritten"):
        create_key_files(path, Ed25519PrivateKey.generate())
    with pytest.raises(SettingsError, match="not an unencrypted Ed25519 private key"):
        read_private_key(public, "signing_key")


def test_a_release_key_that_appears_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "release.key"
    path.write_bytes(b"somebody else's")
    # As it was when this command looked.
    monkeypatch.setattr(Path, "exists", lambda _: False)
    with pytest.raises(StorageError, match="File exists"):
        create_key_files(path, Ed25519PrivateKey.generate())
    assert path.read_bytes() == b"somebody else's"


def test_tokens_of_an_older_aggregator_go_on_as_their_namesakes(tmp_path: Path) -> None:
    secret = "ao_made long ago"
    with closing(sqlite3.connect(tmp_path / "a.sqlite")) as old, old:
        old.execute(
            "CREATE TABLE tokens (name TEXT PRIMARY KEY, role TEXT NOT NULL, sha256 TEXT NOT NULL UNIQUE, created_at REAL NOT NULL) STRICT"
        )
        old.execute("INSERT INTO tokens VALUES ('Anna', 'operator', ?, 1.0)", (token_digest(secret),))
    with closing(TokenStore(tmp_path / "a.sqlite", lambda: 2.0)) as tokens:
        assert tokens.find_caller(secret) == Caller(name="Anna", role=Role.OPERATOR, person="anna")


def test_nobody_publishes_at_the_aggregator(tmp_path: Path) -> None:
    with closing(TokenStore(tmp_path / "a.sqlite", lambda: 1.0)) as tokens, tokens.rows() as rows:
        grant = TokenGrant(name="anna", role=Role.PUBLISHER)
        with pytest.raises(TokenChangeError, match="valid are viewer, operator, admin"):
            create_token(rows, grant, prefix="ao_", now=1.0, random_bytes=os.urandom)


SPEC = """
family = "pump"
seed = 3
commissioning_rows = 40
[model]
layers = [6, 4, 6]
[features]
kind = "passthrough"
names = ["a", "b", "c", "d", "e", "f"]
"""


def recordings(path: Path, machines: int = 3, rows: int = 200) -> Path:
    basis = np.random.default_rng(99).normal(size=(2, 6))
    made = {}
    for machine in range(machines):
        rng = np.random.default_rng(machine)
        hidden = rng.normal(size=(rows, 2)) @ basis + 0.1 * rng.normal(size=(rows, 6))
        made[f"m{machine}"] = (5 * machine + (1 + machine) * hidden).astype(np.float32)
    np.savez(path, feature_names=np.array(list("abcdef")), **made)  # type: ignore[arg-type] # numpy's stub wants named keywords
    return path


def initial_release(tmp_path: Path, *more: str, more_spec: str = "") -> None:
    (tmp_path / "family.toml").write_text(f"{SPEC}\n{more_spec}")
    for old in ("release.key", "release.pub.pem"):
        (tmp_path / old).unlink(missing_ok=True)
    create_key_files(tmp_path / "release.key", Ed25519PrivateKey.generate())
    cli(
        [
            "initial-release",
            *("--features", str(recordings(tmp_path / "x.npz")), "--spec", str(tmp_path / "family.toml")),
            *("--signing-key", str(tmp_path / "release.key"), "--out", str(tmp_path / "v1.fedge"), *more),
        ],
        standalone_mode=False,
    )


@pytest.mark.slow
def test_version_1_is_a_signed_bundle_whose_int8_model_knows_normal_from_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    initial_release(tmp_path)
    said = capsys.readouterr().out
    assert "pump/1 from 600 windows of 3 machines" in said
    assert "trust radius 0." in said
    trusted = TrustedKeys([read_public_key(tmp_path / "release.pub.pem", "release_keys")])
    bundle = read_bundle(open_bundle((tmp_path / "v1.fedge").read_bytes(), trusted))
    model = Int8Model(bundle.int8_model)
    bundle.golden.check(model)
    # A machine it never saw, standardised by itself, is normal; with its sensors torn apart it is not.
    rng = np.random.default_rng(77)
    basis = np.random.default_rng(99).normal(size=(2, 6))
    own = (9 + rng.normal(size=(300, 2)) @ basis + 0.1 * rng.normal(size=(300, 6))).astype(np.float32)
    standard = fit_standardiser(own[:100]).apply(own)
    threshold = bundle.manifest.threshold.score
    # Each machine has a vote on it, and a device may not go below it.
    assert bundle.manifest.threshold.fitted_on == 3
    assert bundle.manifest.threshold.personal_minimum == 1.0
    healthy = np.array([model.infer_and_score(row)[1] for row in standard])
    broken = np.array([model.infer_and_score(row)[1] for row in rng.permuted(standard, axis=0)])
    assert np.mean(healthy > threshold) <= 0.02
    assert np.median(broken) > 10 * np.median(healthy)
    # How far devices may be taken was measured on the same windows, and is signed.
    profile, distance = bundle.manifest.training, bundle.manifest.provenance.evaluation["isolation_distance"]
    assert profile == TrainingSettings(trust_radius=distance / 4, update_norm=distance / 20)


@pytest.mark.slow
@pytest.mark.parametrize(("times", "warns"), [(0.1, False), (20.0, True)])
def test_a_trust_radius_of_the_familys_own_stands_and_a_person_is_told_where_it_is_too_large(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], times: float, warns: bool
) -> None:
    initial_release(tmp_path, "--json")
    measured = json.loads(capsys.readouterr().out)["trust_radius"]
    own = times * measured
    initial_release(tmp_path, more_spec=f"[profile]\ntrust_radius = {own}\nepochs = 3")
    bundle = read_bundle(
        open_bundle(
            (tmp_path / "v1.fedge").read_bytes(),
            TrustedKeys([read_public_key(tmp_path / "release.pub.pem", "k")]),
        )
    )
    assert bundle.manifest.training == TrainingSettings(epochs=3).settled(own)
    warning = "profile.trust_radius is above" in capsys.readouterr().err
    assert warning is warns
    assert any("profile.trust_radius" in said for said in bundle.manifest.provenance.warnings) is warns


@pytest.mark.parametrize(("norm", "warns"), [(None, False), (0.1, False), (10.0, True)])
def test_a_person_is_told_of_a_clip_that_is_beyond_the_measured_radius(
    norm: float | None, warns: bool
) -> None:
    measured = Isolation(distance=0.4, windows=600, units=4, weak=0)
    check = check_trust_radius(TrainingSettings(update_norm=norm).settled(measured.trust_radius), measured)
    assert check.is_passed
    assert check.is_warning is warns
    assert ("profile.update_norm = 10 is beyond the trust radius of 0.1" in check.reason) is warns


def test_the_same_recordings_give_the_same_model(tmp_path: Path) -> None:
    releases = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        initial_release(tmp_path / name)
        releases.append((tmp_path / name / "v1.fedge").read_bytes()[-5000:])
    assert releases[0] == releases[1]


@pytest.mark.parametrize(
    ("find", "replace", "said"),
    [
        ("seed", "sed", "unknown key 'sed'; did you mean 'seed'?"),
        ("layers", "layer", "unknown key 'model.layer'; did you mean 'model.layers'?"),
        ("[6, 4, 6]", "[6, 4, 5]", "must be equal"),
        ("[6, 4, 6]", "[5, 4, 5]", "there are 6 features"),
        ('"passthrough"', '"passthru"', "passthru"),
        ("seed = 3", "seed = 'x'", "seed"),
        ("[features]", "[int8]\nedge_tpu = true\n[features]", "needs weight_scales = 'per-tensor'"),
    ],
)
def test_a_mistake_in_the_family_specification_is_named(
    tmp_path: Path, find: str, replace: str, said: str
) -> None:
    path = tmp_path / "family.toml"
    assert find in SPEC
    path.write_text(SPEC.replace(find, replace, 1))
    with pytest.raises(SettingsError) as refused:
        load_spec(path)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ('kind = "vibration"\nsample_rate_hz = 12800.0\nwindow_samples = 2048', None),
        ('kind = "vibration"\nwindow_samples = 2048', "need sample_rate_hz and window_samples"),
        (
            'kind = "vibration"\nsample_rate_hz = 12800.0\nwindow_samples = 2048\nnames = ["rms"]',
            "features.names = ",
        ),
        ('kind = "passthrough"', "features.names is missing"),
        ('kind = "passthrough"\nnames = ["a", "b"]\nchannels = 1', "features.channels = 1"),
    ],
)
def test_features_that_follow_from_their_kind_need_not_be_written(
    tmp_path: Path, features: str, said: str | None
) -> None:
    path = tmp_path / "family.toml"
    path.write_text(f'family = "motor"\n[model]\nlayers = [24, 8, 24]\n[features]\n{features}\n')
    if said is None:
        assert load_spec(path).features.spec() == vibration_spec(12_800.0, 2048)
        return
    with pytest.raises(SettingsError, match=re.escape(said)):
        load_spec(path)


def test_a_first_release_describes_features_exactly_as_a_replay_source_does(tmp_path: Path) -> None:
    # A description that differed in one word would be refused on every device and the release withdrawn.
    (tmp_path / "family.toml").write_text(SPEC)
    assert load_spec(tmp_path / "family.toml").features.spec() == passthrough_spec(list("abcdef"))


def test_a_wrong_first_release_is_replaced_by_a_higher_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    initial_release(tmp_path, "--version", "2", "--json")
    assert json.loads(capsys.readouterr().out)["release"] == "pump/2"


def test_a_file_that_the_settings_name_and_that_is_not_there_is_found_without_starting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = str(tmp_path / "aggregator.toml")
    Path(settings).write_text(GOOD)
    for wrong in ("signing_key", "tls_cert"):
        assert cli(["check-config", "--config", settings], standalone_mode=False) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert wrong in said
        if wrong == "signing_key":
            create_key_files(tmp_path / "release.key", Ed25519PrivateKey.generate())


def test_the_aggregators_tokens_are_made_rotated_and_revoked_by_its_own_command(
    tmp_path: Path,
) -> None:
    config = tmp_path / "aggregator.toml"
    config.write_text(GOOD)

    def tokens(*words: str, status: int = 0) -> str:
        done = run_command("aggregator", "tokens", *words, "--config", str(config))
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    made = ("create", "--role", "operator", "--name", "anna", "--out", str(tmp_path / "anna.token"))
    assert "--person NAME" in tokens(*made, status=2)
    tokens(*made, "--person", "Anna", "--valid", "30d")
    assert "File exists" in tokens("rotate", "anna", "--out", str(tmp_path / "anna.token"), status=2)
    tokens("rotate", "anna", "--grace", "1h", "--out", str(tmp_path / "new.token"))
    store = TokenStore(load_aggregator_settings(config, {}).data_dir / "aggregator.sqlite", time.time)
    with closing(store):
        secrets = [(tmp_path / name).read_text().strip() for name in ("anna.token", "new.token")]
        assert [store.find_caller(secret).person for secret in secrets] == ["anna", "anna"]
        assert "old secret good until" in tokens("list")
        tokens("revoke", "anna", "--yes")
        assert "revoked" in tokens("list")
        with pytest.raises(UnauthenticatedError):
            store.find_caller(secrets[1])
    assert "is no length of time" in tokens("rotate", "anna", "--grace", "soon", status=2)
