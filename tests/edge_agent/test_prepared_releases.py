"""What was prepared beside the loop is taken up when its release comes into force, if it was made of the same rows."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from agent_loop_world import World, world
from agent_world import FEATURES, healthy
from detection_fleets import machines
from shadowing_world import candidate, commissioned, one_by_one, put_beside, told
from waiting import wait_until

from edge_agent import preparation
from models.detection.openings import AlarmRules
from models.detection.prior import FleetPrior, fleet_prior
from protocol.messages.kinds import AgentState, ShadowOutcome
from protocol.messages.payloads import ShadowReport

__all__ = ["world"]  # the fixture
pytestmark = pytest.mark.edge


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
    put_beside(commissioned(world, prior), candidate(threshold=1e6))
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


MAY_END = threading.Event()


@pytest.fixture
def slow_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device that has learnt thousands of windows: a fit lasts until `make_ready`."""
    fit = preparation._prepare

    def slowly(*arguments: Any, **options: Any) -> preparation.Prepared:
        MAY_END.wait()
        return fit(*arguments, **options)

    MAY_END.clear()
    monkeypatch.setattr(preparation, "_MANY_ROWS", 100)
    monkeypatch.setattr(preparation, "_prepare", slowly)


def make_ready(world: World) -> None:
    """Wait for the thread, as windows do not."""
    MAY_END.set()
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
