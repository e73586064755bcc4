"""A candidate beside the release that runs: what is counted, what is refused, what it costs, and when it is given up."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from agent_loop_world import World, world
from agent_world import FEATURES, TRUSTED, faulty, healthy, make_bundle
from detection_fleets import machines
from waiting import wait_until

from edge_agent import preparation
from edge_agent.installation.active import ActiveRelease
from edge_agent.installation.comparison import ShadowLimits, Tally, share_at_least
from edge_agent.installation.journal import BundleRef
from models.bundles import read_bundle
from models.detection.openings import AlarmRules
from models.detection.prior import FleetPrior, fleet_prior
from protocol.bundle import open_bundle
from protocol.messages.kinds import AgentState, ShadowOutcome
from protocol.messages.payloads import AnomalyEvent, ShadowReport

__all__ = ["world"]  # the fixture
pytestmark = pytest.mark.edge
LIMITS = ShadowLimits()


# --- the verdict ------------------------------------------------------------------------------------------------------------------


def tally(*, extra: int = 0, both: int = 0, calm: int = 30, seen: int = 20, lost: int = 0) -> Tally:
    counted = Tally("pump/1", "pump/2", LIMITS, sensors=6)
    for i in range(calm):
        over = (i < both, i < both + extra)
        counted.add(scores=(float(i), float(i * i)), over=over, latencies_us=(10.0, 20.0))
    for i in range(seen):
        counted.add_probe(champion_sees=True, candidate_sees=i >= lost)
    return counted


def test_a_lower_bound_is_the_share_at_which_so_many_are_seen_once_in_a_thousand_cases() -> None:
    rng = np.random.default_rng(1)
    for count, of in ((10, 30), (3, 5), (30, 30), (1, 200)):
        share = share_at_least(count, of, 0.999)
        drawn = rng.binomial(of, share, 400_000) >= count
        assert 0.0007 < drawn.mean() < 0.0013
    assert share_at_least(0, 30, 0.999) == share_at_least(0, 0, 0.999) == 0.0


def test_a_candidate_like_the_champion_passes_with_everything_that_was_counted() -> None:
    report = tally(both=1).verdict()
    assert report == ShadowReport(
        outcome=ShadowOutcome.PASSED,
        note="30 windows judged by both, and no absurd difference",
        champion="pump/1",
        windows=30,
        champion_over=1,
        candidate_over=1,
        both_over=1,
        extra_share_low=0.0,
        extra_share_high=report.extra_share_high,
        probes=20,
        champion_seen=20,
        candidate_seen=20,
        rank_correlation=1.0,
        champion_latency_us=10.0,
        candidate_latency_us=20.0,
    )
    assert report.extra_share_high == pytest.approx(1 - 0.025 ** (1 / 29)), (
        "so much may it be, after none of 29"
    )


@pytest.mark.parametrize(
    ("extra", "both", "outcome"),
    [(9, 0, ShadowOutcome.PASSED), (10, 0, ShadowOutcome.REFUSED), (0, 30, ShadowOutcome.PASSED)],
)
def test_ten_of_thirty_calm_windows_are_too_many_and_those_of_the_champion_are_none(
    extra: int, both: int, outcome: ShadowOutcome
) -> None:
    report = tally(extra=extra, both=both).verdict()
    assert report.outcome is outcome
    if outcome is ShadowOutcome.REFUSED:
        assert report.note == (
            "deafening: pump/2 calls 10 of 30 windows anomalies that are none to pump/1; at least 11% are, and 10% are allowed"
        )


@pytest.mark.parametrize(("lost", "outcome"), [(17, ShadowOutcome.PASSED), (18, ShadowOutcome.REFUSED)])
def test_eighteen_of_twenty_disturbances_are_too_many_to_miss(lost: int, outcome: ShadowOutcome) -> None:
    report = tally(lost=lost).verdict()
    assert report.outcome is outcome
    if outcome is ShadowOutcome.REFUSED:
        assert report.note == "blind: of 20 disturbances that pump/1 sees, pump/2 misses 18; 50% are allowed"


def test_too_few_windows_speak_neither_for_nor_against_a_candidate_but_certainty_needs_not_all() -> None:
    assert tally(calm=5, seen=5).verdict().outcome is ShadowOutcome.INCONCLUSIVE
    assert tally(calm=5, seen=5, extra=5).verdict().outcome is ShadowOutcome.REFUSED
    assert tally(calm=0, seen=0).verdict().rank_correlation is None


# --- in the loop -------------------------------------------------------------------------------------------------------------------


def candidate(version: int = 2, *, threshold: float = 4.0, prior: FleetPrior | None = None) -> ActiveRelease:
    bundle = read_bundle(open_bundle(make_bundle(version, threshold=threshold, prior=prior), TRUSTED))
    ref = BundleRef(release=f"pump/{version}", sha256=bundle.sha256)
    return ActiveRelease(ref=ref, bundle=bundle, generation=0, is_trial=True)


def commissioned(world: World, prior: FleetPrior | None = None) -> World:
    world.installation.give(1, is_trial=False, generation=1, prior=prior)
    world.watch(healthy(150))
    return world


def put_beside(world: World, release: ActiveRelease | None) -> None:
    """Give the loop a candidate, and wait until it is ready."""
    assert release is not None
    world.installation.beside = release
    world.turn()
    run = world.agent._shadowing._run
    if run is not None:
        wait_until(lambda: run._preparation.done or run._preparation.error, "the candidate to be ready")
        world.turn()


def one_by_one(world: World, rows: np.ndarray) -> None:
    """Windows with time between them."""
    for row in rows:
        world.watch(row[None, :])


def told(world: World) -> ShadowReport | str:
    (sha256, what) = world.installation.shadows[-1]
    assert world.installation.beside is not None
    assert sha256 == world.installation.beside.ref.sha256
    return what


def test_a_good_candidate_judges_the_same_windows_and_passes(world: World) -> None:
    put_beside(commissioned(world), candidate())
    one_by_one(world, healthy(30, 5))
    report = told(world)
    assert isinstance(report, ShadowReport)
    assert (report.outcome, report.champion, report.windows, report.errors) == (
        ShadowOutcome.PASSED,
        "pump/1",
        30,
        0,
    )
    assert report.rank_correlation == 1.0, "it is the same network"
    assert report.probes == 30 - report.champion_over
    assert min(report.champion_seen, report.candidate_seen) > 20
    one_by_one(world, healthy(5, 6))
    assert len(world.installation.shadows) == 1, "told once"


@pytest.mark.parametrize(("threshold", "why"), [(1e-6, "deafening"), (1e9, "blind")])
def test_a_candidate_that_is_absurd_on_the_same_windows_is_refused_and_never_in_force(
    world: World, threshold: float, why: str
) -> None:
    put_beside(commissioned(world), candidate(threshold=threshold))
    judge = world.pipeline.normal.judge
    one_by_one(world, healthy(30, 5))
    report = told(world)
    assert isinstance(report, ShadowReport)
    assert report.outcome is ShadowOutcome.REFUSED
    assert report.note.startswith(why)
    assert world.pipeline.normal.judge is judge
    assert world.said(AnomalyEvent) == []


def test_a_candidate_whose_model_cannot_be_opened_is_refused_at_once(world: World) -> None:
    bad = candidate()
    bad = dataclasses.replace(bad, bundle=dataclasses.replace(bad.bundle, int8_model=b"\x00" * 200))
    put_beside(commissioned(world), bad)
    report = told(world)
    assert isinstance(report, ShadowReport)
    assert report.outcome is ShadowOutcome.REFUSED
    assert "pump/2 cannot judge here: " in report.note


def test_a_device_that_knows_no_scale_yet_compares_as_soon_as_it_does(world: World) -> None:
    world.installation.give(1, is_trial=False, generation=1)
    world.watch(healthy(20))
    put_beside(world, candidate(threshold=1e-6))
    world.now_s += 121.0
    world.turn()
    assert (
        told(world)
        == "this machine's scale is not known yet: the comparison with the release that runs waits"
    )
    world.watch(healthy(100, 3))
    put_beside(world, world.installation.beside)
    one_by_one(world, healthy(30, 5))
    report = told(world)
    assert isinstance(report, ShadowReport)
    assert (report.outcome, report.windows) == (ShadowOutcome.REFUSED, 30), "no release slips in meanwhile"


def test_a_device_whose_scale_does_not_come_is_not_waited_for_longer_than_an_hour(world: World) -> None:
    world.installation.give(1, is_trial=False, generation=1)
    world.watch(healthy(20))
    put_beside(world, candidate())
    world.now_s += 3600.0
    world.turn()
    report = told(world)
    assert isinstance(report, ShadowReport)
    assert (report.outcome, report.windows) == (ShadowOutcome.SKIPPED, 0)
    assert "scale is not known yet" in report.note


def test_windows_without_time_for_a_second_judge_are_skipped(
    world: World,
) -> None:
    put_beside(commissioned(world), candidate())
    world.watch(healthy(300, 5))  # the next one is always due already, but for the last
    run = world.agent._shadowing._run
    assert run is not None
    assert run._tally.windows == 1
    assert run._tally.skipped > 250, "but for those of an anomaly, which are not calm"


def test_a_device_that_never_has_time_goes_on_after_a_minute(world: World) -> None:
    put_beside(commissioned(world), candidate())
    for seed in range(700):
        world.source.rows = list(healthy(3, seed))
        world.turn()
        if world.installation.shadows:
            break
    report = told(world)
    assert isinstance(report, ShadowReport)
    assert (report.outcome, report.windows) == (ShadowOutcome.INCONCLUSIVE, 0)
    assert report.note == "only 0 of 30 windows could be compared: there is no time for a second judge"
    assert report.skipped >= 20


def test_a_judgement_that_was_interrupted_once_is_not_the_measure_for_ever(world: World) -> None:
    put_beside(commissioned(world), candidate())
    one_by_one(world, healthy(1, 5))
    run = world.agent._shadowing._run
    assert run is not None
    run._cost_s = 10.0
    calm = SimpleNamespace(is_calm=True)
    refused = [not run._has_time(calm, 1.0) for _ in range(100)]  # type: ignore[arg-type] # all that is looked at
    assert 10 < sum(refused) < 50
    assert not refused[-1]


def test_a_device_that_has_no_time_any_more_goes_on_with_what_it_has(world: World) -> None:
    put_beside(commissioned(world), candidate())
    one_by_one(world, healthy(5, 5))
    for seed in range(700):
        world.source.rows = list(healthy(3, seed))
        world.turn()
        if world.installation.shadows:
            break
    report = told(world)
    assert isinstance(report, ShadowReport)
    assert (report.outcome, report.windows) == (ShadowOutcome.INCONCLUSIVE, 5)


def test_what_lasts_for_sixty_windows_may_end_by_the_candidate(world: World) -> None:
    commissioned(world)
    one_by_one(world, faulty(5))
    put_beside(world, candidate())
    one_by_one(world, faulty(61, 2))
    report = told(world)
    assert isinstance(report, ShadowReport)
    assert report.outcome is ShadowOutcome.INCONCLUSIVE
    assert report.note.endswith("an anomaly or a drift goes on")


def test_while_an_anomaly_goes_on_nothing_is_compared_and_the_fleet_is_told_why(world: World) -> None:
    commissioned(world)
    one_by_one(world, faulty(5))
    put_beside(world, candidate())
    one_by_one(world, faulty(40, 2))
    assert world.installation.shadows == []
    world.now_s += 121.0
    one_by_one(world, faulty(2, 3))
    waits = told(world)
    assert isinstance(waits, str)
    assert waits.startswith("an anomaly or a drift goes on for 1")
    one_by_one(world, faulty(3, 4))
    assert len(world.installation.shadows) == 1, "said once"
    world.now_s += 3600.0
    one_by_one(world, faulty(1, 4))
    report = told(world)
    assert isinstance(report, ShadowReport)
    assert report.outcome is ShadowOutcome.INCONCLUSIVE, "it may be the release that runs which is at fault"


def test_a_candidate_that_is_withdrawn_is_forgotten_and_the_next_one_begins_anew(world: World) -> None:
    put_beside(commissioned(world), candidate())
    one_by_one(world, healthy(20, 5))
    world.installation.beside = None
    one_by_one(world, healthy(20, 6))
    assert world.installation.shadows == []
    put_beside(world, candidate(3))
    one_by_one(world, healthy(29, 7))
    assert world.installation.shadows == []
    one_by_one(world, healthy(1, 8))
    report = told(world)
    assert isinstance(report, ShadowReport)
    assert report.windows == 30


def test_a_sensor_that_is_torn_off_leaves_the_comparison_to_the_others(world: World) -> None:
    put_beside(commissioned(world), candidate())
    rows = healthy(30, 5)
    rows[20:, 2] = np.nan
    one_by_one(world, rows)
    report = told(world)
    assert isinstance(report, ShadowReport)
    assert (report.outcome, report.windows) == (ShadowOutcome.PASSED, 30)
    assert report.probes == 30 - report.champion_over


# --- what is prepared is taken up -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prior() -> FleetPrior:
    fleet = machines(count=6, learnt=240, later=0, features=FEATURES, seed=3)
    return fleet_prior([machine.fitted for machine in fleet], AlarmRules())


def test_a_mixture_beside_a_network_is_compared_and_its_fit_is_taken_up_without_another(
    tmp_path: Path, prior: FleetPrior, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path)
    commissioned(world)
    one_by_one(world, healthy(700, 11))
    put_beside(world, candidate(prior=prior))
    one_by_one(world, healthy(30, 5))
    report = told(world)
    assert isinstance(report, ShadowReport)
    assert report.outcome is not ShadowOutcome.REFUSED
    prepared = world.pipeline.normal.fitter._prepared
    assert prepared is not None
    with caplog.at_level("INFO"):
        world.installation.give(2, is_trial=True, generation=2, prior=prior)
        one_by_one(world, healthy(10, 6))
        world.installation.give(2, is_trial=False, generation=2, prior=prior)
        one_by_one(world, healthy(2, 7))
    assert world.pipeline.normal.judge is prepared.fit.judge
    assert not [line for line in caplog.messages if line.startswith("detector_fitted")]
    assert world.pipeline.normal.fitter._prepared is None


def test_what_a_champion_sees_whose_promise_is_provisional_is_no_measure_of_blindness(
    world: World, prior: FleetPrior
) -> None:
    put_beside(commissioned(world, prior), candidate(threshold=1e9))
    kept = world.pipeline.normal.promise
    assert kept is not None
    assert kept.promise.is_provisional
    one_by_one(world, healthy(30, 5))
    report = told(world)
    assert isinstance(report, ShadowReport)
    assert (report.outcome, report.probes) == (ShadowOutcome.PASSED, 0)


def test_what_was_prepared_for_other_rows_is_not_taken_up(world: World) -> None:
    put_beside(commissioned(world), candidate())
    one_by_one(world, healthy(30, 5))
    prepared = world.pipeline.normal.fitter._prepared
    assert prepared is not None
    one_by_one(world, healthy(200, 6))
    world.installation.give(2, is_trial=True, generation=2)
    one_by_one(world, healthy(1, 7))
    assert world.pipeline.normal.judge is not None
    assert world.pipeline.normal.judge.threshold != prepared.fit.judge.threshold


@pytest.fixture
def slow_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device that has learnt thousands of windows."""
    monkeypatch.setattr(preparation, "_MANY_ROWS", 100)


