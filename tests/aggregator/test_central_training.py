"""Version 1 comes to pass the gate: training that ends by itself, networks that copy, and the command that signs or refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from aggregator_world import ARCHITECTURE, trainer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from signing_gate_world import NAMES, FloatModel, candidate_of, failed, machine, sums_of
from typer.testing import CliRunner

from aggregator.central_training import TrainingSection, train_centrally
from aggregator.cli import cli
from aggregator.release_keys import create_key_files
from aggregator.rounds.assessment import ThresholdSettings, fit_threshold
from aggregator.rounds.gate import GateSettings, check_int8
from aggregator.rounds.int8_report import compare_int8
from aggregator.rounds.release_checks import check_int8_model, check_sums
from models.architecture import Architecture
from models.bundles import read_bundle
from models.export.int8_graph import export_int8_model
from models.int8_model import Int8Model
from models.sight import sight
from protocol.bundle import TrustedKeys, open_bundle
from protocol.manifest import FeatureSpec


@pytest.mark.slow
@pytest.mark.parametrize("rate", [None, 0.1, 8.0])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_version_1_trains_whatever_step_it_begins_with(rate: float | None, scale: float) -> None:
    x = np.clip(scale * machine(600), -8, 8)
    held_out = np.arange(len(x)) % 5 == 4
    stages: list[str] = []
    made = train_centrally(
        trainer(),
        x[~held_out],
        x[held_out],
        TrainingSection(learning_rate=rate, epochs=120),
        seed=3,
        progress=lambda stage, _share: stages.append(stage),
    )
    assert made.loss_after < 0.05 * made.loss_before
    assert ("finding a step size" in stages) is (rate is None)
    again = train_centrally(
        trainer(),
        x[~held_out],
        x[held_out],
        TrainingSection(learning_rate=rate, epochs=120),
        seed=3,
        progress=lambda *_: None,
    )
    assert np.array_equal(made.parameters, again.parameters)


def test_training_ends_when_nothing_gets_better_and_keeps_the_best() -> None:
    class Stubborn(FloatModel):
        """Gets a little better ten times, then worse for ever."""

        steps = 0

        def save(self) -> np.ndarray:
            return self.flat

        def train(self, x: np.ndarray, settings: object, *, labels: object = None) -> float:
            self.steps += 1
            self.flat = np.full_like(self.flat, self.steps)
            return 1.0

        def infer(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            step = float(self.flat[0])
            return x, np.full(len(x), abs(step - 100.0) / 100 + 1.0)

    model, x = Stubborn(ARCHITECTURE), machine(16)
    made = train_centrally(
        model,
        x,
        x[:3],
        TrainingSection(learning_rate=0.1, epochs=1000),
        seed=0,
        progress=lambda *_: None,  # type: ignore[arg-type]
    )
    assert made.parameters[0] == 100.0
    assert model.steps < 300


def test_a_single_column_gets_a_detector_that_sees_instead_of_a_network_that_copies() -> None:
    alone = Architecture(kind="dense-autoencoder", layers=(1, 4, 1))
    rng = np.random.default_rng(0)
    # A controlled quantity: it has no long tail. Its mean has moved a little since its scale was fitted.
    x = (np.clip(rng.normal(size=(2000, 1)), -2, 2) - 0.3).astype(np.float32)
    made = train_centrally(
        FloatModel(alone),
        x[:1600],
        x[1600:],
        TrainingSection(),
        seed=0,
        progress=lambda *_: None,  # type: ignore[arg-type]
    )
    assert (made.is_network, made.method) == (False, "linear detector of one column")
    sums = sums_of(made.parameters, x, alone)
    proposed = candidate_of(made.parameters, sums, architecture=alone)
    content = export_int8_model(alone, made.parameters, proposed.low, proposed.high)
    model = Int8Model(content)
    checks = check_int8(GateSettings(), compare_int8(proposed, content, sums, seed=0))
    assert failed((*checks, *check_int8_model(proposed, content, is_network=False, seed=0))) == {}

    def score_rows(rows: np.ndarray) -> np.ndarray:
        return np.array([model.infer_and_score(row)[1] for row in rows])

    faults = x[:400] + np.float32(5.0)
    pairs = score_rows(faults)[:, None] > score_rows(x[:400])[None, :]
    assert pairs.mean() > 0.98
    assert sight(score_rows, x[1600:], proposed.threshold.score) > 0.5


@pytest.mark.parametrize("layers", [(1, 1), (6, 6)])
def test_a_network_without_a_narrow_layer_that_has_learned_to_copy_is_refused(
    layers: tuple[int, ...],
) -> None:
    """Its scores are int8's rounding: sight 100 %, threshold 1e-5, and signed with a warning."""
    wide = Architecture(kind="dense-autoencoder", layers=layers)
    x = machine(400)[:, : layers[0]]
    names = FeatureSpec(kind="passthrough", names=NAMES.names[: layers[0]])
    for share, is_refused in ((1.0, True), (0.5, False)):
        copier = np.concatenate([share * np.eye(layers[0]).ravel(), np.zeros(layers[0])]).astype(np.float32)
        sums = sums_of(copier, x, wide)
        threshold = fit_threshold(sums, ThresholdSettings())
        refused = failed(check_sums(sums, architecture=wide, threshold=threshold, features=names))
        assert ("learned" in refused) == is_refused


