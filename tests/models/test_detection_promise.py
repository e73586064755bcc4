"""A budget of false alarms, kept: openings curves, what devices add to them, and what is said when data do not suffice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from detection_fleets import machines
from hypothesis import given, settings
from hypothesis import strategies as st

from models.detection.detector import fit_detector
from models.detection.openings import (
    AGES,
    LEVELS,
    AlarmRules,
    Curve,
    Openings,
    OpeningsSums,
    age_counts,
    age_of,
    count_openings,
)
from models.detection.prior import fleet_prior
from models.detection.promise import AlarmBudget, make_promise
from models.detection.sums import total
from models.detection.time_scales import TimeScales, averages_for, on_time_scales
from models.thresholds import AlarmState, Closed, Opened

RULES = AlarmRules()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.0, 3.0), min_size=1, max_size=150), st.floats(0.2, 2.5))
def test_openings_are_those_of_the_agents_own_alarm(statistics: list[float], level: float) -> None:
    alarm = AlarmState(opens_after_windows=1, closes_after_windows=5, closes_below_share=0.9)
    openings = windows = since = 0
    for statistic in statistics:
        was_open = alarm.is_open
        change = alarm.update(statistic, level)
        since = 0 if isinstance(change, Opened) else since + 1
        openings += isinstance(change, Opened) or (was_open and since % 60 == 0)
        windows += was_open or isinstance(change, Opened)
        assert alarm.is_open or change is None or isinstance(change, Closed)
    counted = count_openings(np.array(statistics), RULES, np.array([level]))
    assert (counted.openings[0], counted.in_alarm[0]) == (openings, windows)


def test_the_statistic_is_the_largest_of_all_scales_each_in_its_unit() -> None:
    rng = np.random.default_rng(1)
    scores, furthest = rng.gamma(1.0, 1.0, 300), rng.gamma(2.0, 3.0, 300)
    units, averages = (2.0, 1.5, 1.2, 9.0), (4, 16)

    def in_two_of_three(values: np.ndarray) -> np.ndarray:
        return np.array([min(u, max(values[max(i - 2, 0) : i], default=0.0)) for i, u in enumerate(values)])

    short, long, means = [], [], [0.7, 0.7]
    for score in scores:
        means = [m + 2 / (s + 1) * (score**0.5 - m) for m, s in zip(means, averages, strict=True)]
        short.append(means[0] ** 2)
        long.append(means[1] ** 2)
    alone = [in_two_of_three(scores), np.array(short), np.array(long), in_two_of_three(furthest)]
    expected = np.max([scale / unit for scale, unit in zip(alone, units, strict=True)], axis=0)
    scales = TimeScales(units=units, averages=averages, typical=0.7)
    np.testing.assert_allclose(scales.follow(scores, furthest), expected)
    found = on_time_scales(scores, furthest, averages, 0.7)
    for scale, by_hand in zip(found, alone, strict=True):
        np.testing.assert_allclose(scale, by_hand)
    resumed = TimeScales(units=units, averages=averages, typical=0.7)
    resumed.resume(scales.state)
    assert resumed.update(1.3, 40.0) == scales.update(1.3, 40.0)
    for spoilt in ((0.0,) * 4 + (1e300, 1e300), (0.0, -1.0, *(1.0,) * 4), (1.0, 1.0)):
        resumed.resume(spoilt)
        assert resumed.state == (0.0, 0.0, 0.0, 0.0, 0.7, 0.7)


def test_one_spike_is_no_anomaly_unless_one_window_matters() -> None:
    spike = np.zeros(40)
    spike[20] = 10.0
    at_once, averaged, furthest = on_time_scales(spike, spike, averages_for(40), 0.0)
    assert at_once.max() == furthest.max() == 0.0
    assert averaged.max() == pytest.approx(10.0 * 0.4**2)
    assert averages_for(5000, shortest_event_windows=1) == ()
    assert TimeScales(units=(2.0, 4.0), averages=(), typical=0.0).follow(spike, 0 * spike).max() == 5.0
    assert TimeScales(units=(2.0, 4.0), averages=(), typical=0.0).follow(0 * spike, spike).max() == 2.5


def test_a_device_averages_over_no_more_than_what_it_learnt_from_supports() -> None:
    assert [averages_for(n) for n in (19, 20, 80, 320, 100_000)] == [
        (),
        (4,),
        (4, 16),
        (4, 16),
        (4, 16),
    ]


@pytest.mark.parametrize("learnt", [30, 240, 1200])
def test_the_promise_is_kept_on_machines_that_were_not_looked_at(learnt: int) -> None:
    """Six machines and 1,200 later windows each: openings between a third of and twice what was promised, within chance."""
    budget = AlarmBudget(alarms_per_1000_windows=2.0)
    opened = windows = in_alarm = 0.0
    for seed in range(2):
        fleet = machines(count=6, learnt=learnt, later=1200, seed=seed)
        prior = fleet_prior([machine.fitted for machine in fleet], RULES)
        for machine in fleet:
            detector = fit_detector(*machine.fitted, prior, budget, RULES)
            statistics = detector.statistics(machine.scale.apply(machine.later))
            counts = count_openings(statistics, RULES, np.array([detector.promise.threshold]))
            opened, windows = opened + counts.openings[0], windows + counts.windows
            in_alarm += counts.in_alarm[0]
    expected = budget.rate * windows
    slack = 3 * np.sqrt(expected)
    assert expected / 3 - slack <= opened <= 2 * expected + slack
    assert in_alarm <= 2 * budget.windows_in_alarm * budget.rate * windows


def test_levels_and_scores_of_devices_that_differ_by_decades_need_no_common_threshold() -> None:
    """A shared absolute threshold made devices deaf; the statistic is in each device's own unit."""
    fleet = machines(count=6, later=500)
    prior = fleet_prior([machine.fitted for machine in fleet], RULES)
    rng = np.random.default_rng(2)
    quiet, loud = ((rng.normal(size=(240, 8)) * f).clip(-8, 8) for f in (0.05, 2.5))
    for rows in (quiet, loud):
        detector = fit_detector(rows, np.ones(8), prior, AlarmBudget(), RULES)
        statistics = detector.statistics(rows)
        assert 0.05 < np.quantile(statistics, 0.99) / detector.promise.threshold < 1.0
        score, _ = detector.score(np.full(8, 8.0, np.float32))
        assert score > detector.promise.threshold * detector.form.units[0]


