"""A candidate beside the release that runs: the loop judges with both, refuses, waits, skips and gives up."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from agent_loop_world import World, world
from agent_world import faulty, healthy
from shadowing_world import candidate, commissioned, one_by_one, put_beside, told

from protocol.messages.kinds import ShadowOutcome
from protocol.messages.payloads import AnomalyEvent, ShadowReport

__all__ = ["world"]  # the fixture
pytestmark = pytest.mark.edge


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


@pytest.mark.parametrize(("threshold", "why"), [(1e-6, "deafening"), (1e6, "blind")])
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
