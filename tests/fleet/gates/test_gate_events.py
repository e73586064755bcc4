"""Restarts, crashes, silence, and what people say of alarms: wagers that a harmless release loses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gate_worlds import arms, shown

from fleet.gates.answers import Answer, Finding
from fleet.gates.arms import Arms
from fleet.gates.events import binomial_tail, history_e, logrank_e, upper_hazard
from fleet.gates.judge import judge_look
from fleet.gates.plan import GatePlan, Metric
from fleet.gates.verdicts import verdicts_e


def with_events(canaries: int, controls: int, first: np.ndarray) -> Arms:
    """`first`: hours to the first event of each device, NaN for none. A past of 5 events in 10,000 hours."""
    devices = canaries + controls
    return arms(canaries, controls, shown(devices, hours=4.0), shown(devices, first_event_hours=first))


def asked(metric: Metric, evidence: Arms, number: int = 6) -> Answer:
    plan = GatePlan(metrics=(metric,))
    look = judge_look(evidence, plan, group=0, groups=1, number=number, of=6, is_last=number == 6)
    return look.answers[0]


def events(devices: int, at: dict[int, float]) -> np.ndarray:
    first = np.full(devices, np.nan)
    for row, hours in at.items():
        first[row] = hours
    return first


def test_canaries_that_crash_one_by_one_are_stopped() -> None:
    found = asked(
        Metric.RESTARTS, with_events(20, 60, events(80, {0: 0.2, 1: 0.3, 2: 0.4, 3: 0.5, 4: 0.55})), number=5
    )
    assert found.finding is Finding.STOP
    assert "5 devices of 20" in found.reason
    assert "0 of 60 controls" in found.reason


def test_one_machine_that_crashes_without_end_is_one_event_and_stops_nothing() -> None:
    evidence = with_events(20, 60, events(80, {0: 0.01}))
    evidence = replace(
        evidence, after=replace(evidence.after, restarts=np.where(np.arange(80) == 0, 500.0, 0.0))
    )
    assert asked(Metric.RESTARTS, evidence, number=5).finding is Finding.NOT_SEEN


def test_one_canary_that_crashes_among_a_thousand_quiet_controls_is_still_one_machine() -> None:
    evidence = replace(with_events(1, 1000, events(1001, {0: 0.01})), hazard_events=0.0, hazard_hours=1e6)
    found = asked(Metric.RESTARTS, evidence, number=5)
    assert found.finding is Finding.NOT_SEEN
    assert found.p is not None
    assert found.p < 0.05  # both wagers were won


def test_a_power_cut_in_both_arms_stops_nothing() -> None:
    assert asked(Metric.RESTARTS, with_events(20, 60, np.full(80, 0.5)), number=5).finding is Finding.NOT_SEEN


def test_where_nobody_is_left_who_would_show_a_power_cut_too_a_person_decides() -> None:
    evidence = replace(with_events(40, 0, np.full(40, 0.5)), hazard_events=1.0, hazard_hours=10_000.0)
    found = asked(Metric.RESTARTS, evidence, number=5)
    assert found.finding is Finding.PAUSE
    assert "before and after only" in found.reason


def test_a_silent_group_is_excluded_only_with_devices_enough() -> None:
    assert asked(Metric.RESTARTS, with_events(20, 60, events(80, {}))).finding is Finding.PASS
    few = asked(Metric.RESTARTS, with_events(5, 60, events(65, {})))
    assert few.finding is Finding.NOT_SEEN
    assert "is not excluded" in few.reason


@pytest.mark.parametrize("hazard", [0.05, 0.5])
def test_a_harmless_release_wins_a_wager_of_twenty_in_no_more_than_one_of_twenty(hazard: float) -> None:
    rng = np.random.default_rng(1)
    is_canary = np.arange(60) < 10
    against, past = [], []
    for _ in range(1500):
        hours = rng.exponential(1 / hazard, 60)
        has_event = hours < 1.0
        hours = np.minimum(hours, 1.0)
        against.append(logrank_e(hours, has_event, is_canary))
        past.append(history_e(int(has_event[is_canary].sum()), float(hours[is_canary].sum()), hazard))
    for found in (np.array(against), np.array(past)):
        assert (found >= 20).mean() <= 0.05
        assert found.mean() < 1.5  # its mean is at most 1; the tail is heavy


def test_events_at_one_moment_are_one_draw_and_not_an_order() -> None:
    is_canary = np.arange(40) < 10
    has_event = np.isin(np.arange(40), [0, 1, 12, 30])
    hours = np.where(has_event, 0.5, 1.0)
    order = np.random.default_rng(2).permutation(40)
    assert logrank_e(hours, has_event, is_canary) == pytest.approx(
        logrank_e(hours[order], has_event[order], is_canary[order])
    )
    everybody = np.ones(40, dtype=bool)
    assert logrank_e(np.full(40, 0.5), everybody, is_canary) == pytest.approx(1.0)


def test_nothing_is_known_of_a_fleet_without_a_past() -> None:
    assert upper_hazard(0, 0) == np.inf
    evidence = replace(
        with_events(20, 60, events(80, dict.fromkeys(range(10), 0.2))), hazard_hours=0.0, hazard_events=0.0
    )
    assert asked(Metric.RESTARTS, evidence, number=5).finding is Finding.NOT_SEEN


def test_the_upper_bound_of_a_hazard_is_that_of_poisson() -> None:
    for count, exact in [
        (0, 2.996),
        (1, 4.744),
        (5, 10.513),
        (30, 40.691),
    ]:  # tables of the chi-squared distribution
        assert upper_hazard(count, 1.0) == pytest.approx(exact, rel=0.01)
    assert binomial_tail(0, 11, 0.25) == pytest.approx(0.75**11)
    assert binomial_tail(11, 11, 0.25) == pytest.approx(1.0)


def judged_alarms(false: dict[int, float], true: dict[int, float]) -> Arms:
    """20 canaries whose alarms are called so; before, every device had a real one, and ten a false one."""
    wrong, right = np.zeros(80), np.zeros(80)
    for row, count in false.items():
        wrong[row] = count
    for row, count in true.items():
        right[row] = count
    before = shown(80, hours=4.0, false_alarms=np.where(np.arange(80) < 10, 1.0, 0.0), true_alarms=1.0)
    return arms(20, 60, before, shown(80, false_alarms=wrong, true_alarms=right))


def test_false_alarms_of_many_canaries_pause_and_never_stop() -> None:
    found = asked(Metric.VERDICTS, judged_alarms(dict.fromkeys(range(8), 2.0), {}))
    assert found.finding is Finding.PAUSE
    assert "8 devices were called false" in found.reason


def test_fifty_verdicts_on_one_machine_are_one_persons_afternoon() -> None:
    assert asked(Metric.VERDICTS, judged_alarms({0: 50.0}, {})).finding is Finding.NOT_SEEN


def test_fifty_verdicts_on_one_machine_do_not_outweigh_what_others_say() -> None:
    others = dict.fromkeys(range(2, 10), 1.0)
    assert asked(Metric.VERDICTS, judged_alarms({0: 50.0, 1: 1.0}, others)).finding is Finding.NOT_SEEN


def test_verdicts_as_before_say_nothing() -> None:
    found = asked(Metric.VERDICTS, judged_alarms({0: 1.0, 1: 1.0}, dict.fromkeys(range(2, 18), 1.0)))
    assert found.finding is Finding.NOT_SEEN


def test_people_who_call_alarms_false_as_often_as_before_lose_the_wager() -> None:
    rng = np.random.default_rng(3)
    is_canary = np.arange(30) < 30
    won = 0
    for _ in range(1000):
        false = rng.binomial(2, 0.3, 30).astype(float)
        won += verdicts_e(shown(30, false_alarms=false, true_alarms=2 - false), is_canary, 0.3)[0] >= 20
    assert won <= 50
