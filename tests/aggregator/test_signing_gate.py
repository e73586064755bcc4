"""The one gate before a signature, and how version 1 comes to pass it: dead, deaf and ruined models on generated machines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from aggregator_world import ARCHITECTURE, KEY, trainer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import structs
from typer.testing import CliRunner

from aggregator.central_training import TrainingSection, train_centrally
from aggregator.cli import cli
from aggregator.errors import ExportFailedError, GateRefusedError
from aggregator.exporter import SigningExporter
from aggregator.release_keys import create_key_files
from aggregator.rounds.assessment import (
    Assessment,
    ThresholdSettings,
    fit_threshold,
    read_assessment,
    reference_from_sums,
    tensor_ranges,
)
from aggregator.rounds.candidates import Candidate
from aggregator.rounds.gate import GateSettings, check_int8
from aggregator.rounds.int8_report import compare_int8, typical_windows
from aggregator.rounds.release_checks import check_first_sight, check_int8_model, check_sight, check_sums
from aggregator.rounds.runs import Check
from aggregator.rounds.signing_gate import REQUIRED, Cleared, clear
from models import reference_model
from models.architecture import Architecture, split_parameters
from models.bundles import read_bundle
from models.export.int8_graph import export_int8_model
from models.int8_model import Int8Model
from models.linear_baseline import mahalanobis_parameters
from models.local_training import assess
from models.moments import Moments
from models.sight import sight
from protocol.bundle import TrustedKeys, open_bundle
from protocol.manifest import FeatureSpec, Provenance
from protocol.names import FamilyName
from protocol.questions import assess_layout

NAMES = FeatureSpec(kind="passthrough", names=tuple("abcdef"))


class FloatModel:
    """The reference model as a device's trainer: what an assessment needs of one, without a graph."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture

    def restore(self, flat: np.ndarray, correction: np.ndarray | None = None) -> None:
        self.flat = flat

    def infer(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return reference_model.infer(self.architecture, self.flat, x)

    def ranges(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return reference_model.ranges(self.architecture, self.flat, x)


def machine(rows: int, seed: int = 0, *, noise: float = 0.1) -> np.ndarray:
    """Six sensors that follow two hidden causes, as the windows of a standardised machine."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(rows, 2)) @ np.random.default_rng(99).normal(size=(2, 6))
    return (hidden + noise * rng.normal(size=(rows, 6))).astype(np.float32)


def sums_of(parameters: np.ndarray, x: np.ndarray, architecture: Architecture = ARCHITECTURE) -> Assessment:
    held_out = np.arange(len(x)) % 5 == 4
    parts = assess(FloatModel(architecture), parameters, parameters, x[held_out], trained_on=x[~held_out])  # type: ignore[arg-type]
    layout = assess_layout(architecture.tensor_count, architecture.feature_count)
    return read_assessment(
        layout.pack(parts), tensors=architecture.tensor_count, features=architecture.feature_count
    )


def candidate_of(
    parameters: np.ndarray, sums: Assessment, *, architecture: Architecture = ARCHITECTURE
) -> Candidate:
    low, high = tensor_ranges(sums)
    probes = typical_windows(architecture, parameters, sums, np.random.default_rng(0)).astype(np.float32)
    names = tuple("abcdef"[: architecture.feature_count])
    return Candidate(
        family=FamilyName("pump"),
        version=1,
        architecture=architecture,
        parameters=parameters,
        low=low,
        high=high,
        threshold=fit_threshold(sums, ThresholdSettings()),
        features=FeatureSpec(kind="passthrough", names=names),
        reference=reference_from_sums(sums),
        provenance=Provenance(),
        created_at=1.0,
        probes=probes,
    )


def linear(x: np.ndarray, architecture: Architecture = ARCHITECTURE) -> np.ndarray:
    return mahalanobis_parameters(architecture, Moments.of(x), ridge=0.01)


def dead(x: np.ndarray) -> np.ndarray:
    """A network whose hidden units died: it answers every window with the mean, at the loss of doing nothing."""
    parameters = linear(x).copy()
    split_parameters(ARCHITECTURE, parameters)[1][:] = -100.0
    split_parameters(ARCHITECTURE, parameters)[3][:] = x.mean(axis=0)
    return parameters


def failed(checks: tuple[Check, ...]) -> dict[str, str]:
    return {check.name: check.reason for check in checks if not check.is_passed}


def judged(
    parameters: np.ndarray, x: np.ndarray, **changes: object
) -> tuple[Candidate, bytes, tuple[Check, ...]]:
    """All checks of a candidate that was learned from x, sight accepted."""
    sums = sums_of(parameters, x)
    proposed = candidate_of(parameters, sums)
    content = export_int8_model(ARCHITECTURE, parameters, proposed.low, proposed.high)
    checks = (
        *check_sums(
            sums,
            architecture=ARCHITECTURE,
            threshold=proposed.threshold,
            features=NAMES,
            **changes,  # type: ignore[arg-type]
        ),
        *check_int8_model(proposed, content, is_network=True, seed=0),
        *check_int8(GateSettings(), compare_int8(proposed, content, sums, seed=0)),
        check_first_sight(0.9, accepts_blind=False),
    )
    return proposed, content, checks


def test_a_detector_of_correlated_sensors_passes_and_its_warnings_are_signed() -> None:
    x = machine(400)
    proposed, content, checks = judged(linear(x), x)
    assert failed(checks) == {}
    assert {check.name for check in checks} == REQUIRED
    cleared = clear(proposed, content, checks)
    (warning,) = cleared.candidate.provenance.warnings
    assert "quantile 0.999 of fewer than 1000 scores is the largest of them" in warning


def test_a_network_that_answers_every_window_alike_is_refused_by_name_with_a_remedy() -> None:
    x = machine(400)
    _, _, checks = judged(dead(x), x, losses=(28.8, 3.6))
    reasons = failed(checks)
    assert reasons.keys() == {"output", "learned"}
    assert "every window gets the same output" in reasons["output"]
    assert "set it lower" in reasons["output"]
    assert reasons["learned"].startswith("loss 28.8 → 3.6, ")
    assert "leave it out" in reasons["learned"]
    # A linear detector may do so: its score is then the distance from the mean.
    sums = sums_of(dead(x), x)
    content = export_int8_model(ARCHITECTURE, dead(x), *tensor_ranges(sums))
    assert failed(check_int8_model(candidate_of(dead(x), sums), content, is_network=False, seed=0)) == {}


def test_nothing_is_signed_without_every_check_whoever_asks() -> None:
    x = machine(400)
    proposed, content, checks = judged(linear(x), x)
    for missing in sorted(REQUIRED):
        some = tuple(check for check in checks if check.name != missing)
        with pytest.raises(GateRefusedError, match=f"pump/1 is not signed: nobody checked {missing}"):
            Cleared(candidate=proposed, int8_model=content, checks=some)
    lame = tuple(structs.replace(check, is_passed=check.name != "sight") for check in checks)
    with pytest.raises(GateRefusedError, match="pump/1 is not signed: 90% of slightly disturbed"):
        clear(proposed, content, lame)
    with pytest.raises(AttributeError):
        SigningExporter(KEY).release(proposed)  # type: ignore[arg-type] # what the type forbids


def test_columns_at_the_end_of_the_scale_are_named_and_too_many_are_refused() -> None:
    x = machine(400)
    x[:160, 2] = 8.0
    x[200:205, 4] = -8.0
    few = check_sums(
        sums_of(linear(machine(400)), x),
        architecture=ARCHITECTURE,
        threshold=candidate_of(linear(x), sums_of(linear(x), x)).threshold,
        features=NAMES,
    )[0]
    # Only held-out windows are counted: 32 of 80 in c, one in e.
    assert (few.is_passed, few.is_warning) == (True, True)
    assert "single columns: c 40%, e 1%." in few.reason
    assert "raise commissioning_rows, or leave the column out" in few.reason
    x[:, 0] = 8.0
    many = check_sums(
        sums_of(linear(machine(400)), x),
        architecture=ARCHITECTURE,
        threshold=candidate_of(linear(x), sums_of(linear(x), x)).threshold,
        features=NAMES,
    )
    assert "a 100%, c 40%" in failed(many)["clipped"]
    noised = check_sums(
        sums_of(linear(machine(400)), x),
        architecture=ARCHITECTURE,
        threshold=candidate_of(linear(x), sums_of(linear(x), x)).threshold,
        features=NAMES,
        is_exact=False,
    )
    assert failed(noised) == {}


def test_a_threshold_that_no_window_can_reach_is_refused() -> None:
    x = machine(400)
    sums = sums_of(linear(x), x)
    proposed = candidate_of(linear(x), sums)
    content = export_int8_model(ARCHITECTURE, linear(x), proposed.low, proposed.high)
    model = Int8Model(content)
    corners = np.array(np.meshgrid(*[[-8, 8]] * 6), np.float32).reshape(6, -1).T
    largest = max(model.infer_and_score(row)[1] for row in corners)
    for share, passes, warns in (
        (0.2, True, False),
        (0.3, True, True),
        (0.51, False, True),
        (2.0, False, True),
    ):
        deaf = replace(proposed, threshold=structs.replace(proposed.threshold, score=share * largest))
        _, check = check_int8_model(deaf, content, is_network=True, seed=0)
        assert (check.is_passed, check.is_warning) == (passes, warns), share
        assert check.value == pytest.approx(share, rel=1e-6)
    assert "fault can reach it" in check.reason


def test_too_few_rows_are_refused_and_a_machine_with_a_handful_is_named() -> None:
    x = machine(45)
    reason = failed(judged(linear(machine(400)), x)[2])["rows"]
    assert "45 windows of 6 features for 58 parameters; at least 50 are needed" in reason
    enough = judged(linear(machine(400)), machine(60), machines={"fan 1": 46, "fan 2": 14})[2]
    (rows,) = (check for check in enough if check.name == "rows")
    assert (rows.is_passed, rows.is_warning) == (True, True)
    assert "fan 2 14; they say little" in rows.reason


@pytest.mark.parametrize("worst", [3.4e30, 2e4, float("nan"), float("inf")])
def test_a_ruined_parameter_is_never_signed(worst: float) -> None:
    x = machine(400)
    proposed, content, checks = judged(linear(x), x)
    parameters = linear(x).copy()
    parameters[7] = worst
    ruined = replace(proposed, parameters=parameters)
    with pytest.raises(ExportFailedError, match="parameter"):
        SigningExporter(KEY).release(clear(ruined, content, checks))


@pytest.mark.parametrize("figure", [float("nan"), float("inf")])
def test_a_figure_that_json_cannot_hold_is_named_before_anything_is_signed(figure: float) -> None:
    x = machine(400)
    proposed, content, checks = judged(linear(x), x)
    provenance = Provenance(evaluation={"candidate_loss": figure})
    with pytest.raises(ExportFailedError, match=r"evaluation\['candidate_loss'\] of pump/1 is (nan|inf)"):
        SigningExporter(KEY).release(clear(replace(proposed, provenance=provenance), content, checks))
    endless = structs.replace(proposed.threshold, score=float("inf"))
    with pytest.raises(ExportFailedError, match=r"threshold.score of pump/1 is inf"):
        SigningExporter(KEY).release(clear(replace(proposed, threshold=endless), content, checks))


def test_a_check_of_what_is_not_finite_can_be_written_down_and_read_back() -> None:
    import msgspec

    check = Check(name="improvement", value=-np.inf, limit=0.0, is_passed=False, reason="")
    assert msgspec.json.decode(msgspec.json.encode(check), type=Check) == check


def test_a_first_release_that_sees_nothing_is_signed_only_where_somebody_accepts_it() -> None:
    assert check_first_sight(0.5, accepts_blind=False).is_passed
    refused, accepted = (check_first_sight(0.49, accepts_blind=blind) for blind in (False, True))
    assert not refused.is_passed
    assert "--accept-blind" in refused.reason
    assert (accepted.is_passed, accepted.is_warning) == (True, True)
    assert accepted.reason.endswith("accepted as blind")


@pytest.mark.parametrize(
    ("candidate", "champion", "passed"),
    [
        (0.7, 0.6, True),
        (0.55, 0.6, True),
        (0.53, 0.6, False),
        (0.0, 0.04, False),
        (0.0, 0.0, True),
        (0.01, 0.05, True),
    ],
)
def test_a_candidate_may_not_see_less_than_the_champion(
    candidate: float, champion: float, passed: bool
) -> None:
    assert check_sight(candidate, champion, 10_000.0).is_passed is passed
    assert check_sight(candidate, champion, 10_000.0, is_classifier=True).is_passed


def test_few_probes_are_given_their_standard_error() -> None:
    # 64 probes: 9 % against 2 % is six windows against one.
    assert check_sight(0.016, 0.094, 64.0).is_passed
    assert not check_sight(0.016, 0.094, 10_000.0).is_passed
    # The bearings' own: one of 1,300 is nothing that its successor could lose.
    assert check_sight(0.0, 0.001, 1300.0).is_passed


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
