"""How often harmless releases are stopped and harmful ones pass, over many pretended rollouts; and that four ways to be wrong are seen.

The bound is what is judged, 6.5 % at a nominal 5 %; over so many rollouts chance alone stays below it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from gate_worlds import WINDOWS_AN_HOUR, Floats, a_soak, alarms, arms, latency_arms, rates, shown

from fleet.gates.answers import Finding
from fleet.gates.arms import Arms, Shown
from fleet.gates.changes import MARGINS, change
from fleet.gates.judge import judge_look
from fleet.gates.looks import look_times
from fleet.gates.plan import GatePlan, Metric
from fleet.gates.ranks import rank_sum_p
from fleet.gates.scores import score

ALPHA, BOUND, ROLLOUTS, CONTROLS = 0.05, 0.065, 1000, 60
Change = Callable[[Metric, Shown, Shown, float, np.ndarray, Floats], Floats]


def counted(canaries: int, factor: float, base: float, rng: np.random.Generator) -> Arms:
    """Devices that alarm in bursts at a rate of about `base`, canaries `factor` times as often."""
    devices = canaries + CONTROLS
    own = rates(devices, rng, base)
    treated = np.where(np.arange(devices) < canaries, factor, 1.0)
    past, now = 4.0 * WINDOWS_AN_HOUR, float(WINDOWS_AN_HOUR)
    return arms(
        canaries,
        CONTROLS,
        shown(devices, hours=4.0, windows=past, judged=past, over=alarms(own, 4.0, rng)),
        shown(devices, windows=now, judged=now, over=alarms(own, 1.0, rng, treated)),
    )


def share_below(
    metric: Metric,
    canaries: int,
    factor: float,
    margin: float,
    *,
    passing: bool = False,
    by: Change = change,
    base: float = 0.01,
    rollouts: int = ROLLOUTS,
) -> float:
    """Of so many rollouts with an effect of `factor`, the share that is stopped (or passes) at `margin` and 5 %."""
    rng = np.random.default_rng([canaries, round(1000 * factor), passing])
    is_canary = np.arange(canaries + CONTROLS) < canaries
    found = 0
    for _ in range(rollouts):
        evidence = (
            latency_arms(canaries, CONTROLS, factor, rng)
            if metric is Metric.LATENCY_P99
            else counted(canaries, factor, base, rng)
        )
        harm = by(metric, evidence.before, evidence.after, margin, is_canary, rng.random(len(is_canary)))
        found += rank_sum_p(score(-harm if passing else harm, is_canary, evidence.stratum)) <= ALPHA
    return found / rollouts


@pytest.mark.parametrize("canaries", [2, 5, 20])
@pytest.mark.parametrize("metric", [Metric.LATENCY_P99, Metric.ANOMALY_RATE, Metric.ANOMALY_LOSS])
def test_a_release_at_the_margin_is_stopped_no_more_often_than_promised(
    metric: Metric, canaries: int
) -> None:
    margin = MARGINS[metric].stop
    at_margin = 1 / margin if metric is Metric.ANOMALY_LOSS else margin
    assert share_below(metric, canaries, at_margin, margin) <= BOUND


def test_a_release_without_harm_is_stopped_no_more_often_than_promised_where_nothing_is_forgiven() -> None:
    assert share_below(Metric.ANOMALY_RATE, 5, 1.0, 1.0) <= BOUND


@pytest.mark.parametrize("canaries", [2, 5, 20])
@pytest.mark.parametrize("metric", [Metric.LATENCY_P99, Metric.ANOMALY_RATE, Metric.ANOMALY_LOSS])
def test_a_release_with_the_harm_that_matters_passes_no_more_often_than_promised(
    metric: Metric, canaries: int
) -> None:
    margin = MARGINS[metric].passing
    harm = 1 / margin if metric is Metric.ANOMALY_LOSS else margin
    assert share_below(metric, canaries, harm, margin, passing=True) <= BOUND


@pytest.mark.parametrize("metric", [Metric.ANOMALY_RATE, Metric.ANOMALY_LOSS])
def test_without_controls_too_a_release_at_the_margin_is_stopped_no_more_often_than_promised(
    metric: Metric,
) -> None:
    """Four hours before are compared with one after, so that either sign is as likely only if spans are made equal."""
    rng = np.random.default_rng(11)
    margin = MARGINS[metric].alone
    factor = 1 / margin if metric is Metric.ANOMALY_LOSS else margin
    past, now = 4.0 * WINDOWS_AN_HOUR, float(WINDOWS_AN_HOUR)
    found = 0
    for rollout in range(200):
        own = rates(40, rng)
        evidence = arms(
            40,
            0,
            shown(40, hours=4.0, windows=past, judged=past, over=alarms(own, 4.0, rng)),
            shown(40, windows=now, judged=now, over=alarms(own, 1.0, rng, factor)),
        )
        evidence = replace(evidence, devices=tuple(f"{rollout}-{row}" for row in range(40)))
        plan = GatePlan(metrics=(metric,), false_stop=0.2)
        look = judge_look(evidence, plan, group=0, groups=1, number=1, of=1, is_last=True)  # level .16
        found += look.answers[0].p is not None and look.answers[0].p <= ALPHA
    assert 0.01 <= found / 200 <= 0.085  # 5 % and what 200 rollouts are sure of


def stopped(plan: GatePlan, canaries: int, rollouts: int, level: float | None = None) -> float:
    """The share of rollouts of one group, at the margins, that any look of the soak stops; at `level` a look, or at the plan's."""
    rng = np.random.default_rng([canaries, rollouts])
    looks = len(look_times(3600))
    found = 0
    for _ in range(rollouts):
        for number, evidence in enumerate(a_soak(canaries, CONTROLS, rng, rate=1.1, latency=1.05), 1):
            look = judge_look(
                evidence, plan, group=0, groups=1, number=number, of=looks, is_last=number == looks
            )
            least = min(answer.p for answer in look.answers if answer.p is not None) if level else 1.0
            if look.finding is Finding.STOP or (level is not None and least <= level):
                found += 1
                break
    return found / rollouts


