"""Differential privacy inside the secure round: what the sum becomes, what both accounts say, and what is refused."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import secure_world as world
from msgspec import structs
from secure_world import ARRAYS, ASSESS_LAYOUT, ASSESSMENT, FIT_LAYOUT, QUESTION, World

from aggregator.errors import PrivacyBudgetError
from aggregator.privacy.ledger_entries import FixedCohort, Outcome, PoissonCohort
from aggregator.privacy.settings import FamilyBudget, NoiseSettings, PrivacySettings
from aggregator.rounds.admission import admit_update
from aggregator.rounds.cohorts import Cohort, CohortSettings, select_cohort
from aggregator.rounds.collector import CohortQuestion
from aggregator.rounds.reports import CohortSum, QuorumMissedError
from aggregator.rounds.sum_policy import SumPolicy
from edge_agent.privacy.limits import OwnerLimits
from protocol.grids import FEATURE_GRID, RANGE_GRID, SCORE_GRID
from protocol.names import DeviceId
from protocol.privacy_cost import epsilon, planned_cost
from protocol.questions import FIT
from protocol.refusals import RefusalCode, read_refusal
from protocol.secure_answers import NoisedEncoding, make_encoding
from protocol.sum_terms import SumTerms

NOISE = NoiseSettings(noise_multiplier=1.0, assessment_noise_multiplier=0.01, clip=0.5)


def with_noise(noise: NoiseSettings) -> SumPolicy:
    privacy = PrivacySettings(noise=noise, budget=FamilyBudget(delta=1e-5))
    return replace(world.POLICY, privacy=privacy)


POLICY = with_noise(NOISE)


def collect(w: World, *, quorum: int, sampling: object = None) -> CohortSum:
    return w.collector().collect(
        CohortQuestion(
            question=QUESTION, arrays=ARRAYS, layout=FIT_LAYOUT, admission=admit_update(norm_limit=10.0)
        ),
        Cohort(devices=tuple(w.devices), quorum=quorum, sampling=sampling),
        deadline_s=5.0,
    )


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", ["discrete-gaussian", "skellam"])
def test_noised_sum_counts_each_device_once_and_is_as_noisy_as_planned(
    tmp_path: Path, mechanism: str
) -> None:
    w = World(tmp_path, 6, policy=with_noise(structs.replace(NOISE, mechanism=mechanism)))
    moves = []
    for _ in range(40):
        parts = FIT_LAYOUT.unpack(collect(w, quorum=6).total)
        assert parts["votes"] == [6]
        moves.extend(parts["update"])
    # Σ of 0.01·index over six devices, none of which reaches the clip; noise z·c.
    planned = NOISE.noise_multiplier * NOISE.clip
    assert np.mean(moves) == pytest.approx(0.15, abs=5 * planned / math.sqrt(len(moves)))
    assert np.std(moves) == pytest.approx(planned, rel=0.2)


def test_both_accounts_say_the_same_and_the_claim_has_both_figures(tmp_path: Path) -> None:
    w = World(tmp_path, 5, policy=POLICY, budget=FamilyBudget(delta=1e-5))
    collect(w, quorum=5)
    claim = w.accounts.claim(world.FAMILY, "run-1")
    assert claim.server.epsilon is not None
    assert claim.release.epsilon is not None
    spent = next(iter(w.devices.values())).budget.spending()
    (held,) = w.accounts.rounds(world.FAMILY)
    assert epsilon(spent.cost, 1e-5) == pytest.approx(epsilon(planned_cost(held.opened.noise), 1e-5))
    assert claim.server.epsilon == pytest.approx(epsilon(spent.cost, 1e-5), rel=0.02)


def test_more_dropouts_than_planned_void_the_round_whose_noise_would_fall_short(tmp_path: Path) -> None:
    w = World(tmp_path, 6, policy=POLICY)
    gone = list(w.devices)[:2]
    w.spoil = lambda kind, device, message: None if kind == FIT and device in gone else message
    with pytest.raises(QuorumMissedError, match="nothing of it was used"):
        collect(w, quorum=5)
    (held,) = w.accounts.rounds(world.FAMILY)
    assert held.closed is not None
    assert held.closed.outcome is Outcome.VOID


class LyingPolicy(SumPolicy):
    """Tells the devices that nobody may vanish, and then goes on with fewer: less noise than they were charged for."""

    def terms(self, **told: object) -> SumTerms:
        return super().terms(**{**told, "quorum": told["devices"]})  # type: ignore[arg-type] # passed on as they came


def test_devices_do_not_unmask_a_sum_with_less_noise_than_they_were_charged_for(tmp_path: Path) -> None:
    lying = LyingPolicy(**{f.name: getattr(POLICY, f.name) for f in fields(POLICY)})
    w = World(tmp_path, 8, policy=lying)
    gone = list(w.devices)[:2]
    w.spoil = lambda kind, device, message: None if kind == FIT and device in gone else message
    with pytest.raises(QuorumMissedError) as void:
        collect(w, quorum=3)
    refused = void.value.report.refused
    assert len(refused) == 6
    assert all(read_refusal(refusal.reason) is RefusalCode.COHORT for refusal in refused)


class ShareOfAThousand(SumPolicy):
    """What a server announces that wants hardly any noise of each device: a large cohort that is never there."""

    def terms(self, **told: object) -> SumTerms:
        return super().terms(**{**told, "devices": 1000, "quorum": 1000})  # type: ignore[arg-type] # passed on as they came


def test_devices_refuse_to_give_a_thousandth_of_the_noise_to_a_sum_of_five(tmp_path: Path) -> None:
    w = World(
        tmp_path, 5, policy=ShareOfAThousand(**{f.name: getattr(POLICY, f.name) for f in fields(POLICY)})
    )
    with pytest.raises(QuorumMissedError, match="refused: COHORT"):
        collect(w, quorum=3)
    assert all(device.asked == [] for device in w.devices.values())


def test_budget_stops_the_round_before_a_device_is_asked(tmp_path: Path) -> None:
    w = World(tmp_path, 5, policy=POLICY, budget=FamilyBudget(delta=1e-5, epsilon_server=6.0))
    collect(w, quorum=5)
    asked = len(w.seen)
    with pytest.raises(PrivacyBudgetError, match="epsilon_server"):
        collect(w, quorum=5)
    assert len(w.seen) == asked
    assert {d.budget.spending().participations for d in w.devices.values()} == {
        len(w.accounts.rounds(world.FAMILY))
    }


def test_devices_own_epsilon_limit_refuses_a_round_without_noise(tmp_path: Path) -> None:
    w = World(tmp_path, 5, limits=OwnerLimits(maximum_epsilon=3.0))
    with pytest.raises(QuorumMissedError, match="refused: NOISE"):
        collect(w, quorum=3)
    assert all(device.asked == [] for device in w.devices.values())


def test_attempt_that_a_kill_cut_off_stays_in_the_ledger_and_the_next_has_another_number(
    tmp_path: Path,
) -> None:
    w = World(tmp_path, 5, policy=POLICY)
    first = w.accounts.next_attempt(world.FAMILY, "run-1", FIT, 1)
    everybody = FixedCohort(size=5, population=5)
    w.accounts.open_round(
        first, world.FAMILY, noise=planned_noise(w), sampling=everybody, cohort=list(w.devices)
    )
    collect(w, quorum=5)
    rounds = w.accounts.rounds(world.FAMILY)
    assert [held.opened.id.attempt for held in rounds] == [first.attempt, first.attempt + 1]
    assert rounds[0].is_open
    assert w.accounts.claim(world.FAMILY, "run-1").rounds.open == 1


def planned_noise(w: World) -> object:
    terms = POLICY.terms(
        run_id="run-1",
        kind=FIT,
        number=1,
        layout=FIT_LAYOUT,
        devices=len(w.devices),
        quorum=5,
        rotation_seed="0" * 32,
    )
    return make_encoding(FIT_LAYOUT, terms).noise


def assessment(_: int) -> np.ndarray:
    n = 20.0
    one = lambda grid, at, count: np.eye(grid.bins)[at] * count  # noqa: E731 - a histogram in one line
    return ASSESS_LAYOUT.pack(
        {
            "examples": np.array([n]),
            "candidate_loss": np.array([n * 0.5]),
            "champion_loss": np.array([n * 0.7]),
            "candidate_scores": SCORE_GRID.count(np.full(20, 0.5)),
            "champion_scores": SCORE_GRID.count(np.full(20, 0.7)),
            "candidate_probe_scores": one(SCORE_GRID, 140, n),
            "champion_probe_scores": one(SCORE_GRID, 150, n),
            "threshold_votes": one(SCORE_GRID, 100, 1),
            "range_low": np.concatenate([one(RANGE_GRID, 40, 1)] * world.TENSORS),
            "range_high": np.concatenate([one(RANGE_GRID, 250, 1)] * world.TENSORS),
            "feature_counts": np.concatenate([one(FEATURE_GRID, 30, n)] * world.FEATURES),
            "feature_sum": np.full(world.FEATURES, n * FEATURE_GRID.edges[30]),
            "feature_squares": np.full(world.FEATURES, n * 1.0),
        }
    )


@pytest.mark.parametrize("is_noised", [False, True])
def test_assessment_comes_through_with_its_histograms(tmp_path: Path, is_noised: bool) -> None:
    w = World(tmp_path, 6, policy=POLICY if is_noised else world.POLICY, answers=assessment)
    total = w.collector().collect(
        CohortQuestion(
            question=ASSESSMENT,
            arrays={"candidate": ARRAYS["parameters"], "champion": ARRAYS["parameters"]},
            layout=ASSESS_LAYOUT,
            admission=lambda _: None,
        ),
        Cohort(devices=tuple(w.devices), quorum=6),
        deadline_s=5.0,
    )
    parts = ASSESS_LAYOUT.unpack(total.total)
    if not is_noised:
        np.testing.assert_allclose(total.total, 6 * assessment(0).astype(np.float64), atol=1e-2)
        assert parts["champion_probe_scores"][150] == 120.0
        return
    assert parts["examples"] == [6]
    for name, at, value in (
        ("candidate_probe_scores", 140, 6),
        ("champion_probe_scores", 150, 6),
        ("threshold_votes", 100, 6),
        ("range_low", 40, 6),
        ("feature_counts", 30, 6),
    ):
        assert np.flatnonzero(parts[name])[0] == at
        assert parts[name][at] == pytest.approx(value, abs=0.5)
    assert parts["candidate_loss"] < parts["champion_loss"]


def test_no_answer_however_large_moves_the_noised_sum_by_more_than_its_sensitivity() -> None:
    quiet = structs.replace(NOISE, noise_multiplier=1e-6)
    terms = with_noise(quiet).terms(
        run_id="r",
        kind=FIT,
        number=1,
        layout=FIT_LAYOUT,
        devices=6,
        quorum=6,
        rotation_seed="ab" * 16,
    )
    encoding = make_encoding(FIT_LAYOUT, terms)
    assert isinstance(encoding, NoisedEncoding)
    huge = np.full(FIT_LAYOUT.total, 1e9, np.float32)
    words = encoding.encode(huge, world.SeededBytes("x"))
    half = 1 << (encoding.word_bits - 1)
    steps = ((words.astype(np.int64) + half) % (2 * half)) - half
    assert encoding.noise.sensitivity is not None
    assert np.linalg.norm(steps) <= encoding.noise.sensitivity * 1.001


def test_poisson_cohort_is_independent_coins_and_says_so() -> None:
    devices = [DeviceId(f"d{i:03d}") for i in range(400)]
    policy = CohortSettings(fraction=0.25, over_selection=1.2, minimum_devices=3, sampling="poisson")
    cohorts = [select_cohort(devices, policy, np.random.default_rng(seed)) for seed in range(50)]
    sizes = [len(cohort.devices) for cohort in cohorts]
    assert np.mean(sizes) == pytest.approx(100, abs=5)
    assert np.std(sizes) == pytest.approx(math.sqrt(400 * 0.25 * 0.75), rel=0.35)
    assert cohorts[0].sampling == PoissonCohort(rate=0.25, population=400, largest=120)
    assert cohorts[0].enough == sizes[0]


def test_a_sum_of_coins_has_the_same_size_and_noise_whoever_was_drawn(tmp_path: Path) -> None:
    """What an outsider could tell sizes from: the votes, the lattice, the spread of the noise, the clip that follows."""
    hidden = PoissonCohort(rate=0.6, population=10, largest=9)
    policy, told = with_noise(structs.replace(NOISE, clip=0.5)), {}
    for size in (3, 7):
        folder = tmp_path / str(size)
        folder.mkdir()
        w = World(folder, size, policy=policy)
        found = [collect(w, quorum=3, sampling=hidden) for _ in range(40)]
        votes = {float(FIT_LAYOUT.unpack(one.total)["votes"][0]) for one in found}
        moves = np.array([FIT_LAYOUT.unpack(one.total)["update"] for one in found])
        noise = w.accounts.rounds(world.FAMILY)[0].opened.noise
        told[size] = (votes, noise, float(np.std(moves - moves.mean(axis=0))))
        assert all(len(one.participants) == size for one in found)
    (votes, noise, spread), (other_votes, other_noise, other_spread) = told[3], told[7]
    assert votes == other_votes == {6.0}
    assert noise == other_noise, "the same words, the same lattice, the same share of noise on each device"
    # z·c planned for the quorum of 3, times the root of 9 devices' noise over 3.
    assert (spread, other_spread) == (
        pytest.approx(0.5 * 3**0.5, rel=0.15),
        pytest.approx(0.5 * 3**0.5, rel=0.15),
    )
