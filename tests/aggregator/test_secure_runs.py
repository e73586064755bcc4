"""Whole runs under masks: every question through real roles, FedAdam's and the prior, the gate, a release."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import aggregator_world
import numpy as np
import pytest
import secure_world
from aggregator_world import ARCHITECTURE, POLICY, TRUSTED, InProcessSession, Killed
from answerers import Answers, anchor
from family_changes import changed
from numpy.typing import NDArray

from aggregator.privacy.accounts import PrivacyAccounts
from aggregator.privacy.ledger import Ledger
from aggregator.privacy.settings import NoiseSettings
from aggregator.privacy.verification import verify
from aggregator.rounds.coordinator import Coordinator
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.journal import MOMENTS
from aggregator.rounds.optimizers import FedAdam
from aggregator.rounds.runs import RunState, TrainingRun
from aggregator.rounds.secure_collector import SecureCollector
from edge_agent.errors import TrainingDivergedError
from edge_agent.learner.local_learner import LocalLearner
from models.architecture import initial_parameters
from models.bundles import read_bundle
from models.detection.openings import AlarmRules
from models.detection.prior import fleet_prior
from models.int8_model import Int8Model
from protocol.bundle import open_bundle
from protocol.grids import SCORE_GRID
from protocol.manifest import Manifest
from protocol.names import DeviceId
from protocol.privacy_claim import Mode
from protocol.questions import ASSESS, AssessQuestion, FitQuestion, Question
from protocol.training import TrainingSettings

SECURE = changed(POLICY, secure_sum__enabled=True, cohort__minimum_devices=3)


class MaskedDevices(secure_world.World):
    """Four pumps, or more, that answer with the real learner, under masks only."""

    def __init__(self, directory: Path, profile: TrainingSettings, count: int = 4) -> None:
        self.learners, self.profile = dict[DeviceId, LocalLearner](), profile
        policy = replace(
            secure_world.POLICY,
            norm_limit=profile.settled().update_norm or 0.0,
            maximum_examples=profile.maximum_examples,
        )
        super().__init__(directory, count, policy=policy)
        self.accounts.close()
        self.ledger = directory / "pumps.sqlite"
        self.accounts = PrivacyAccounts(
            self.ledger,
            {aggregator_world.FAMILY: secure_world.NO_BUDGET},
            now=lambda: self.now,
        )

    def start(self, name: DeviceId) -> None:
        index = int(name.rpartition("-")[2])
        learner = self.learners[name] = LocalLearner(
            aggregator_world.trainer(),
            aggregator_world.rows_of(index),
            anchor=anchor(ARCHITECTURE.layout_sha256, initial_parameters(ARCHITECTURE, 1), self.profile),
            champion=initial_parameters(ARCHITECTURE, 1),
            maximum_examples=1000,
            unit=aggregator_world.unit_of(index),
        )
        self.devices[name].side = self.participant(name, learner)

    def collector(self) -> SecureCollector:
        return SecureCollector(
            self,
            roster={device.id: device.key.public_key() for device in self.devices.values()},
            policy=self.policy,
            accounts=self.accounts,
            family=aggregator_world.FAMILY,
            random_bytes=self._random_bytes,
            clock=lambda: self.now,
        )


class SecureSession(InProcessSession):
    """A session whose collector sees sums only."""

    masked: MaskedDevices

    @property
    def collector(self) -> SecureCollector:
        return self.masked.collector()


class SecureWorld(aggregator_world.World):
    """The coordinator's world over masked devices."""

    def __init__(self, directory: Path, policy: FamilySettings, devices: int = 4) -> None:
        super().__init__(directory, policy=policy)
        self.masked = MaskedDevices(directory, self.link.profile, devices)
        self.devices = tuple(self.masked.devices)
        self.fleet.devices = self.devices
        self.session = SecureSession(self.link, frozenset(self.devices))
        self.session.masked = self.masked
        self.federation.session = self.session

    def coordinator(self) -> Coordinator:
        made = super().coordinator()
        made._accounts = self.masked.accounts
        return made