def make_ready(world: World) -> None:
    """Wait for the thread, as windows do not."""
    begun = world.agent._model._preparation
    assert begun is not None
    wait_until(lambda: begun.done or begun.error, "the fit")


@pytest.mark.usefixtures("slow_fits")
def test_going_back_to_an_older_release_judges_at_once_and_is_learnt_beside_the_loop(world: World) -> None:
    commissioned(world)
    first = world.pipeline._memory.remembered.bundle_sha256
    world.installation.give(2, is_trial=False, generation=2)
    one_by_one(world, healthy(5, 3))
    assert world.vitals.state is AgentState.WATCHING
    assert world.vitals.release == "pump/2"
    judge = world.pipeline.normal.judge
    assert world.pipeline._memory.remembered.bundle_sha256 == first, "a kill now begins it again"
    make_ready(world)
    one_by_one(world, healthy(1, 4))
    assert world.pipeline._memory.remembered.bundle_sha256 not in {first, ""}
    assert world.pipeline.normal.judge is not judge
    one_by_one(world, healthy(5, 5))
    assert world.agent._model._preparation is None


@pytest.mark.usefixtures("slow_fits")
def test_a_trial_that_was_not_prepared_commits_when_it_is(world: World) -> None:
    commissioned(world)
    world.installation.give(2, is_trial=True, generation=2)
    one_by_one(world, healthy(5, 3))
    world.installation.give(2, is_trial=False, generation=2)
    one_by_one(world, healthy(1, 4))
    make_ready(world)
    one_by_one(world, healthy(1, 5))
    sha256 = world.pipeline._memory.remembered.bundle_sha256
    active = world.installation.active()
    assert active is not None
    assert sha256 == active.bundle.sha256
    world.installation.now = None
    one_by_one(world, healthy(1, 6))
    assert world.agent._model._preparation is None, "of a release that is gone nothing is prepared"
