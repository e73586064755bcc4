"""Who puts a release off is no chance: the busy do. They stay in the arm of the lot, or good releases are stopped for their absence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gate_worlds import WINDOWS_AN_HOUR, Floats, alarms, arms, rates, shown

from fleet.gates.answers import Finding
from fleet.gates.arms import Arms
from fleet.gates.coverage import without_short_spans
from fleet.gates.judge import judge_look
from fleet.gates.plan import GatePlan, Metric

CANARIES, CONTROLS, BUSY, ROLLOUTS = 40, 120, 0.3, 300
ONLY = (Metric.ANOMALY_LOSS, Metric.ANOMALY_RATE, Metric.LATENCY_P99)


def fleet(rng: np.random.Generator, *, rate: float = 1.0, latency: float = 1.0) -> Arms:
    """A fleet of which three in ten are busy now: they alarm three times as often, are slower, and put a release off.

    `rate`, `latency`: what the release does to those that run it.
    """
    devices = CANARIES + CONTROLS
    is_canary, is_busy = np.arange(devices) < CANARIES, rng.random(devices) < BUSY
    runs_it = is_canary & ~is_busy
    own, slow = rates(devices, rng), rng.normal(7.0, 0.4, devices)
    factor = np.where(is_busy, 3.0, 1.0) * np.where(runs_it, rate, 1.0)
    slower = np.where(is_busy, np.log(1.3), 0.0) + np.where(runs_it, np.log(latency), 0.0)
    past, now = 4.0 * WINDOWS_AN_HOUR, float(WINDOWS_AN_HOUR)

    def noise(spread: float) -> Floats:
        return rng.normal(0, spread, devices)

    return replace(
        arms(
            CANARIES,
            CONTROLS,
            shown(
                devices,
                hours=4.0,
                windows=past,
                judged=past,
                over=alarms(own, 4.0, rng),
                log_latency=slow + noise(0.03),
            ),
            shown(
                devices,
                windows=now,
                judged=now,
                over=alarms(own, 1.0, rng, factor),
                log_latency=slow + slower + noise(0.05),
            ),
        ),
        steps_aside=is_canary & is_busy,
        # another fleet each time: a name draws the lot that thins
        devices=tuple(f"{rng.integers(1 << 40)}" for _ in range(devices)),
    )


def without_those_aside(evidence: Arms) -> Arms:
    """As it was: who put it off is in neither arm."""
    stays = evidence.runs_it | ~evidence.is_canary
    nothing = np.where(stays, evidence.after.hours, 0.0)
    silent = replace(evidence.after, hours=nothing)
    return replace(without_short_spans(replace(evidence, after=silent)), steps_aside=None)


def shares(
    metric: Metric, *, is_mended: bool = True, rollouts: int = ROLLOUTS, **harm: float
) -> tuple[float, float]:
    """Of so many rollouts, the shares that one metric stops and lets pass, at the end of the soak at 5 %."""
    rng = np.random.default_rng(7)
    plan = GatePlan(metrics=(metric,), false_stop=0.05)
    stopped = passed = 0
    for _ in range(rollouts):
        evidence = fleet(rng, **harm)
        evidence = evidence if is_mended else without_those_aside(evidence)
        answer = judge_look(evidence, plan, group=0, groups=1, number=1, of=1, is_last=True).answers[0]
        stopped += answer.finding is Finding.STOP
        passed += answer.finding is Finding.PASS
    return stopped / rollouts, passed / rollouts


@pytest.mark.parametrize("metric", ONLY)
def test_a_good_release_is_stopped_no_more_often_than_promised_whoever_puts_it_off(metric: Metric) -> None:
    assert shares(metric)[0] <= 0.065


def test_a_release_with_the_harm_that_matters_does_not_pass_because_the_busy_put_it_off() -> None:
    assert shares(Metric.ANOMALY_RATE, rate=2.0)[1] <= 0.065
    assert shares(Metric.ANOMALY_LOSS, rate=0.5)[1] <= 0.065


def test_leaving_out_who_puts_it_off_lets_harm_pass() -> None:
    assert shares(Metric.ANOMALY_RATE, is_mended=False, rate=2.0, rollouts=100)[1] > 0.1


def test_harm_is_still_seen_of_those_that_run_it() -> None:
    assert shares(Metric.LATENCY_P99, latency=1.3, rollouts=50)[0] > 0.9
    assert shares(Metric.ANOMALY_RATE, rate=5.0, rollouts=50)[0] > 0.9
