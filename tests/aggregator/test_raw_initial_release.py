"""Version 1 of a convolutional family, from recordings of raw windows to a signed bundle that hears a fault."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aggregator.cli import cli
from aggregator.family_file import load_spec
from aggregator.release_keys import create_key_files, read_public_key
from models.bundles import read_bundle
from models.features import raw_spec
from models.int8_model import Int8Model
from models.sensors import SensorView
from protocol.bundle import TrustedKeys, open_bundle
from runtime.errors import SettingsError

SAMPLES = 12
SPEC = f"""
family = "fan"
commissioning_rows = 60
[model]
kind = "conv-autoencoder"
layers = [2, 5, 3, 5, 2]
convolution = {{ samples = {SAMPLES}, kernel = 6, stride = 2 }}
[features]
kind = "raw"
names = ["drive end", "fan end"]
window_samples = {SAMPLES}
sample_rate_hz = 1000.0
[training]
epochs = 60
learning_rate = 0.5
"""


def windows(count: int, seed: int, *, lag: float = 1.0) -> np.ndarray:
    """Two sensors of one rotation, the second some radians behind; each machine's units differ."""
    rng = np.random.default_rng(seed)
    angle = 2 * np.pi * np.arange(SAMPLES) / rng.uniform(10, 14, (count, 1)) + rng.uniform(0, 6.3, (count, 1))
    waves = np.stack([np.sin(angle), np.sin(angle + lag)], axis=-1)
    return ((1 + seed) * (waves + 0.1 * rng.normal(size=waves.shape)) + 5 * seed).astype(np.float32)


@pytest.mark.slow
def test_a_convolutional_release_hears_a_fault_that_leaves_every_channel_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "family.toml").write_text(SPEC)
    np.savez(tmp_path / "x.npz", **{f"fan-{m}": windows(400, m) for m in range(3)})  # type: ignore[arg-type] # numpy's stub wants named keywords
    create_key_files(tmp_path / "release.key", Ed25519PrivateKey.generate())
    cli(
        [
            "initial-release",
            *("--features", str(tmp_path / "x.npz"), "--spec", str(tmp_path / "family.toml")),
            *("--signing-key", str(tmp_path / "release.key"), "--out", str(tmp_path / "v1.fedge")),
        ],
        standalone_mode=False,
    )
    assert "fan/1 from 1200 windows of 3 machines" in capsys.readouterr().out
    trusted = TrustedKeys([read_public_key(tmp_path / "release.pub.pem", "release_keys")])
    bundle = read_bundle(open_bundle((tmp_path / "v1.fedge").read_bytes(), trusted))
    assert bundle.manifest.features == raw_spec(("drive end", "fan end"), SAMPLES, sample_rate_hz=1000.0)
    model = Int8Model(bundle.int8_model, "conv-autoencoder")
    bundle.golden.check(model)
    # A machine that it never saw, in units of its own.
    view, own = SensorView(bundle.manifest.features), windows(300, 7).reshape(300, -1)
    scale = view.fit_scale(own[:60])
    share_over = [
        np.mean([model.infer_and_score(row)[1] > bundle.manifest.threshold.score for row in rows])
        for rows in (
            view.standardise(own[60:], scale),
            view.standardise(windows(100, 7, lag=2.5).reshape(100, -1), scale),
        )
    ]
    assert share_over[0] <= 0.02
    assert share_over[1] >= 0.98


@pytest.mark.parametrize(
    ("find", "replace", "said"),
    [
        (
            "kernel = 6",
            "kernell = 6",
            "unknown key 'model.convolution.kernell'; did you mean 'model.convolution.kernel'?",
        ),
        ("kernel = 6", "kernel = 5", "must be an odd multiple of stride 2"),
        (
            "samples = 12",
            "samples = 14",
            "does not divide evenly",
        ),
        ("window_samples = 12", "window_samples = 16", "the model takes 24 values, a window has 32"),
        ("window_samples = 12", "", "need window_samples, as model.convolution.samples"),
        ('names = ["drive end", "fan end"]', "", "features.names is missing"),
        ('kind = "conv-autoencoder"', 'kind = "dense-autoencoder"', "has no convolution"),
    ],
)
def test_a_mistake_in_a_convolution_is_named(tmp_path: Path, find: str, replace: str, said: str) -> None:
    assert find in SPEC
    (tmp_path / "family.toml").write_text(SPEC.replace(find, replace, 1))
    with pytest.raises(SettingsError, match=re.escape(said)):
        load_spec(tmp_path / "family.toml")


def test_the_documented_convolution_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "aggregator.md").read_text()
    (block,) = re.findall(r"```toml\n(\[model\].*?)```", page, re.DOTALL)
    (tmp_path / "family.toml").write_text('family = "pump"\n' + block)
    architecture = load_spec(tmp_path / "family.toml").model.architecture()
    assert (architecture.feature_count, architecture.parameter_count) == (480, 9344)
