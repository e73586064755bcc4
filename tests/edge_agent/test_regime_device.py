"""A device whose machine has several regimes: what it says of one that it does not know, and what a word makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from context_world import context_of, noise, opened, prior, reported, started
from test_agent_pipeline import Device

from edge_agent.judgement import Judged
from edge_agent.settings import DetectionSettings
from models.detection.prior import FleetPrior
from models.detection.promise import AlarmBudget
from models.thresholds import Closed, Opened

__all__ = ["prior"]  # the fixture

pytestmark = pytest.mark.edge

STEADY = DetectionSettings(
    commissioning_windows=120,
    commissioning_longest_windows=120,
    reference_windows=120,
    budget=AlarmBudget(alarms_per_1000_windows=5.0),
)
OTHER = np.array([4, -3, 0, 2, 0, 0], np.float32)
"""How far another regime lies from the first, in deviations."""


@pytest.fixture
def resting(tmp_path: Path, prior: FleetPrior) -> Device:
    """A device that has watched one regime for a thousand windows."""
    return started(tmp_path, noise(1000, 7), prior, STEADY)


def test_an_unknown_regime_is_one_finding_however_often_the_machine_comes_to_it(resting: Device) -> None:
    device, alarms, reports, kept = resting, [], [], len(resting.buffer)
    for visit in range(5):
        away = device.watch(noise(200, 10 + visit) + OTHER)
        alarms.append(opened(away))
        assert any("unknown regime since 2027-" in problem for problem in device.pipeline.problems())
        home = device.watch(noise(200, 20 + visit))
        assert not any("unknown regime" in problem for problem in device.pipeline.problems())
        alarms.append(opened(home))
        reports.append(reported(away) + reported(home))
        device.pipeline.save()
        device = _restarted(device)
    assert alarms == [1, *[0] * 9]
    assert reports[0] >= 2, "that it drifted, and that it is back"
    assert reports[1:] == [0, 0, 0, 0]
    learnt = device.buffer.newest().rows[kept:]
    assert (learnt @ OTHER > 0.5 * OTHER @ OTHER).mean() < 0.02, "its windows wait for a person"


def test_what_comes_back_after_a_week_is_told_again(resting: Device) -> None:
    device = resting
    told = [opened(device.watch(noise(200, 10) + OTHER)), opened(device.watch(noise(200, 20)))]
    for visit, days in enumerate((6, 6, 9)):  # each visit counts, and not the first
        device._wall_begins_s += days * 86_400
        device.pipeline.save()
        device = _restarted(device, wall_begins_s=device._wall_begins_s)
        told.append(opened(device.watch(noise(150, 11 + visit) + OTHER)))
        told.append(opened(device.watch(noise(200, 21 + visit))))
    assert told == [1, 0, 0, 0, 0, 0, 1, 0]


def test_an_anomaly_stays_open_in_an_unknown_regime_and_ends_at_home(resting: Device) -> None:
    resting.watch(noise(200, 10) + OTHER)
    assert resting.pipeline.alarm_is_open
    judged = resting.watch(noise(40, 11))
    (closed,) = (j.alarm for j in judged if isinstance(j, Judged) and isinstance(j.alarm, Closed))
    assert closed.windows > 190
    assert not resting.pipeline.alarm_is_open


def test_a_fault_in_an_unknown_regime_is_an_anomaly_of_its_own(resting: Device) -> None:
    resting.watch(noise(200, 10) + OTHER)
    resting.watch(noise(200, 11))
    assert opened(resting.watch(noise(60, 12) + OTHER)) == 0
    assert opened(resting.watch(noise(20, 13) + OTHER + np.array([0, 0, 0, 0, 9, 0], np.float32))) == 1


def test_what_creeps_is_told_before_it_can_be_a_regime(resting: Device) -> None:
    """Drift settles below the threshold first; that is no level from which an anomaly would not be one."""
    creep = np.linspace(0, 1, 2400)[:, None] * np.array([6, 0, 0, 0, 0, 0])
    judged = resting.watch((noise(2400, 30) + creep).astype(np.float32))
    first = next(i for i, j in enumerate(judged) if isinstance(j, Judged) and isinstance(j.alarm, Opened))
    assert creep[first, 0] < 3.2, "as soon as without a drift before it"
    assert opened(judged) <= 2, "and once more on its way on"
    assert resting.pipeline.alarm_is_open


def test_a_person_makes_a_regime_known_by_a_word(resting: Device, prior: FleetPrior) -> None:
    device = resting
    device.watch(noise(200, 10) + OTHER)
    device.accept()
    context = context_of(device)
    assert context is not None
    assert context.regimes is not None
    assert len(context.regimes.centres) == 2
    assert not any("unknown regime" in problem for problem in device.pipeline.problems())
    device.watch(noise(10, 12))  # whatever anomaly was open ends
    device.pipeline.save()
    device = _restarted(device)
    for visit in range(3):
        for rows in (noise(150, 40 + visit), noise(150, 50 + visit) + OTHER):
            judged = device.watch(rows)
            assert (opened(judged), reported(judged)) == (0, 0)
    between = opened(device.watch(noise(20, 60) + 0.5 * OTHER + np.array([0, 0, 9, 0, 0, 0], np.float32)))
    assert between == 1


def test_a_word_that_comes_while_the_machine_moves_is_learnt_where_it_comes_to_rest(
    resting: Device, prior: FleetPrior
) -> None:
    """Each word took another reference of six windows: drift, over, and drift again, thirteen times in five minutes."""
    device, normal = resting, resting.pipeline.normal
    told = reported(device.watch(noise(20, 10) + OTHER))
    assert (told, normal.drift.is_moving, normal.is_investigating) == (1, True, True)
    for _ in range(3):
        assert device.accept() is None
        told += reported(device.watch(noise(5, 11) + OTHER))
    assert (told, normal.is_drifted, normal.is_investigating) == (1, True, False)
    device.pipeline.save()
    device = _restarted(device)
    told += reported(device.watch(noise(100, 12) + OTHER))
    normal = device.pipeline.normal
    assert (told, normal.is_drifted, normal.is_drift_accepted) == (2, False, True), "learnt, and not back"
    context = context_of(device)
    assert context is not None
    assert context.regimes is not None
    for visit in range(2):
        for rows in (noise(150, 40 + visit), noise(150, 50 + visit) + OTHER):
            judged = device.watch(rows)
            assert (opened(judged), reported(judged)) == (0, 0)
    device.pipeline.save()
    device.paths.detector.unlink()  # as a cut between detector and reference leaves it: both are made anew
    device = _restarted(device)
    normal = device.pipeline.normal
    assert normal.is_drift_accepted, "a restart is no other release"
    device.pipeline.commit()
    assert not normal.is_drift_accepted, "another release's reference speaks of where the machine is"


def test_a_promise_is_not_broken_by_one_unknown_regime(resting: Device) -> None:
    resting.watch(noise(100, 10) + OTHER)
    promise = resting.pipeline.normal.promise
    assert promise is not None
    before = promise.realised.windows
    resting.watch(noise(600, 11) + OTHER)
    after = resting.pipeline.normal.promise
    assert after is not None
    assert after.realised.alarms <= 3
    assert after.realised.windows - before < 60


def _restarted(device: Device, wall_begins_s: float = 1_800_000_000.0) -> Device:
    again = device.restart()
    again._wall_begins_s = wall_begins_s
    again.adopt(prior=_prior_of(device))
    return again


def _prior_of(device: Device) -> FleetPrior:
    running = device.pipeline._running
    assert running is not None
    assert running.prior is not None
    return running.prior