def check_release(world: SecureWorld, run: TrainingRun) -> None:
    assert (run.state, run.release) == (RunState.COMPLETED, "pump/2"), run.detail
    bundle = read_bundle(open_bundle(world.fleet.bundles[2], TRUSTED))
    bundle.golden.check(Int8Model(bundle.int8_model))
    assert bundle.architecture == ARCHITECTURE
    assert all(check.is_passed for check in run.checks)
    assert [entry.kind for entry in run.log][-2:] == ["fit", "assess"]
    check_claim(world, bundle.manifest)


def check_claim(world: SecureWorld, manifest: Manifest) -> None:
    """What the release claims is what its ledger holds."""
    claim = manifest.provenance.privacy
    assert claim is not None
    ledger = Ledger(world.masked.ledger, read_only=True)
    findings = verify(manifest, claim, ledger.entries, ledger.digest_after(claim.ledger_entries))
    assert not [str(finding) for finding in findings if not finding.agrees]


def test_fedadam_learns_through_secure_rounds_passes_the_gate_and_is_released(tmp_path: Path) -> None:
    policy = changed(
        SECURE, rounds__server_optimizer="fedadam", rounds__server_learning_rate=0.05, rounds__count=6
    )
    world = SecureWorld(tmp_path, policy)
    run = world.run()
    check_release(world, run)
    assert run.candidate_loss is not None
    assert run.champion_loss is not None
    assert run.candidate_loss < 0.9 * run.champion_loss
    assert run.privacy is not None
    assert run.privacy.rounds.used == 7
    assert run.privacy.release.epsilon is None  # exact sums: said, not hidden


def test_a_prior_is_made_of_masked_answers_alone_and_each_is_in_the_claim(tmp_path: Path) -> None:
    world = SecureWorld(tmp_path, changed(SECURE, detector="mixture", rounds__count=0))
    run = world.run()
    assert (run.state, run.release) == (RunState.COMPLETED, "pump/2"), run.detail
    assert [entry.kind for entry in run.log] == ["scale", "covariance", "curve", "assess"]
    prior = read_bundle(open_bundle(world.fleet.bundles[2], TRUSTED)).prior
    expected = fleet_prior(
        [(aggregator_world.rows_of(i), aggregator_world.unit_of(i)) for i in range(4)], AlarmRules()
    )
    assert prior is not None
    assert prior.devices == 4
    np.testing.assert_allclose(prior.scale.variance, expected.scale.variance, rtol=1e-3)
    np.testing.assert_allclose(prior.spread.correlation, expected.spread.correlation, atol=1e-3)
    assert {age: curve.windows for age, curve in prior.curves.items()} == {
        age: curve.windows for age, curve in expected.curves.items()
    }
    assert run.privacy is not None
    assert set(run.privacy.noiseless_questions) == {
        "evaluate.scale",
        "evaluate.covariance",
        "evaluate.curve",
        "evaluate.assess",
    }


def test_fedadams_moments_follow_the_sums_and_survive_a_kill(tmp_path: Path) -> None:
    policy = changed(
        SECURE, rounds__server_optimizer="fedadam", rounds__server_learning_rate=0.05, rounds__count=3
    )
    world = SecureWorld(tmp_path, policy)
    run = world.add_run()

    def die_in_round_three(_kind: str, _device: DeviceId, message: bytes) -> bytes:
        if world.store.get(run.id).finished_rounds == 2:
            raise Killed
        return message

    world.masked.spoil = die_in_round_three
    with pytest.raises(Killed):
        world.coordinator().advance(run.id)
    world.reopen()
    moments = world.store.vector(run.id, MOMENTS).reshape(2, -1)
    assert (moments[1] > FedAdam().tau ** 2 * 0.9).all()
    assert np.abs(moments[0]).max() > 0
    world.masked.spoil = lambda _kind, _device, message: message
    check_release(world, world.coordinator().advance(run.id))


def test_a_family_in_plain_plans_nothing_and_claims_that_the_aggregator_saw_everything(
    tmp_path: Path,
) -> None:
    world = SecureWorld(tmp_path, changed(SECURE, secure_sum__enabled=False))
    run = world.run()
    assert run.state is RunState.COMPLETED
    assert run.privacy is not None
    assert (run.privacy.mode, run.privacy.server.epsilon, run.privacy.ledger_entries) == (Mode.PLAIN, None, 0)
    assert (run.privacy.devices, run.privacy.rounds.used) == (len(run.participants), len(run.log))
    assert world.masked.accounts._history.planned(run.id) is None


