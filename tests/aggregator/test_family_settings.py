"""Ways of training in ``[[family]]``: what goes together, what is refused in which words, and what reaches the devices."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from aggregator_world import ARCHITECTURE, FAMILY, POLICY, TRUSTED, World
from family_changes import changed, family
from msgspec import ValidationError, structs

from aggregator.privacy.example_level import example_epsilon
from aggregator.rounds.candidates import Candidate
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.provenance import describe_method, with_method
from aggregator.rounds.runs import RoundRecord, RunState
from models.drift.reference import fit_reference
from protocol.bundle import open_bundle
from protocol.manifest import FeatureSpec, Provenance, ThresholdSpec
from protocol.training import ExamplePrivacy, TrainingSettings
from runtime.errors import SettingsError
from runtime.settings import read_settings

CANDIDATE = Candidate(
    family=FAMILY,
    version=2,
    architecture=ARCHITECTURE,
    parameters=np.zeros(ARCHITECTURE.parameter_count, np.float32),
    low=np.full(ARCHITECTURE.tensor_count, -1, np.float32),
    high=np.full(ARCHITECTURE.tensor_count, 1, np.float32),
    threshold=ThresholdSpec(score=1.0, quantile=0.999, margin=1.1, fitted_on=1),
    features=FeatureSpec(kind="passthrough", names=tuple("abcdef")),
    reference=fit_reference(np.arange(180.0).reshape(30, 6), np.ones(30)),
    provenance=Provenance(),
    created_at=0.0,
)
PRIVATE = {"example_privacy": {"noise_multiplier": 1.0, "sampling_rate": 0.1, "steps": 20}}
NOISE = {"noise": {"noise_multiplier": 1.0}}
DELTA = {"budget": {"delta": 1e-5}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": {"optimizer": "adam", "momentum": 0.9}}, "adam has its own: leave momentum out"),
        ({"training": {"method": "scaffold"}}, "unknown field `method`"),
        ({"training": {"epoch": 3}}, "unknown field `epoch`"),
        ({"int8": {"edge_tpu": True}}, "needs weight_scales = 'per-tensor'"),
    ],
)
def test_ways_of_training_that_do_not_go_together_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        family(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"trust_radius": 0.7}, "rounds": {"server_optimizer": "fedadam"}},
        {"privacy": NOISE, "training": {"proximal": 0.1, "momentum": 0.9, **PRIVATE}},
    ],
)
def test_the_others_go_together(changes: dict[str, object]) -> None:
    family(**changes)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("[rounds]\nnorm_limit = 10.0", "unknown key 'rounds.norm_limit'; it is training.update_norm now"),
        ("[training]\nmethod = 'plain'", "unknown key 'training.method'; there is one way to train"),
    ],
)
def test_a_key_of_an_older_file_is_told_what_became_of_it(tmp_path: Path, table: str, said: str) -> None:
    file = tmp_path / "family.toml"
    file.write_text(f"name = 'pump'\n{table}\n")
    with pytest.raises(SettingsError, match=re.escape(f"family.toml:3: {said}")):
        read_settings(file, FamilySettings)


def test_a_clip_beyond_the_trust_radius_of_the_release_asks_nobody(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.policy = changed(POLICY, training=TrainingSettings(update_norm=50.5))
    run = world.run()
    assert run.state is RunState.FAILED
    assert "training.update_norm = 50.5 is beyond the trust radius of 50" in run.detail
    assert (
        "leave update_norm out, and 10 is taken, or give at most 50 (the next release follows" in run.detail
    )
    assert not world.link.asked


def test_sums_of_whole_windows_are_asked_for_unless_they_are_noised_or_windows_are_hidden() -> None:
    assert family().sums_are_exact
    assert not family(privacy=NOISE).sums_are_exact
    assert not family(training=PRIVATE).sums_are_exact


def test_devices_train_by_the_profile_of_their_release_and_the_next_one_has_the_familys(
    tmp_path: Path,
) -> None:
    wanted = TrainingSettings(batch_size=16, learning_rate=0.3, momentum=0.5, proximal=0.25)
    world = World(tmp_path, policy=changed(POLICY, rounds__count=1))
    world.policy = changed(world.policy, training=wanted)
    world.run()
    assert {question.profile_sha256 for question, _ in world.link.asked} == {POLICY.training.sha256}
    profile = open_bundle(world.fleet.bundles[2], TRUSTED).manifest.training
    # What the file leaves open is as it was.
    bounds = {"trust_radius": POLICY.training.trust_radius, "update_norm": POLICY.training.update_norm}
    assert profile == structs.replace(wanted, **bounds)


def test_a_release_says_what_one_window_of_a_device_paid(tmp_path: Path) -> None:
    world = World(tmp_path)
    policy = family(training=PRIVATE, privacy=DELTA)
    run = world.add_run()
    run = type(run)(**{name: getattr(run, name) for name in run.__struct_fields__} | {"finished_rounds": 3})
    evaluation = with_method(CANDIDATE, run, policy).provenance.evaluation
    one = ExamplePrivacy(clip_norm=1.0, noise_multiplier=1.0, sampling_rate=0.1, steps=60)
    assert evaluation == pytest.approx(
        {"example_epsilon": example_epsilon([one], 1e-5), "example_delta": 1e-5}
    )
    assert "example_epsilon" not in with_method(CANDIDATE, run, family()).provenance.evaluation


def test_a_void_attempt_at_a_round_is_paid_for_too(tmp_path: Path) -> None:
    def fit(number: int, attempt: int) -> RoundRecord:
        return RoundRecord(
            kind="fit", number=number, attempt=attempt, started_at=0.0, seconds=1.0,
            asked=3, participants=(), refused=(), lost=(), spared=(),
        )  # fmt: skip

    # Round 1 at its third attempt (the session broke in the second, which left no record), round 2 at its first.
    run = structs.replace(World(tmp_path).add_run(), finished_rounds=2, log=(fit(1, 1), fit(1, 3), fit(2, 1)))
    policy = family(training=PRIVATE, privacy=DELTA)
    four = ExamplePrivacy(clip_norm=1.0, noise_multiplier=1.0, sampling_rate=0.1, steps=80)
    found = with_method(CANDIDATE, run, policy).provenance.evaluation["example_epsilon"]
    assert found == pytest.approx(example_epsilon([four], 1e-5))


def test_a_release_says_in_one_line_how_it_was_made(tmp_path: Path) -> None:
    run = World(tmp_path).add_run()
    assert describe_method(run, family()) == "fedavg, sgd, 2 local epochs, secure sum"
    private = family(training={"momentum": 0.9, "proximal": 0.1, **PRIVATE})
    assert describe_method(run, private) == (
        "fedavg, proximal 0.1, sgd with momentum 0.9, 20 local steps of DP-SGD (noise 1, sampling rate 0.1), secure sum"
    )
    refit = structs.replace(run, rounds=0)
    assert describe_method(refit, family()) == "network of the champion, secure sum"
