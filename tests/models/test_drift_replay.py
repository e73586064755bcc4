"""The replay tells a machine that wanders from one that does not, and the faults that made drift cry wolf are cured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from models.drift.limits import largest_wander
from models.drift.monitor import DriftMonitor, DriftPhase, DriftSettings, run_length_of_a_column
from models.drift.reference import DriftReference, fit_reference
from models.drift.replay import fit_calibrated_reference

pytestmark = pytest.mark.edge

Float = NDArray[np.float64]
DAY = 720


def scores_of(rows: Float) -> Float:
    return np.asarray((rows**2).mean(axis=1))


def learn(rows: Float) -> DriftReference:
    return fit_calibrated_reference(rows, scores_of(rows), DriftSettings())


@dataclass(frozen=True, kw_only=True)
class Life:
    """What a monitor said of windows: how often it reported, and in which share of them it was in drift, and away."""

    monitor: DriftMonitor
    reports: int
    drifted: float
    away: float


def live(reference: DriftReference, rows: Float) -> Life:
    monitor, drifted, away = DriftMonitor(reference), 0, 0
    for row, score in zip(rows, scores_of(rows).tolist(), strict=True):
        monitor.update(row, score)
        drifted += monitor.drifted
        away += monitor.is_away
    return Life(monitor=monitor, reports=monitor.reports, drifted=drifted / len(rows), away=away / len(rows))


def days(seed: int, count: int, sensors: int = 6) -> Float:
    """A machine with a working day: sensors that follow it, each by its own amount that differs from day to day."""
    random = np.random.default_rng(seed)
    hour = np.arange(count * DAY) % DAY / DAY
    profile = np.sin(2 * np.pi * (hour[:, None] + random.random(sensors)))
    amount = random.uniform(0.5, 1.5, sensors) * random.normal(1.0, 0.15, (count, sensors)).repeat(
        DAY, axis=0
    )
    x = profile * amount + 0.4 * random.standard_normal((count * DAY, sensors))
    x[:, 0] = np.where(hour < 0.4, 0.0, np.maximum(x[:, 0], 0.0))  # nothing at night
    learnt = x[: 4 * DAY]
    return np.asarray((x - learnt.mean(axis=0)) / learnt.std(axis=0))


def test_independent_windows_are_no_machine_that_wanders() -> None:
    for seed in range(10):
        reference = learn(np.random.default_rng(seed).standard_normal((400, 8)))
        assert not reference.is_wandering
        assert np.mean(reference.wander) < 0.2
        assert max(reference.shape) == 1.0


def test_a_level_that_walks_is_told_from_noise_and_gets_its_allowance() -> None:
    random = np.random.default_rng(1)
    rows = random.standard_normal((800, 6))
    rows[:, :4] += np.cumsum(0.05 * random.standard_normal((800, 4)), axis=0)
    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    reference = learn(rows)
    assert reference.is_wandering
    assert min(reference.wander) >= 0.5, "the others are of the same machine"
    assert max(reference.memory) <= 4.0


def test_four_deviations_are_found_on_a_machine_that_wanders_as_far_as_may_be_allowed() -> None:
    found = wandering = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        batches = random.standard_normal((18, 6)).repeat(80, axis=0)  # a product for 80 windows each
        rows = 0.8 * batches + 0.6 * random.standard_normal(batches.shape)
        reference = learn(rows[:960])
        wandering += reference.is_wandering
        widest = largest_wander(reference, run_length_of_a_column(reference, DriftSettings()))
        assert (np.asarray(reference.wander) <= widest + 1e-9).all()
        watched = rows[960:].copy()
        watched[240:440, 1 + seed % 5] += 4 * reference.std[1 + seed % 5]
        monitor = DriftMonitor(reference)
        reports = []
        for row, score in zip(watched[:440], scores_of(watched).tolist(), strict=False):
            monitor.update(row, score)
            reports.append(monitor.reports)
        found += reports[-1] > reports[239]
    assert wandering >= 15
    assert found >= 16


def test_a_working_day_is_not_reported_every_morning() -> None:
    lives, without = [], 0
    for seed in range(3):
        learnt, watched = np.split(days(seed, 14), [4 * DAY])
        lives.append(live(learn(learnt), watched))
        without += live(fit_reference(learnt, scores_of(learnt)), watched).reports
    assert sum(life.reports for life in lives) <= 2, "of 21 600 windows"
    assert np.mean([life.drifted for life in lives]) <= 0.05
    assert without > 2, "the replay is what it takes"


def test_zero_inflated_sensors_give_no_false_drift_in_forty_lives() -> None:
    false = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        rows = np.where(random.random((900, 3)) < 0.6, 0.0, random.exponential(1.0, (900, 3)))
        rows[:, 2] = np.round(rows[:, 2])
        false += live(learn(rows[:400]), rows[400:]).reports > 0
    # Wanted: 1 - exp(-500/20000), one of 40; five would have a chance below 1 in 200.
    assert false <= 4


def test_a_value_that_recurs_is_no_drift_when_the_same_windows_come_again() -> None:
    for value in (4.6, 4.0, 0.3):
        rows = np.random.default_rng(3).standard_normal((120, 4))
        rows[::20] = value
        assert live(learn(rows), np.vstack([rows] * 5)).reports == 0


def test_a_reference_of_120_windows_is_not_in_drift_for_ever() -> None:
    drifted = []
    for seed in range(12):
        rows = np.random.default_rng(seed).standard_normal((1620, 8))
        drifted.append(live(learn(rows[:120]), rows[120:]).drifted)
    assert np.mean(drifted) < 0.05


def test_dusk_is_not_stuck() -> None:
    random = np.random.default_rng(4)
    hour = np.arange(12 * DAY) % DAY / DAY
    rows = np.column_stack([np.maximum(np.sin(2 * np.pi * hour), 0.0), random.standard_normal(12 * DAY)])
    rows[:, 0] *= 1 + 0.1 * random.standard_normal(12 * DAY)
    monitor = live(learn(rows[: 6 * DAY]), rows[6 * DAY :]).monitor
    assert monitor.phase is DriftPhase.HOME
    assert monitor.reports == 0


def test_a_calibrated_reference_is_the_plain_one_with_what_the_replay_asks_for() -> None:
    rows = np.random.default_rng(5).standard_normal((400, 3))
    plain, calibrated = fit_reference(rows, scores_of(rows)), learn(rows)
    assert calibrated.bins == plain.bins
    assert calibrated.memory == plain.memory
    assert (plain.wander, plain.swing, plain.shape) == ((), (), ())
    assert len(calibrated.wander) == len(calibrated.swing) == len(calibrated.shape) == 4