def test_a_device_whose_training_diverges_costs_neither_its_round_nor_the_run(tmp_path: Path) -> None:
    world = SecureWorld(tmp_path, SECURE)
    name = max(world.masked.devices)
    sick = world.masked.learners[name]
    answer = sick.answer

    def diverge(question: Question, arrays: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        if isinstance(question, FitQuestion):
            raise TrainingDivergedError("training diverged")
        return answer(question, arrays)

    side = world.masked.devices[name].side
    assert side is not None
    side._learner = Answers(diverge, sick.layout_of)
    run = world.run()
    check_release(world, run)
    for entry in run.log:
        # It stays in the cohort and in its masks; its zeros add nothing, and no example.
        assert len(entry.participants) == 4
        assert entry.examples == {"fit": 3, "assess": 64}[entry.kind]


def test_devices_that_did_not_train_alone_compare_the_candidate_with_the_champion(tmp_path: Path) -> None:
    world = SecureWorld(tmp_path, SECURE, devices=16)
    flattered = 0

    def flatter(name: DeviceId) -> None:
        """Whoever trains says that the champion is a hundred times as bad as it is."""
        learner, side = world.masked.learners[name], world.masked.devices[name].side
        assert side is not None
        trains = False

        def answer(question: Question, arrays: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
            nonlocal trains, flattered
            vector = learner.answer(question, arrays)
            trains |= isinstance(question, FitQuestion)
            if isinstance(question, AssessQuestion) and trains:
                layout = learner.layout_of(ASSESS)
                parts = layout.unpack(vector)
                parts["champion_scores"] = SCORE_GRID.count(np.full(int(parts["examples"][0]), 90.0))
                parts["champion_loss"] = 90.0 * parts["examples"]
                vector, flattered = layout.pack(parts), flattered + 1
            return vector

        side._learner = Answers(answer, learner.layout_of)

    for name in world.masked.devices:
        flatter(name)
    run = world.run()
    assert flattered == 12
    (check,) = (check for check in run.checks if check.name == "improvement")
    assert check.reason.endswith("to 4 devices of 16 that did not train")
    assert check.value < 0.9
    assert run.champion_loss is not None
    assert run.champion_loss > 50, "what all say together, for the record"


def test_a_round_in_which_everybodys_training_diverges_is_void_and_says_what_to_change(
    tmp_path: Path,
) -> None:
    def diverge(_question: Question, _arrays: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        raise TrainingDivergedError("training diverged")

    world = SecureWorld(tmp_path, SECURE)
    for device in world.masked.devices.values():
        assert device.side is not None
        device.side._learner = Answers(diverge, device.side._learner.layout_of)
    run = world.run()
    assert run.state is RunState.FAILED
    assert (
        "no device's training gave an update; they all diverged: lower training.learning_rate" in run.detail
    )
    assert run.finished_rounds == 0


def test_a_private_run_of_coins_ends_in_a_release_that_tells_no_size_and_agrees_with_its_ledger(
    tmp_path: Path,
) -> None:
    policy = changed(
        SECURE,
        cohort__minimum_devices=4,
        cohort__fraction=0.8,
        cohort__sampling="poisson",
        rounds__count=2,
        privacy__noise=NoiseSettings(noise_multiplier=0.002, clip=10.0),
        gate__minimum_improvement=-10.0,
        gate__maximum_alarm_rate=1.0,
    )
    world = SecureWorld(tmp_path, policy, devices=8)
    world.masked.policy = policy.sum_policy
    run = world.run()
    held = world.masked.accounts.rounds(aggregator_world.FAMILY)
    assert {one.opened.sampling.population for one in held} == {8}
    assert len({one.opened.noise for one in held if one.opened.id.question == "train.fit"}) == 1, run.detail
    assert run.privacy is not None
    assert (run.privacy.mode, run.privacy.hides_sizes, run.privacy.devices) == (Mode.PRIVATE, True, 8)
    assert (run.state, run.release) == (RunState.COMPLETED, "pump/2"), run.detail
    manifest = read_bundle(open_bundle(world.fleet.bundles[2], TRUSTED)).manifest
    assert manifest.provenance.participants == 8
    check_claim(world, manifest)
