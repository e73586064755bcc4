"""``fedge-aggregator release`` and ``edge-tpu``, and the compiled model in the releases of a family that wants one."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import structs
from structlog.testing import LogCapture
from typer.testing import CliRunner

from aggregator.cli import cli
from aggregator.exporter import SigningExporter
from aggregator.release_keys import create_key_files, read_public_key
from aggregator.rounds.candidates import Candidate
from aggregator.rounds.int8_settings import Int8Settings
from aggregator.rounds.runs import Check
from aggregator.rounds.signing_gate import REQUIRED, clear
from models import reference_model
from models.architecture import Architecture, initial_parameters, split_parameters
from models.bundles import EDGE_TPU_FILE, read_bundle
from models.drift.reference import fit_reference
from models.int8_model import Int8Model
from protocol.bundle import TrustedKeys, open_bundle
from protocol.manifest import FeatureSpec, Provenance, ThresholdSpec
from protocol.names import FamilyName

sys.path.append(str(Path(__file__).parents[1] / "models"))
from test_models_edge_tpu import REPORT, program

ARCHITECTURE = Architecture(kind="dense-autoencoder", layers=(6, 4, 2, 4, 6))
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OLD = TrustedKeys([KEY.public_key()])
TRAINING = Path(__file__).parents[1] / "models" / "golden" / "autoencoder.training.tflite"


def candidate() -> Candidate:
    parameters = initial_parameters(ARCHITECTURE, 3)
    x = np.random.default_rng(0).normal(size=(200, 6))
    low, high = reference_model.ranges(ARCHITECTURE, parameters, x)
    return Candidate(
        family=FamilyName("pump"),
        version=2,
        architecture=ARCHITECTURE,
        parameters=parameters,
        low=low.astype(np.float32),
        high=high.astype(np.float32),
        threshold=ThresholdSpec(score=2.0, quantile=0.99, margin=1.1, fitted_on=100),
        features=FeatureSpec(kind="passthrough", names=tuple("abcdef")),
        reference=fit_reference(x, np.ones(200)),
        provenance=Provenance(
            participants=3,
            evaluation={"int8_error": 0.0012, "int8_score_error": 0.006, "int8_per_channel": 0.0},
        ),
        created_at=1.0,
        training_model=TRAINING.read_bytes(),
        int8=Int8Settings(weight_scales="per-tensor"),
    )


def released(proposed: Candidate) -> bytes:
    exporter = SigningExporter(KEY)
    passed = [Check(name=name, value=1.0, limit=1.0, is_passed=True, reason="") for name in REQUIRED]
    return exporter.release(clear(proposed, exporter.int8_model(proposed), passed))


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch) -> Path:
    """A folder that is first on the PATH, without a compiler yet."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def install_compiler(folder: Path) -> None:
    (folder / "report").write_text(REPORT)
    program(folder, f'cp "$4" "$3/model_edgetpu.tflite"; cat {folder}/report')


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A bundle and the public key that signed it."""
    bundle = tmp_path / "v2.fedge"
    bundle.write_bytes(released(candidate()))
    public = create_key_files(tmp_path / "release.key", KEY)
    return str(bundle), str(public)


def test_a_release_shows_float_against_int8_for_people_and_for_programs(files) -> None:
    bundle, key = files
    text = CliRunner().invoke(cli, ["release", bundle, "--release-key", key]).output
    assert "outputs differ by 0.0012 of their power" in text
    assert "scores by 0.60% on average" in text
    assert "weight scales: per tensor" in text
    shown = json.loads(CliRunner().invoke(cli, ["release", bundle, "--release-key", key, "--json"]).output)
    assert shown["evaluation"]["int8_error"] == 0.0012
    assert shown["float_bytes"] == 4 * ARCHITECTURE.parameter_count
    assert not shown["has_edge_tpu_model"]


def test_a_bundle_is_checked_and_compiled_for_an_edge_tpu(files, on_path: Path, tmp_path: Path) -> None:
    install_compiler(on_path)
    bundle, key = files
    out = tmp_path / "compiled.tflite"
    result = CliRunner().invoke(cli, ["edge-tpu", bundle, "--release-key", key, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "ready for an Edge TPU" in result.output
    assert "4 of 4 operations in 1 partition(s), 6400 bytes on the chip, 0 streamed" in " ".join(
        result.output.split()
    )
    assert out.stat().st_size > 1000


def test_a_model_that_is_not_ready_exits_with_1_and_says_why(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["edge-tpu", str(TRAINING), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.output)["is_ready"] is False


def test_wrong_use_is_one_line_and_exit_status_2(files, on_path: Path, tmp_path: Path) -> None:
    bundle, key = files
    other = create_key_files(tmp_path / "other.key", Ed25519PrivateKey.generate())
    for arguments, words in (
        (["release", bundle, "--release-key", str(other)], "is no release that"),
        (["release", str(tmp_path / "none.fedge"), "--release-key", key], "cannot read"),
        (["edge-tpu", bundle], "needs --release-key"),
        (["edge-tpu", bundle, "--release-key", key, "--out", "x.tflite"], "there is no edgetpu_compiler"),
    ):
        result = CliRunner().invoke(cli, arguments)
        assert (result.exit_code, words in result.output) == (2, True), result.output


def test_a_family_that_wants_one_releases_the_compiled_model_too(on_path: Path) -> None:
    install_compiler(on_path)
    keys = TrustedKeys([KEY.public_key()])
    bundle = read_bundle(
        open_bundle(
            released(replace(candidate(), int8=Int8Settings(edge_tpu=True, weight_scales="per-tensor"))), keys
        )
    )
    assert bundle.edge_tpu_model is not None
    assert bundle.edge_tpu_model.startswith(bundle.int8_model)
    assert EDGE_TPU_FILE not in open_bundle(released(candidate()), keys).files


def test_without_the_compiler_the_release_goes_out_without_its_model(
    on_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = LogCapture()
    monkeypatch.setattr("aggregator.exporter._log", structlog.wrap_logger(None, processors=[logged]))
    content = released(replace(candidate(), int8=Int8Settings(edge_tpu=True, weight_scales="per-tensor")))
    assert read_bundle(open_bundle(content, TrustedKeys([KEY.public_key()]))).edge_tpu_model is None
    assert [line["event"] for line in logged.entries] == ["edge_tpu_model_left_out"]


def test_a_family_for_edge_tpus_needs_one_scale_a_weight() -> None:
    with pytest.raises(ValueError, match="edge_tpu = true needs weight_scales = 'per-tensor'"):
        Int8Settings(edge_tpu=True)
    assert Int8Settings(edge_tpu=True, weight_scales="per-tensor").edge_tpu


def test_silent_units_leave_the_int8_model_and_not_the_training_model() -> None:
    exporter, plain = SigningExporter(KEY), candidate()
    parts = split_parameters(ARCHITECTURE, parameters := plain.parameters.copy())
    parts[1][:2] = -100.0  # these cannot fire within any range
    parts[5][0] = -2.5  # this one does not fire on typical windows
    proposed = replace(plain, parameters=parameters, probes=np.zeros((4, 6), np.float32))
    sizes = [
        len(
            exporter.int8_model(
                replace(proposed, int8=structs.replace(proposed.int8, prune_silent_units=wanted))
            )
        )
        for wanted in (False, True)
    ]
    assert sizes[1] < sizes[0] < len(exporter.int8_model(plain))
    bundle = read_bundle(open_bundle(released(proposed), TrustedKeys([KEY.public_key()])))
    np.testing.assert_array_equal(bundle.parameters, parameters)
    x = np.random.default_rng(0).normal(size=6).astype(np.float32)
    expected = reference_model.infer(ARCHITECTURE, parameters, x[None])[0][0]
    model = Int8Model(bundle.int8_model)
    np.testing.assert_allclose(model.infer(x), expected, atol=4 * model.output_scale)


def test_an_old_release_is_signed_anew_under_a_new_number_and_key(files, tmp_path: Path) -> None:
    bundle, former = files
    new = create_key_files(tmp_path / "new.key", Ed25519PrivateKey.generate())
    out = tmp_path / "v9.fedge"
    words = ["release-again", bundle, "--release-key", former, "--signing-key", str(tmp_path / "new.key")]
    told = CliRunner().invoke(cli, [*words, "--version", "9", "--out", str(out)])
    assert told.exit_code == 0, told.output
    trusted = TrustedKeys([read_public_key(new, "key")])
    made, old = (
        read_bundle(open_bundle(out.read_bytes(), trusted)),
        open_bundle(Path(bundle).read_bytes(), OLD),
    )
    assert (made.manifest.version, made.manifest.provenance.parent) == (9, "pump/2")
    assert made.int8_model == old.files["model.int8.tflite"]
    assert made.manifest.threshold == old.manifest.threshold
    assert CliRunner().invoke(cli, [*words, "--version", "9", "--out", str(out)]).exit_code == 2
    words[3] = str(new)
    assert (
        CliRunner().invoke(cli, [*words, "--version", "9", "--out", str(tmp_path / "v10.fedge")]).exit_code
        == 2
    )