def test_alike_devices_are_believed_and_unlike_ones_are_asked_for_their_own_counts() -> None:
    def sums(counts: list[float]) -> Curve:
        parts = [
            OpeningsSums.of(
                Openings(
                    openings=np.where(LEVELS < 1, c, 0.0), in_alarm=np.zeros(len(LEVELS)), windows=1000.0
                )
            )
            for c in counts
        ]
        return Curve.of(total(parts))

    alike, unlike = sums([10.0, 11.0, 9.0, 10.0]), sums([0.0, 40.0, 0.0, 0.0])
    assert alike.alikeness == 25.0
    assert unlike.alikeness < 1.0
    silent = Openings(openings=np.zeros(len(LEVELS)), in_alarm=np.zeros(len(LEVELS)), windows=2000.0)
    level = int(np.flatnonzero(LEVELS < 1)[-1])
    assert alike.with_own(silent).rate[level] == pytest.approx(25 / 4500, rel=0.05)
    assert unlike.with_own(silent).rate[level] < 0.002


def test_a_word_that_nothing_ever_alarms_is_not_believed_against_a_devices_own_windows() -> None:
    """By a forged curve the lowest threshold would keep any budget, and every window would be an anomaly."""
    fleet = machines(count=5, learnt=120, later=400)
    prior = fleet_prior([machine.fitted for machine in fleet[:4]], RULES)
    never = {
        age: replace(curve, rate=1e-30 * curve.rate, share=1e-30 * curve.share, alikeness=25.0)
        for age, curve in prior.curves.items()
    }
    machine = fleet[4]
    honest, forged, alone = (
        fit_detector(*machine.fitted, one, AlarmBudget(), RULES)
        for one in (prior, replace(prior, curves=never), None)
    )
    rows = machine.scale.apply(machine.later)
    assert (forged.statistics(rows) > forged.promise.threshold).mean() < 0.02
    assert forged.promise.threshold > 0.3 * alone.promise.threshold
    assert forged.promise.is_provisional, "it rests on the device's own windows alone"
    assert honest.curve.own_windows > 0, "a fleet that does not contradict is believed"


def test_beyond_what_was_counted_the_curve_falls_as_a_power_and_a_smaller_promise_is_a_higher_threshold() -> (
    None
):
    fleet = machines(count=6, later=0)
    curve = fleet_prior([machine.fitted for machine in fleet], RULES).curve_for(240)
    assert curve is not None
    assert (np.diff(curve.rate) <= 0).all()
    assert (np.diff(curve.share) <= 1e-12).all()
    thresholds = [
        make_promise(curve, AlarmBudget(alarms_per_1000_windows=r), fitted_on=240).threshold
        for r in (10, 1, 0.1)
    ]
    assert thresholds == sorted(set(thresholds))


