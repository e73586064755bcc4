"""A release's claim against the accounts of the devices that were there: an honest aggregator agrees with each, a lying one does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import secure_world as world
from msgspec import structs
from secure_world import ARRAYS, FIT_LAYOUT, QUESTION, World

from aggregator.privacy.settings import FamilyBudget, NoiseSettings, PrivacySettings
from aggregator.rounds.admission import admit_update
from aggregator.rounds.cohort_questions import CohortQuestion
from aggregator.rounds.cohorts import Cohort
from aggregator.rounds.collector import QuorumMissedError
from edge_agent.privacy.release_check import Finding, Verdict, check_release
from protocol.manifest import FeatureSpec, Manifest, ModelSpec, Provenance, ThresholdSpec
from protocol.names import DeviceId, RunId
from protocol.privacy_claim import PrivacyClaim
from protocol.questions import FIT
from protocol.sum_terms import SumStage

BUDGET = FamilyBudget(delta=1e-5)
NOISED = replace(
    world.POLICY,
    privacy=PrivacySettings(
        noise=NoiseSettings(noise_multiplier=1.0, assessment_noise_multiplier=2.0, clip=0.5), budget=BUDGET
    ),
)
ROUNDS = 2


def played(folder: Path, *, noised: bool, rounds: int = ROUNDS) -> World:
    """Some rounds of training with five devices; in the first, one device vanishes before it answers."""
    w = World(folder, 5, policy=NOISED if noised else world.POLICY, budget=BUDGET)
    for number in range(1, rounds + 1):
        vanishes = not noised and number == 1
        w.spoil = lambda kind, device, message, out=vanishes: (
            None if out and kind == FIT and device == "press-004" else message
        )
        ask(w, number)
    return w


def ask(w: World, number: int) -> None:
    question = structs.replace(QUESTION, round_number=number)
    w.collector().collect(
        CohortQuestion(
            question=question, arrays=ARRAYS, layout=FIT_LAYOUT, admission=admit_update(norm_limit=10.0)
        ),
        Cohort(devices=tuple(w.devices), quorum=3),
        deadline_s=5.0,
    )


def released(claim: PrivacyClaim | None, *, rounds: int = ROUNDS, run: str = "run-1") -> Manifest:
    return Manifest(
        family=world.FAMILY,
        version=2,
        created_at=0.0,
        model=ModelSpec(kind="dense-autoencoder", layers=(2, 2), parameter_count=1, layout_sha256="0" * 64),
        features=FeatureSpec(kind="passthrough", names=("a", "b")),
        threshold=ThresholdSpec(score=1.0, quantile=0.9, margin=1.0, fitted_on=1),
        files=(),
        provenance=Provenance(training_run=run, rounds=rounds, privacy=claim),
    )


def found(w: World, manifest: Manifest, device: str = "press-000") -> list[Finding]:
    return check_release(manifest, w.devices[DeviceId(device)].budget.given(), world.FAMILY)


def differing(findings: list[Finding]) -> list[str]:
    return [finding.words for finding in findings if finding.verdict is Verdict.DIFFERS]


@pytest.mark.parametrize("noised", [True, False])
def test_an_honest_claim_agrees_with_the_account_of_every_device(tmp_path: Path, *, noised: bool) -> None:
    w = played(tmp_path, noised=noised)
    claim = w.accounts.claim(world.FAMILY, RunId("run-1"))
    for device in w.devices:
        assert differing(found(w, released(claim), device)) == []
    first = found(w, released(claim))[0].words
    assert first == "this device answered 2 questions in run run-1, and opened 2 sums with its shares"


LIES: dict[str, tuple[bool, Callable[[PrivacyClaim], PrivacyClaim], str]] = {
    "a smaller epsilon": (
        True,
        lambda claim: structs.replace(claim, server=structs.replace(claim.server, noised_epsilon=1.0)),
        r"epsilon_server of noised sums, all runs so far: 1 by the release, \d+\.?\d* here",
    ),
    "a smaller epsilon of the run": (
        True,
        lambda claim: structs.replace(claim, server=structs.replace(claim.server, run_epsilon=0.5)),
        r"epsilon_server of this run: 0\.5 by the release",
    ),
    "fewer participations": (
        True,
        lambda claim: structs.replace(claim, participations=1),
        "2 sums were opened here, the release counts 1 for the device with the most",
    ),
    "noise that was none": (
        False,
        lambda claim: structs.replace(
            claim, server=structs.replace(claim.server, epsilon=3.0), noiseless_questions=()
        ),
        r"sums without noise were opened here \(train.fit\); the release names as such: none, and an epsilon_server of 3",
    ),
    "a quorum that it broke": (
        False,
        lambda claim: structs.replace(claim, quorum=5),
        "the smallest sum opened here was over 4 devices, none over fewer than 5 by the release",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_claim_that_says_less_than_happened_differs(tmp_path: Path, lie: str) -> None:
    noised, bend, words = LIES[lie]
    w = played(tmp_path, noised=noised)
    honest = w.accounts.claim(world.FAMILY, RunId("run-1"))
    (told,) = differing(found(w, released(bend(honest))))
    assert pytest.RaisesExc(AssertionError, match=words).matches(AssertionError(told)), told


def test_rounds_that_are_left_out_of_a_release_or_a_claim_that_is_missing_differ(tmp_path: Path) -> None:
    w = played(tmp_path, noised=True)
    claim = w.accounts.claim(world.FAMILY, RunId("run-1"))
    assert differing(found(w, released(claim, rounds=1))) == [
        "2 rounds of training were opened here, 1 are in the release"
    ]
    assert "claims nothing about privacy" in differing(found(w, released(None)))[0]


def test_what_came_after_a_release_is_not_held_against_it(tmp_path: Path) -> None:
    w = played(tmp_path, noised=True, rounds=1)
    claim = w.accounts.claim(world.FAMILY, RunId("run-1"))
    later = structs.replace(QUESTION, run_id="run-2")
    w.collector().collect(
        CohortQuestion(
            question=later, arrays=ARRAYS, layout=FIT_LAYOUT, admission=admit_update(norm_limit=10.0)
        ),
        Cohort(devices=tuple(w.devices), quorum=3),
        deadline_s=5.0,
    )
    assert differing(found(w, released(claim, rounds=1))) == []


def test_a_round_that_came_to_nothing_after_shares_had_left_is_counted_on_both_sides(tmp_path: Path) -> None:
    w = played(tmp_path, noised=True)
    lost = {DeviceId(f"press-00{index}") for index in range(1, 5)}
    w.spoil = lambda kind, device, message: None if kind == SumStage.UNMASK and device in lost else message
    with pytest.raises(QuorumMissedError):
        ask(w, 3)
    claim = w.accounts.claim(world.FAMILY, RunId("run-1"))
    assert claim.rounds.withheld == 1
    assert "opened 3 sums" in found(w, released(claim, rounds=3))[0].words
    assert differing(found(w, released(claim, rounds=3))) == []


def test_a_release_of_another_family_is_not_compared(tmp_path: Path) -> None:
    w = played(tmp_path, noised=True, rounds=1)
    (only,) = check_release(released(None), w.devices[DeviceId("press-000")].budget.given(), "fan")
    assert only.verdict is Verdict.UNKNOWN