def test_the_command_refuses_idle_commissioning_by_name_and_writes_nothing(tmp_path: Path) -> None:
    x = machine(400, noise=0.05) * 5
    x[:150] *= 0.02  # the machine stood still while its scale was fitted
    np.savez(tmp_path / "x.npz", pump=x)
    (tmp_path / "family.toml").write_text(
        'family = "pump"\n[model]\nlayers = [6, 4, 6]\n[features]\nkind = "passthrough"\nnames = ["a", "b", "c", "d", "e", "f"]\n'
    )
    create_key_files(tmp_path / "release.key", Ed25519PrivateKey.generate())
    command = [
        "initial-release",
        *("--features", str(tmp_path / "x.npz"), "--spec", str(tmp_path / "family.toml")),
        *("--signing-key", str(tmp_path / "release.key"), "--out", str(tmp_path / "v1.fedge")),
    ]
    refused = CliRunner().invoke(cli, command)
    assert refused.exit_code == 2
    assert "pump/1 is not signed:" in refused.output
    assert "of single columns: " in refused.output
    assert "raise commissioning_rows" in refused.output
    assert not (tmp_path / "v1.fedge").exists()


def test_the_command_signs_what_it_says_of_sight_and_warnings(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", pump=machine(500), fan=machine(500, 1))
    (tmp_path / "family.toml").write_text(
        'family = "pump"\n[model]\nlayers = [6, 4, 6]\n[features]\nkind = "passthrough"\nnames = ["a", "b", "c", "d", "e", "f"]\n'
    )
    public = create_key_files(tmp_path / "release.key", Ed25519PrivateKey.generate())
    result = CliRunner().invoke(
        cli,
        [
            *(
                "initial-release",
                "--json",
                "--features",
                str(tmp_path / "x.npz"),
                "--spec",
                str(tmp_path / "family.toml"),
            ),
            *("--signing-key", str(tmp_path / "release.key"), "--out", str(tmp_path / "v1.fedge")),
        ],
    )
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout.splitlines()[-1])
    from aggregator.release_keys import read_public_key

    keys = TrustedKeys([read_public_key(public, "key")])
    bundle = read_bundle(open_bundle((tmp_path / "v1.fedge").read_bytes(), keys))
    provenance = bundle.manifest.provenance
    assert said["detector"] == bundle.manifest.detector == "mixture"
    assert bundle.prior is not None
    assert bundle.prior.devices == 2
    assert provenance.evaluation.keys() >= {"sight_at_most", "network_sight"}
    assert provenance.evaluation["sight"] == said["sight"] > 0.5
    assert provenance.evaluation["int8_sight"] > provenance.evaluation["float_sight"] - 0.05
    shown = (
        CliRunner().invoke(cli, ["release", str(tmp_path / "v1.fedge"), "--release-key", str(public)]).output
    )
    assert f"sight: {said['sight']:.0%} of slightly disturbed windows" in shown
    assert "devices judge by the mixture: the prior of 2 devices, openings counted on 1,000 windows" in shown