def test_what_data_cannot_support_is_said_before() -> None:
    fleet = machines(count=2, learnt=100, later=0)
    prior = fleet_prior([machine.fitted for machine in fleet], RULES)
    promise = fit_detector(*fleet[0].fitted, prior, AlarmBudget(alarms_per_1000_windows=0.1), RULES).promise
    assert promise.is_provisional
    assert "provisional" in promise.text
    assert promise.horizon_windows == 20
    loose = fit_detector(*fleet[0].fitted, prior, AlarmBudget(alarms_per_1000_windows=20.0), RULES).promise
    assert not loose.is_provisional
    assert loose.threshold < promise.threshold


def test_a_machine_at_rest_has_counted_nothing_and_is_not_promised_that_nothing_ever_moves() -> None:
    at_rest = Openings(openings=np.zeros(len(LEVELS)), in_alarm=np.zeros(len(LEVELS)), windows=5000.0)
    promise = make_promise(Curve.of(OpeningsSums.of(at_rest)), AlarmBudget(), fitted_on=5000)
    assert 1.0 < promise.threshold < 3.0


def test_a_fleet_of_unlike_devices_supports_little_however_long_it_counted() -> None:
    falling = LEVELS**-2.0 / 1000
    alike, unlike = (
        Curve(rate=falling, share=falling, windows=1e5, alikeness=a).with_own(
            Openings(openings=np.zeros(len(LEVELS)), in_alarm=np.zeros(len(LEVELS)), windows=40.0)
        )
        for a in (25.0, 0.1)
    )
    assert not make_promise(alike, AlarmBudget(), fitted_on=40).is_provisional
    assert make_promise(unlike, AlarmBudget(), fitted_on=40).supported == pytest.approx(3 / 140)


def test_a_budget_that_is_kept_at_no_level_is_provisional() -> None:
    for rate, share in ((1.0, 1.0), (2e-3, 2e-3), (1e-6, 1.0)):
        at_all = np.ones(len(LEVELS))
        curve = Curve(rate=rate * at_all, share=share * at_all, windows=1e5, alikeness=25.0)
        promise = make_promise(curve, AlarmBudget(), fitted_on=1000)
        assert (promise.threshold, promise.is_provisional) == (LEVELS[-1], True)


def test_a_device_alone_has_a_promise_of_its_own_counts() -> None:
    machine = machines(count=1, learnt=480, later=2000)[0]
    promise = fit_detector(*machine.fitted, None, AlarmBudget(alarms_per_1000_windows=5.0), RULES).promise
    assert 0.5 < promise.threshold < 20.0


def test_a_mature_device_plays_being_young() -> None:
    machine = machines(count=1, learnt=2000, later=0)[0]
    counts = age_counts(machine.rows, None, RULES)
    assert tuple(counts) == AGES
    assert counts[AGES[-1]].windows == 2000
    assert counts[16].windows == 6 * 4
    assert [age_of(n) for n in (19, 20, 80, 320, 1280)] == [None, 16, 64, 256, 1024]


def test_time_in_alarm_has_a_budget_of_its_own() -> None:
    """An alarm that never closes opens once; it must not pass for a kept budget."""
    statistics = np.concatenate([np.full(30, 0.5), np.full(970, 2.0)])
    counts = count_openings(statistics, RULES)
    curve = Curve.of(total([OpeningsSums.of(counts)] * 40))
    threshold = make_promise(curve, AlarmBudget(alarms_per_1000_windows=20.0), fitted_on=1000).threshold
    assert threshold > 2.0


def test_a_device_for_which_one_window_matters_does_not_believe_a_curve_counted_with_averages() -> None:
    fleet = machines(count=5, later=10)
    prior = fleet_prior([machine.fitted for machine in fleet[:4]], AlarmRules())
    never = {
        age: replace(curve, rate=0 * curve.rate, share=0 * curve.share, alikeness=1e6)
        for age, curve in prior.curves.items()
    }
    for shortest, is_believed in ((1, False), (2, True)):
        budget = AlarmBudget(alarms_per_1000_windows=5.0, shortest_event_windows=shortest)
        thresholds = {
            fit_detector(fleet[4].rows, fleet[4].unit, told, budget, AlarmRules()).promise.threshold
            for told in (prior, replace(prior, curves=never))
        }
        assert (len(thresholds) == 2) == is_believed