TWO = GatePlan(metrics=(Metric.LATENCY_P99, Metric.ANOMALY_RATE))


@pytest.mark.parametrize("canaries", [5, 20])
def test_six_looks_at_two_metrics_together_stop_no_more_harmless_releases_than_the_plan_permits(
    canaries: int,
) -> None:
    assert stopped(TWO, canaries, 150) <= BOUND


def test_looks_that_each_spend_all_would_stop_too_many() -> None:
    """The first mutant: no correction for looking six times at two metrics."""
    lenient = GatePlan(metrics=TWO.metrics, false_stop=0.5)  # so that p is shown at every look
    assert stopped(lenient, 20, 80, level=ALPHA) > 2 * BOUND


def test_minutes_taken_for_samples_would_stop_too_many() -> None:
    """The second mutant: a rank-sum over the minutes of canaries and controls; a machine's minutes are no replicates."""
    rng = np.random.default_rng(8)
    found = 0
    for _ in range(200):
        own = rates(25, rng)
        was, now = (np.stack([alarms(own, 1 / 60, rng) for _ in range(20)]) for _ in range(2))
        drift = np.exp(rng.normal(0, 0.3, 25))  # a machine is not today what it was yesterday
        minutes = np.sqrt(now * drift + 0.375) - np.sqrt(was + 0.375).mean(axis=0)
        is_canary = np.broadcast_to(np.arange(25) < 5, minutes.shape).ravel()
        p = rank_sum_p(score(minutes.ravel(), is_canary, np.zeros(minutes.size, dtype=np.int64)))
        found += p <= ALPHA
    assert found / 200 > 2 * BOUND


def test_three_eighths_before_the_division_would_pass_and_stop_by_a_comparison_of_nothing_with_nothing() -> (
    None
):
    """The third mutant: devices that never alarm differ by the margin alone, and ten of them 'prove' that a doubling is excluded."""

    def before_division(
        metric: Metric, before: Shown, after: Shown, margin: float, is_canary: np.ndarray, lots: Floats
    ) -> Floats:
        forgiven = np.where(is_canary, margin, 1.0)
        expected = before.over * after.judged / before.judged
        return 2 * np.sqrt((after.over + 0.375) / forgiven) - 2 * np.sqrt(expected + 0.375)

    rare = 0.0001
    wrong, right = (
        share_below(Metric.ANOMALY_RATE, 20, 2.0, 2.0, passing=True, by=by, base=rare, rollouts=300)
        for by in (before_division, change)
    )
    assert right <= BOUND
    assert wrong > 2 * BOUND


def test_a_halving_of_counts_taken_for_half_a_count_would_pass_too_often() -> None:
    """Why counts that may fall are thinned: by logarithms alone, releases that halve the anomalies pass twice as often."""

    def by_shift(
        metric: Metric, before: Shown, after: Shown, margin: float, is_canary: np.ndarray, lots: Floats
    ) -> Floats:
        was = np.log((before.over + 0.5) / (before.judged + 1))
        return (
            was - np.log((after.over + 0.5) / (after.judged + 1)) - np.log(np.where(is_canary, margin, 1.0))
        )

    wrong = share_below(Metric.ANOMALY_LOSS, 20, 0.5, 2.0, passing=True, by=by_shift, base=0.001)
    assert wrong > 1.3 * BOUND


def test_memory_of_a_fresh_start_stops_a_release_that_is_looked_at_before_it_has_warmed_up() -> None:
    """The fourth mutant: no warm-up. What a start takes (half of it within four minutes) grows no more after fifteen."""
    rng = np.random.default_rng(9)

    def slope(begin_h: float, hours: float) -> Floats:
        times = begin_h + np.linspace(0, hours, 20)
        log_pss = math.log(40) + 0.08 * (1 - np.exp(-times / 0.1)) + rng.normal(0, 0.004, (10, 20))
        return np.polyfit(times - times.mean(), log_pss.T, 1)[0]

    def look(warm_up_h: float) -> Finding:
        memory = rng.normal(0, 0.02, 70)
        memory[:10] = slope(warm_up_h, 0.5)
        evidence = arms(
            10,
            60,
            shown(70, hours=4.0, memory_slope=rng.normal(0, 0.005, 70)),
            shown(70, memory_slope=memory),
        )
        plan = GatePlan(metrics=(Metric.MEMORY,))
        return judge_look(evidence, plan, group=0, groups=1, number=5, of=6, is_last=False).finding

    assert [look(GatePlan().warm_up_s / 3600) for _ in range(20)].count(Finding.STOP) <= 1
    assert [look(0.0) for _ in range(20)].count(Finding.STOP) >= 19
